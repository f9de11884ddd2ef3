//! Pictures with captions that somebody has, in folders or in webdataset shards.
//!
//! A data set is an index: names, captions and places of pictures, read once. Pictures are read and
//! decoded when their turn comes, so that memory does not grow with them. The order in which items come
//! follows from the seed and the number of the sample alone ([`Shuffle`]), and so does which of several
//! captions is taken: the place of a run in its data is its step.

mod captions;
mod complaint;
mod fit;
mod folder;
mod item;
mod metadata;
mod order;
mod shard;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use image::RgbImage;
use rayon::prelude::*;
use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::LoadError;

pub use complaint::{Complaint, DataError, Reason};
pub use fit::{Crop, Fitting, Square};
pub use item::Item;
pub use order::Shuffle;

use complaint::Complaints;

use crate::shown::{Data, Embeddable, Items, Lesson, Numbered, Shown};

/// Turns the bytes of a picture's file into pixels. The error says what is wrong with them.
pub type Decode = dyn Fn(&[u8]) -> Result<RgbImage, String> + Send + Sync;

/// Hears of everything that is left out.
pub type Complain = dyn Fn(&Complaint) + Send + Sync;

/// How many other items are tried in the place of one that cannot be used.
const SUBSTITUTES: u64 = 100;

/// Where the pictures are, and how much of them may be unusable.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetOptions {
    /// Folders, and tar files; all of them make one data set.
    pub paths: Vec<PathBuf>,
    /// The share of items that may be unusable, from 0 to 1: pictures without captions, captions
    /// without pictures, files that cannot be read. More are an error.
    pub max_bad: f64,
    /// How pictures become squares.
    pub fitting: Fitting,
    /// Folders in these that are no data, such as that of the run.
    pub except: Vec<PathBuf>,
    /// Seed of the order, of crops, and of which caption is taken.
    pub seed: u64,
}

impl DatasetOptions {
    /// The usual share of items that may be unusable.
    pub const MAX_BAD: f64 = 0.01;

    /// One place, in an order of seed 0.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            paths: vec![path.into()],
            max_bad: Self::MAX_BAD,
            fitting: Fitting::default(),
            except: Vec::new(),
            seed: 0,
        }
    }
}

/// Pictures with captions, of which nothing but names, captions and places is in memory.
#[derive(Clone)]
pub struct Dataset {
    items: Arc<Vec<Item>>,
    complaints: Complaints,
    decode: Arc<Decode>,
    seed: u64,
    fitting: Fitting,
    max_bad: f64,
    /// Number of items of the whole set, of which this may be a part, and of those that were left out.
    whole: usize,
    fingerprint: u64,
    /// Numbers of the items whose pictures turned out to be unusable.
    unusable: Arc<Mutex<BTreeSet<usize>>>,
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset").field("items", &self.items.len()).finish_non_exhaustive()
    }
}

impl Dataset {
    /// Reads the index. `complain` hears of everything that is left out, and why.
    ///
    /// # Errors
    /// Places that cannot be read, no item at all, or more unusable ones than there may be.
    pub fn open(
        options: &DatasetOptions,
        decode: Arc<Decode>,
        complain: Arc<Complain>,
    ) -> Result<Self, DataError> {
        InvalidSetting::check_range("share of bad items", options.max_bad, 0.0, 1.0)?;
        if options.paths.is_empty() {
            return Err(
                InvalidSetting::new("data.paths", "no path", "a folder or a tar file").into()
            );
        }
        let complaints = Complaints::new(complain);
        let mut items = Vec::new();
        let except: Vec<PathBuf> =
            options.except.iter().filter_map(|path| path.canonicalize().ok()).collect();
        for path in &options.paths {
            let metadata = std::fs::metadata(path)
                .map_err(|source| LoadError::Io { path: path.clone(), source })?;
            if metadata.is_dir() {
                items.extend(folder::items(path, (&complaints, &except))?);
            } else {
                items.extend(shard::items(path, &complaints)?);
            }
        }
        let all = items.len() + complaints.count();
        complaints.check(options.max_bad, all)?;
        if items.is_empty() {
            let names = options.paths.iter().map(|path| path.display().to_string());
            let found =
                format!("{}: no picture with a caption", names.collect::<Vec<_>>().join(", "));
            return Err(InvalidSetting::new("data", found, folder::EXPECTED).into());
        }
        Ok(Self {
            fingerprint: item::fingerprint(&items),
            whole: all,
            items: Arc::new(items),
            complaints,
            decode,
            seed: options.seed,
            fitting: options.fitting,
            max_bad: options.max_bad,
            unusable: Arc::default(),
        })
    }

    /// Takes out a share of the items, from 0 to 1, chosen by their names alone, so that more items do not
    /// change the choice: what is left, and what is taken, if that is anything. Something is always left.
    #[must_use]
    pub fn split(self, share: f64) -> (Self, Option<Self>) {
        let is_taken = |item: &&Item| order::lot_of(&item.name) < share;
        let taken: Vec<Item> = self.items.iter().filter(is_taken).cloned().collect();
        if taken.is_empty() || taken.len() == self.items.len() {
            return (self, None);
        }
        let left = self.items.iter().filter(|item| !is_taken(item)).cloned().collect();
        let with = |items: Vec<Item>| Self {
            fingerprint: item::fingerprint(&items),
            items: Arc::new(items),
            unusable: Arc::default(),
            ..self.clone()
        };
        (with(left), Some(with(taken)))
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none; never true of a data set that was opened.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The items, in the order of their names.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// A number that names the index: other names, captions or lengths of files give another.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// What was left out so far.
    pub fn complaints(&self) -> usize {
        self.complaints.count()
    }

    /// The samples `first .. first + n` of an endless walk through the data, in which every item comes
    /// once before any comes again, as squares of this side. An item whose picture cannot be used is
    /// replaced by another one.
    ///
    /// # Errors
    /// More unusable items than there may be.
    pub fn samples(&self, first: u64, n: usize, side: u32) -> Result<Vec<Square>, DataError> {
        (first..first + n as u64).into_par_iter().map(|place| self.sample(place, side)).collect()
    }

    fn sample(&self, place: u64, side: u32) -> Result<Square, DataError> {
        for number in self.candidates(place) {
            match self.square(number, place, side) {
                Ok(square) => return Ok(square),
                Err(reason) => self.left_out(number.item, reason)?,
            }
        }
        Err(self.complaints.too_many(self.items.len()))
    }

    /// The item at a place of the walk, then those that stand in for it if it cannot be used: others of the
    /// same pass, and the same ones whenever the run comes here.
    fn candidates(&self, place: u64) -> impl Iterator<Item = Numbered> + '_ {
        let n = self.items.len() as u64;
        let (epoch, within) = (place / n, place % n);
        let shuffle = Shuffle::new(n, self.seed, epoch);
        (0..SUBSTITUTES.min(n)).map(move |substitute| {
            let item = shuffle.at((within + substitute) % n) as usize;
            let caption = order::choice(self.items[item].captions.len(), self.seed, place);
            Numbered { item, caption }
        })
    }

    /// An item as it is shown at a place of the walk.
    fn square(&self, number: Numbered, place: u64, side: u32) -> Result<Square, Reason> {
        let item = &self.items[number.item];
        let picture = self.picture(number.item)?;
        let caption = &item.captions[number.caption];
        let chances = (caption.as_str(), self.seed, place);
        let picture = self.fitting.square(&picture, side, chances).map_err(Reason::Picture)?;
        Ok(Square { name: item.name.clone(), number, caption: caption.clone(), picture })
    }

    /// An item with all its captions.
    fn embeddable(&self, item: usize, side: u32) -> Result<Option<Embeddable>, DataError> {
        match self.square(Numbered { item, caption: 0 }, 0, side) {
            Ok(square) => {
                let captions = self.items[item].captions.clone();
                Ok(Some(Embeddable { picture: Box::new(square), captions }))
            }
            Err(reason) => self.left_out(item, reason).map(|()| None),
        }
    }

    /// The picture of an item.
    ///
    /// # Errors
    /// Why it cannot be used.
    ///
    /// # Panics
    /// If there is no such item.
    pub fn picture(&self, number: usize) -> Result<RgbImage, Reason> {
        let bytes = self.items[number].read()?;
        (self.decode)(&bytes).map_err(Reason::Picture)
    }

    fn left_out(&self, number: usize, reason: Reason) -> Result<(), DataError> {
        let mut unusable = self.unusable.lock().unwrap_or_else(|error| error.into_inner());
        if unusable.insert(number) {
            self.complaints.add(&self.items[number].name, reason);
        }
        self.complaints.check(self.max_bad, self.whole)
    }
}

/// Items over which statistics are taken.
const STATISTICS_ITEMS: u64 = 4096;

impl Data for Dataset {
    fn batch(&self, step: u64, n: usize, side: u32, _: Lesson) -> Result<Items, DataError> {
        Ok(boxed(self.samples(step * n as u64, n, side)?))
    }

    fn typical(&self, chunk: u64, n: usize, side: u32) -> Result<Items, DataError> {
        let first = chunk * n as u64;
        let left = STATISTICS_ITEMS.min(self.len() as u64).saturating_sub(first);
        Ok(boxed(self.samples(first, left.min(n as u64) as usize, side)?))
    }

    fn items(&self) -> Option<usize> {
        Some(self.len())
    }

    fn is_fixed(&self) -> bool {
        self.fitting.crop != Crop::Random && !self.fitting.flip
    }

    fn numbered(
        &self,
        items: Range<usize>,
        side: u32,
    ) -> Result<Vec<Option<Embeddable>>, DataError> {
        items.into_par_iter().map(|item| self.embeddable(item, side)).collect()
    }

    fn numbers(
        &self,
        step: u64,
        n: usize,
        usable: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Vec<Numbered>, DataError> {
        let first = step * n as u64;
        let found = (first..first + n as u64)
            .map(|place| self.candidates(place).find(|number| usable(number.item)));
        let found: Option<Vec<Numbered>> = found.collect();
        found.ok_or_else(|| self.complaints.too_many(self.items.len()))
    }

    fn captions(&self) -> Box<dyn Iterator<Item = String> + Send + '_> {
        Box::new(self.items.iter().flat_map(|item| item.captions.iter().cloned()))
    }

    fn name(&self) -> String {
        let Fitting { crop, flip, .. } = self.fitting;
        let flipped = if flip { ", flipped" } else { "" };
        let n = self.len();
        format!("data of {n} items ({:016x}), {crop:?} crops{flipped}", self.fingerprint())
    }
}

fn boxed(squares: Vec<Square>) -> Items {
    squares.into_iter().map(|square| Box::new(square) as Box<dyn Shown>).collect()
}

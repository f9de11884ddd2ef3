//! What a network is shown: pictures with captions, wherever they come from.

use std::fmt::Debug;
use std::ops::Range;

use unclip_shapes::Region;

use crate::dataset::DataError;
use crate::draws::Draws;

/// A picture with a caption.
pub trait Shown: Send + Sync + Debug {
    /// What is said of it.
    fn caption(&self) -> &str;

    /// Draws a part of it: `[3, height, width]` in [−1, 1]. The whole picture is a square.
    ///
    /// # Panics
    /// If `out` has another length.
    fn draw(&self, part: Region, out: &mut [f32]);

    /// Draws it whole as it looks when it is shrunk from a far larger one.
    fn draw_shrunk(&self, side: u32, out: &mut [f32]) {
        self.draw(Region::whole(side), out);
    }

    /// Its number in data that have numbers.
    fn number(&self) -> Option<Numbered> {
        None
    }

    /// Where a crop of side `crop` begins in the whole picture of side `side`: column and row.
    fn corner(&self, side: u32, crop: u32, draws: &mut Draws) -> [u32; 2] {
        anywhere(side, crop, draws)
    }
}

/// Any place of a crop, each as likely.
pub(crate) fn anywhere(side: u32, crop: u32, draws: &mut Draws) -> [u32; 2] {
    let space = (side - crop) as f32;
    [(); 2].map(|()| draws.within(0.0..space + 1.0).min(space) as u32)
}

/// An item of data that have numbers, with one of its captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbered {
    /// The item.
    pub item: usize,
    /// Which of its captions.
    pub caption: usize,
}

/// A picture with all its captions.
#[derive(Debug)]
pub struct Embeddable {
    /// The picture.
    pub picture: Box<dyn Shown>,
    /// Everything that is said of it.
    pub captions: Vec<String>,
}

/// Some pictures with captions.
pub type Items = Vec<Box<dyn Shown>>;

/// What a step is to teach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lesson {
    /// To tell captions apart.
    Contrast,
    /// Anything else.
    Mixed,
}

/// What pictures and captions a model is trained on.
pub trait Data: Send + Sync + Debug {
    /// The `n` items of a step, which follow from its number alone; whole pictures are asked for at
    /// sides up to `side`.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn batch(&self, step: u64, n: usize, side: u32, lesson: Lesson) -> Result<Items, DataError>;

    /// Items over which statistics are taken, `n` at a time; none after the last ones.
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    fn typical(&self, chunk: u64, n: usize, side: u32) -> Result<Items, DataError>;

    /// Number of items, of data that end.
    fn items(&self) -> Option<usize> {
        None
    }

    /// Whether an item looks the same every time.
    fn is_fixed(&self) -> bool {
        false
    }

    /// The items of these numbers, for pictures at sides up to `side`; none in the place of one that cannot
    /// be used. Of data without numbers there are none.
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    fn numbered(&self, _: Range<usize>, _: u32) -> Result<Vec<Option<Embeddable>>, DataError> {
        Ok(Vec::new())
    }

    /// The numbers of the items of a step, pictures unseen; those that are not `usable` are replaced, as
    /// [`batch`](Self::batch) replaces them.
    ///
    /// # Errors
    /// As [`batch`](Self::batch).
    fn numbers(
        &self,
        _step: u64,
        _n: usize,
        _usable: &(dyn Fn(usize) -> bool + Sync),
    ) -> Result<Vec<Numbered>, DataError> {
        Ok(Vec::new())
    }

    /// Captions from which a vocabulary is learned.
    fn captions(&self) -> Box<dyn Iterator<Item = String> + Send + '_>;

    /// What tells it from other data: a run that is resumed with another name is refused. Empty of
    /// what never changes.
    fn name(&self) -> String;
}

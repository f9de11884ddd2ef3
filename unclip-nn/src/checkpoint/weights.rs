//! Tensors by name, from one file or several, under the names that a module knows.
//!
//! Other projects put the same weights into other files, name them differently, or fuse several
//! tensors into one. All of that is undone here, by saying which [`Part`]s of a file's tensors are
//! which of the module's tensors: nothing is copied, and the loader sees only one layout.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use rayon::prelude::*;
use safetensors::Dtype;

use super::Fnv;
use super::LoadError;
use super::weights_file::WeightsFile;

/// Named tensors, none of which is in memory.
#[derive(Debug)]
pub struct Weights {
    origin: PathBuf,
    tensors: BTreeMap<String, Entry>,
    /// How the names from each place begin, if there are several places.
    places: Vec<(String, PathBuf)>,
}

/// The part of a file's tensor that is a tensor of the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Some of its rows; all of them if absent.
    pub rows: Option<Rows>,
    /// Its shape for the module, if it differs; the number of values is the same.
    pub shape: Option<Vec<usize>>,
    /// Whether the file's matrix is transposed, compared with PyTorch's linear layers.
    pub transposed: bool,
}

/// Every `of`-th block of `block` rows, from block `index` on: one of several matrices that a file
/// keeps as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Rows of a block.
    pub block: usize,
    /// Which block of each group.
    pub index: usize,
    /// Blocks of a group.
    pub of: usize,
}

#[derive(Debug)]
struct Entry {
    file: Arc<WeightsFile>,
    key: String,
    part: Part,
    shape: Vec<usize>,
}

impl Weights {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// A file that is missing, not regular, of another kind, truncated or damaged.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        Ok(Self::of_file(path.into(), WeightsFile::open(path)?))
    }

    /// Takes a file that is part of the program. `name` stands in for its path in errors.
    ///
    /// # Errors
    /// A truncated or damaged file.
    pub fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, LoadError> {
        Ok(Self::of_file(name.into(), WeightsFile::embedded(name, bytes)?))
    }

    fn of_file(origin: PathBuf, file: WeightsFile) -> Self {
        let file = Arc::new(file);
        let entry = |key: String| {
            let shape = file.info(&key)?.0.to_vec();
            let part = Part::default();
            Some((key.clone(), Entry { file: file.clone(), key, part, shape }))
        };
        let tensors = file.keys().into_iter().filter_map(entry).collect();
        Self { origin, tensors, places: Vec::new() }
    }

    /// Joins several files; `origin` stands for all of them in errors.
    ///
    /// # Errors
    /// A name that occurs in two of them.
    pub fn join(origin: &Path, parts: impl IntoIterator<Item = Self>) -> Result<Self, LoadError> {
        let (mut tensors, mut places) = (BTreeMap::new(), Vec::new());
        let mut entries = Vec::new();
        for part in parts {
            places.extend(part.places);
            entries.extend(part.tensors);
        }
        for (key, entry) in entries {
            let file = entry.file.path().to_path_buf();
            if let Some(Entry { file: other, .. }) = tensors.insert(key.clone(), entry) {
                let message =
                    format!("{key} is in {} as well, expected once", other.path().display());
                return Err(LoadError::Header { path: file, message });
            }
        }
        Ok(Self { origin: origin.into(), tensors, places })
    }

    /// Renames every tensor. Those that `name` gives no part of are left out.
    ///
    /// # Errors
    /// A part that the tensor does not have, or a name that is given twice.
    pub fn renamed(
        self,
        name: impl Fn(&str, &[usize]) -> Vec<(String, Part)>,
    ) -> Result<Self, LoadError> {
        let mut tensors = BTreeMap::new();
        for (old, entry) in &self.tensors {
            for (new, part) in name(old, &entry.shape) {
                let damaged = |message| LoadError::Header { path: entry.path().into(), message };
                let shape = part.shape_of(&entry.shape).ok_or_else(|| {
                    damaged(format!(
                        "{old} has the shape {:?}, expected one that its layout can divide into \
                         parts",
                        entry.shape
                    ))
                })?;
                let (file, key) = (entry.file.clone(), entry.key.clone());
                if tensors.insert(new.clone(), Entry { file, key, part, shape }).is_some() {
                    return Err(damaged(format!("two tensors stand for {new}, expected one")));
                }
            }
        }
        Ok(Self { tensors, ..self })
    }

    /// The same tensors with `prefix` before their names.
    pub fn below(self, prefix: &str) -> Self {
        let tensors = self.tensors.into_iter();
        let tensors = tensors.map(|(key, entry)| (format!("{prefix}{key}"), entry)).collect();
        let places = if self.places.is_empty() {
            vec![(prefix.into(), self.origin.clone())]
        } else {
            let places = self.places.into_iter();
            places.map(|(inner, path)| (format!("{prefix}{inner}"), path)).collect()
        };
        Self { origin: self.origin, tensors, places }
    }

    /// Where a tensor lies or ought to lie, and its name there.
    pub(super) fn place<'a>(&self, key: &'a str) -> (&Path, &'a str) {
        let found = self.places.iter().find(|(prefix, _)| key.starts_with(prefix.as_str()));
        match found {
            Some((prefix, path)) => (path, &key[prefix.len()..]),
            None => (&self.origin, key),
        }
    }

    /// Where the weights lie.
    pub fn path(&self) -> &Path {
        &self.origin
    }

    /// What the header of the first file notes under a name.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.tensors.values().next()?.file.note(name)
    }

    /// Names of all tensors.
    pub fn keys(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Number of values of all tensors.
    pub fn values(&self) -> u64 {
        let values =
            |entry: &Entry| entry.shape.iter().fold(1u64, |all, &n| all.saturating_mul(n as u64));
        self.tensors.values().map(values).fold(0, u64::saturating_add)
    }

    /// Shape of a tensor, if there is one of this name.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.tensors.get(key).map(|entry| entry.shape.as_slice())
    }

    /// Number format of a tensor, if there is one of this name.
    pub fn dtype(&self, key: &str) -> Option<Dtype> {
        let entry = self.tensors.get(key)?;
        entry.file.info(&entry.key).map(|(_, dtype)| dtype)
    }

    /// A fingerprint of these weights: a hash of every tensor's name, shape, and first and last
    /// value, rounded to f16. The same weights have the same fingerprint in every layout, in f32
    /// and f16; others have another one, unless they differ only inside tensors.
    ///
    /// # Errors
    /// The file cannot be read, or holds NaN or infinite values.
    pub fn fingerprint(&self) -> Result<String, LoadError> {
        let mut hash = Fnv::default();
        for (key, entry) in &self.tensors {
            hash.add(key.as_bytes());
            entry.shape.iter().for_each(|&size| hash.add(&(size as u64).to_le_bytes()));
            // the corners of a matrix stay where they are when it is transposed
            for value in entry.corners()? {
                hash.add(&f16::from_f32(value).to_bits().to_le_bytes());
            }
        }
        Ok(hash.name())
    }

    /// Reads a floating-point tensor as f32, and checks that it is finite. `None` if there is none
    /// of this name, or if its number format is not read.
    ///
    /// # Errors
    /// The file cannot be read, or holds NaN or infinite values.
    pub fn read(&self, key: &str) -> Result<Option<Vec<f32>>, LoadError> {
        match self.tensors.get(key) {
            Some(entry) => entry.read(),
            None => Ok(None),
        }
    }

    /// Some rows of a tensor as its file has it, as [`read`](Self::read) gives all of them. `None` also
    /// if there are not so many rows.
    ///
    /// # Errors
    /// As for [`read`](Self::read).
    pub fn read_rows(&self, key: &str, rows: Range<usize>) -> Result<Option<Vec<f32>>, LoadError> {
        let Some(entry) = self.tensors.get(key) else { return Ok(None) };
        let [all, rest @ ..] = entry.shape.as_slice() else { return Ok(None) };
        if entry.part != Part::default() || rows.start > rows.end || rows.end > *all {
            return Ok(None);
        }
        let row: usize = rest.iter().product();
        let values = rows.start * row..rows.end * row;
        entry.file.read(&entry.key, std::slice::from_ref(&values))
    }
}

impl Entry {
    fn path(&self) -> &Path {
        self.file.path()
    }

    /// The first and the last value; none of a tensor that is empty or of another number format.
    fn corners(&self) -> Result<Vec<f32>, LoadError> {
        let Some((stored, _)) = self.file.info(&self.key) else {
            return Ok(Vec::new());
        };
        let ranges = self.part.ranges(stored);
        let ends = ranges.first().zip(ranges.last());
        let Some((first, last)) =
            ends.filter(|(first, last)| !first.is_empty() && !last.is_empty())
        else {
            return Ok(Vec::new());
        };
        let ends = [first.start..first.start + 1, last.end - 1..last.end];
        Ok(self.file.read(&self.key, &ends)?.unwrap_or_default())
    }

    fn read(&self) -> Result<Option<Vec<f32>>, LoadError> {
        let Some((stored, _)) = self.file.info(&self.key) else {
            return Ok(None);
        };
        let values = self.file.read(&self.key, &self.part.ranges(stored))?;
        let columns = self.shape.first().copied().unwrap_or(1);
        Ok(if self.part.transposed {
            values.map(|values| transpose(&values, columns))
        } else {
            values
        })
    }
}

impl Part {
    /// The shape of this part of a tensor, if the tensor has such a part.
    fn shape_of(&self, stored: &[usize]) -> Option<Vec<usize>> {
        let mut shape = stored.to_vec();
        if let Some(Rows { block, index, of }) = self.rows {
            let rows = shape.first_mut()?;
            let group = block.checked_mul(of).filter(|&group| group > 0 && index < of)?;
            *rows = rows.is_multiple_of(group).then(|| *rows / of)?;
        }
        if let Some(other) = &self.shape {
            let product = |shape: &[usize]| {
                shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))
            };
            shape = (product(other) == product(&shape)).then(|| other.clone())?;
        }
        if self.transposed {
            let &[rows, columns] = shape.as_slice() else {
                return None;
            };
            shape = vec![columns, rows];
        }
        Some(shape)
    }

    /// Which of a tensor's values it consists of.
    fn ranges(&self, stored: &[usize]) -> Vec<Range<usize>> {
        let row: usize = stored.iter().skip(1).product();
        let rows = stored.first().copied().unwrap_or(1);
        let Some(Rows { block, index, of }) = self.rows else {
            return std::iter::once(0..rows * row).collect();
        };
        let start = |group: usize| (group * of + index) * block * row;
        (0..rows / (block * of)).map(|group| start(group)..start(group) + block * row).collect()
    }
}

/// A matrix of `columns` columns, row by row, as its transpose.
pub(super) fn transpose(values: &[f32], columns: usize) -> Vec<f32> {
    const BLOCK: usize = 32;
    let rows = values.len() / columns.max(1);
    let mut transposed = vec![0.0; values.len()];
    let strips = transposed.par_chunks_mut((BLOCK * rows).max(1)).enumerate();
    strips.for_each(|(strip, transposed)| {
        for top in (0..rows).step_by(BLOCK) {
            for (column, to) in (strip * BLOCK..).zip(transposed.chunks_mut(rows)) {
                let from = values[top * columns + column..].iter().step_by(columns);
                to[top..].iter_mut().zip(from).take(BLOCK).for_each(|(to, from)| *to = *from);
            }
        }
    });
    transposed
}

//! What is wrong with items of a data set, and how much of it is too much.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use thiserror::Error;
use unclip_core::{InvalidSetting, Printable};
use unclip_nn::checkpoint::LoadError;

/// Names that an error lists.
const NAMED: usize = 5;

/// Something that is left out of a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Its name there: a path, in a shard that of the entry after that of the file.
    pub name: String,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Printable(&self.name), self.reason)
    }
}

/// Why something is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A picture that nothing is said of.
    NoCaption,
    /// A caption without a picture.
    NoPicture,
    /// A caption of no word.
    EmptyCaption,
    /// A text that cannot be read, with the reason.
    Caption(String),
    /// A picture that cannot be read, with the reason.
    Picture(String),
    /// A shard whose end is missing, with the reason.
    Shard(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCaption => f.write_str("a picture without a caption"),
            Self::NoPicture => f.write_str("a caption without a picture"),
            Self::EmptyCaption => f.write_str("an empty caption"),
            Self::Caption(why) => write!(f, "its caption cannot be read: {}", Printable(why)),
            Self::Picture(why) => write!(f, "its picture cannot be read: {}", Printable(why)),
            Self::Shard(why) => {
                write!(f, "the rest of the shard cannot be read: {}", Printable(why))
            }
        }
    }
}

/// Why a data set cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A setting, or what stands in a list of captions.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// More unusable items than there may be.
    #[error(
        "{found} of {all} items of the data cannot be used, expected at most {most}: {first}; \
         repair them, or allow more (data.max_bad)"
    )]
    TooMany {
        /// How many.
        found: usize,
        /// Of how many.
        all: usize,
        /// How many there may be.
        most: usize,
        /// The first of them, with reasons.
        first: String,
    },
}

/// What was left out so far; clones count together.
#[derive(Clone)]
pub(super) struct Complaints {
    count: Arc<AtomicUsize>,
    first: Arc<Mutex<Vec<String>>>,
    hears: Arc<dyn Fn(&Complaint) + Send + Sync>,
}

impl Complaints {
    pub(super) fn new(hears: Arc<dyn Fn(&Complaint) + Send + Sync>) -> Self {
        Self { count: Arc::default(), first: Arc::default(), hears }
    }

    pub(super) fn add(&self, name: impl Into<String>, reason: Reason) {
        let complaint = Complaint { name: name.into(), reason };
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first.lock().unwrap_or_else(|error| error.into_inner());
        if first.len() < NAMED {
            first.push(complaint.to_string());
        }
        drop(first);
        (self.hears)(&complaint);
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Refuses more than this share of so many items. One is always allowed, unless none is.
    pub(super) fn check(&self, share: f64, all: usize) -> Result<(), DataError> {
        let least = if share > 0.0 { 1 } else { 0 };
        let most = ((share * all as f64) as usize).max(least);
        if self.count() <= most { Ok(()) } else { Err(self.refused(all, most)) }
    }

    /// The error for a data set of which nothing can be used.
    pub(super) fn too_many(&self, all: usize) -> DataError {
        self.refused(all, 0)
    }

    fn refused(&self, all: usize, most: usize) -> DataError {
        let first = self.first.lock().unwrap_or_else(|error| error.into_inner());
        let mut named = first.join("; ");
        if self.count() > first.len() {
            named.push_str("; …");
        }
        DataError::TooMany { found: self.count(), all, most, first: named }
    }
}

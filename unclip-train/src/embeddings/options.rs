//! Where embeddings are, and how they are divided.

use std::ops::Range;
use std::path::{Path, PathBuf};

use unclip_core::InvalidSetting;

use super::shard::Origin;
use crate::settings::check_share;
use crate::shown::Data;

/// Where embeddings go, and who makes which of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingsOptions {
    /// Folder of the shards.
    pub folder: PathBuf,
    /// Items of a shard.
    pub per_shard: usize,
    /// Which of how many machines this is: shards are divided among them without a word, since each
    /// takes every n-th.
    pub share: (usize, usize),
}

impl EmbeddingsOptions {
    /// All shards of a data set, by number.
    pub(super) fn places(&self, data: &dyn Data) -> Result<Vec<(usize, usize)>, InvalidSetting> {
        if self.per_shard == 0 || self.per_shard > 1 << 20 {
            let expected = format!("1 to {}", 1 << 20);
            return Err(InvalidSetting::new("embeddings.per_shard", self.per_shard, expected));
        }
        check_share(self.share)?;
        let Some(n) = data.items() else {
            let expected = "data that end: pictures in folders or in shards";
            return Err(InvalidSetting::new("embeddings", "of endless data", expected));
        };
        let of = n.div_ceil(self.per_shard);
        Ok((0..of).map(|index| (index, of)).collect())
    }

    /// The items of a shard.
    pub(super) fn items_of(&self, shard: usize, data: &dyn Data) -> Range<usize> {
        let n = data.items().unwrap_or(0);
        shard * self.per_shard..n.min((shard + 1) * self.per_shard)
    }
}

/// The shards that are not there.
pub(super) fn missing(folder: &Path, origins: impl Iterator<Item = Origin>) -> Vec<Origin> {
    origins.filter(|origin| !origin.path(folder).exists()).collect()
}

//! What can go wrong in training.

use std::path::PathBuf;

use unclip_clip::TokenizerError;
use unclip_core::{InvalidSetting, Printable};
use unclip_nn::checkpoint::LoadError;

use crate::dataset::DataError;

/// Training cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A model file cannot be read or written.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The tokenizer cannot be made or read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// A checkpoint of an interrupted run cannot be used.
    #[error("{}: {}", Printable(path.display()), Printable(message))]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        message: String,
    },
    /// Too many steps in a row gave no finite loss or gradient.
    #[error(
        "diverged: {skipped} steps in a row were not finite at step {step}; the last checkpoint is of \
         before: resume with a lower learning rate"
    )]
    Diverged {
        /// Where training stopped.
        step: u64,
        /// How many steps in a row were skipped.
        skipped: u64,
    },
}

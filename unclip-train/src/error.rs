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
    /// Too many steps in a row gave no finite loss or gradient, or the last ones of a run.
    #[error(
        "diverged: the loss or a gradient of the last {skipped} steps, up to {step}, was not finite; {}",
        from(*checkpoint)
    )]
    Diverged {
        /// Where training stopped.
        step: u64,
        /// How many steps in a row were skipped.
        skipped: u64,
        /// The step of the checkpoint in force, if there is one.
        checkpoint: Option<u64>,
    },
    /// A step was taken after which weights are infinite or not numbers.
    #[error("diverged: weights are not finite after step {step}; {}", from(*checkpoint))]
    WeightsNotFinite {
        /// Where training stopped.
        step: u64,
        /// The step of the checkpoint in force, if there is one.
        checkpoint: Option<u64>,
    },
}

/// Where to go on after a training has diverged.
fn from(checkpoint: Option<u64>) -> String {
    match checkpoint {
        Some(step) => {
            format!("resume from the checkpoint of step {step} with a lower learning rate")
        }
        None => "there is no checkpoint yet: start again with a lower learning rate".into(),
    }
}

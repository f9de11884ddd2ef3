//! Errors in a tokenizer's files.

use std::path::{Path, PathBuf};

use unclip_core::Printable;
use unclip_nn::checkpoint::LoadError;

/// A tokenizer file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A file can be read but not used.
    #[error("{}: {}", Printable(path.display()), Printable(message))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        message: String,
    },
}

impl TokenizerError {
    /// The same of another file.
    pub(crate) fn at(self, file: &Path) -> Self {
        match self {
            Self::Invalid { message, .. } => Self::Invalid { path: file.into(), message },
            other @ Self::Load(_) => other,
        }
    }
}

//! The priors: which there are, what a run needs to know of each, and how each draws.

mod choice;
mod drawing;
mod gallery;

pub(crate) use choice::PriorRequest;
pub use choice::{ArSettings, PriorKind, PriorSettings, RetrievalSettings};
pub(crate) use drawing::{check_share, no_negative, share_of, starting};
pub use gallery::Gallery;

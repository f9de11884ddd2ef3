//! The priors of unCLIP: from CLIP's embedding of a caption to an embedding that CLIP might give a
//! picture of it (paper, section 2.2).
//!
//! [`DiffusionPrior`] is the diffusion prior as Karlo lays it out, or that of DALLE2-pytorch. Binding a caption gives a
//! [`Network`](unclip_core::Network), which the samplers of `unclip-core` walk; the sample is
//! *whitened*, and [`DiffusionPrior::restore`] brings it back to CLIP's space.
//!
//! [`ArPrior`] is the autoregressive prior, of which nothing but the paper was ever published. It
//! writes an embedding as a string of codes, [`Codebook`], one for each principal component.

mod autoregressive;
mod codes;
mod config;
mod diffusion;
mod karlo;
mod laion;
mod sequence;
mod writing;

pub use autoregressive::ArPrior;
pub use codes::Codebook;
pub use config::{ArPriorConfig, DiffusionPriorConfig, LaionPriorConfig};
pub use diffusion::DiffusionPrior;
pub use karlo::KarloPrior;
pub use laion::LaionPrior;
pub use writing::BoundArPrior;

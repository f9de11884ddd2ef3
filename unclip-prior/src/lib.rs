//! The prior of unCLIP: from CLIP's embedding of a caption to an embedding that CLIP might give a
//! picture of it.
//!
//! [`DiffusionPrior`] is the diffusion prior of the paper (section 2.2) as Karlo lays it out.
//! Binding a caption gives a [`Network`](unclip_core::Network), which the samplers of
//! `unclip-core` walk; the sample is *whitened*, and [`DiffusionPrior::restore`] brings it back to
//! CLIP's space.

mod config;
mod diffusion;

pub use config::DiffusionPriorConfig;
pub use diffusion::DiffusionPrior;

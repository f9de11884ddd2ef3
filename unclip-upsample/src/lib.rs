//! The upsamplers of unCLIP: a small picture to a large one, in as many stages as you like.
//!
//! An [`Upsampler`] sees nothing but the small picture, resized and concatenated to the noised
//! large one. [`degrade`] is what training does to the small pictures.

mod config;
pub mod degrade;
mod upsampler;

pub use config::UpsamplerConfig;
pub use upsampler::Upsampler;

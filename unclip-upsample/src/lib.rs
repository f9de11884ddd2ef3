//! The upsamplers of unCLIP: a small picture to a large one, in as many stages as you like.
//!
//! An [`Upsampler`] of the paper sees nothing but the small picture, resized and concatenated to the
//! noised large one; GLIDE's read the caption as well ([`LowRes`]). [`degrade`] is what training does to the small pictures.

mod config;
pub mod degrade;
mod low_res;
mod upsampler;

pub use config::{Resize, Rounding, UpsamplerConfig};
pub use low_res::LowRes;
pub use upsampler::Upsampler;

//! The decoder of unCLIP: from an image embedding, and the caption, to a small picture.
//!
//! The image embedding enters twice, added to the timestep embedding and as extra context tokens;
//! the caption enters as context tokens and, pooled, beside the image embedding (paper, section
//! 2.1, as Karlo lays it out). Binding a [`Condition`] gives a
//! [`Network`](unclip_core::Network), which the samplers of `unclip-core` walk.

mod condition;
mod config;
mod decoder;

pub use condition::{Bound, Condition, Conditioner, Null};
pub use config::{DecoderConfig, LayoutConfig};
pub use decoder::Decoder;

//! The decoder of unCLIP: from an image embedding, and the caption, to a small picture.
//!
//! The image embedding enters twice, added to the timestep embedding and as extra context tokens;
//! the caption enters as context tokens and, pooled, beside the image embedding (paper, section
//! 2.1, as Karlo lays it out). Kandinsky 2.2's decoder reads no caption; Stable
//! unCLIP's reads embeddings with noise. Binding a [`Condition`] gives a
//! [`Network`](unclip_core::Network), which the samplers of `unclip-core` walk.

mod caption_and_image;
mod condition;
mod conditioner;
mod config;
mod decoder;
mod image_alone;
mod noised_image;

pub use caption_and_image::CaptionAndImage;
pub use condition::{Bound, Condition, ImageNoise, Null};
pub use conditioner::Conditioner;
pub use config::{Augmentation, Control, DecoderConfig, LayoutConfig};
pub use decoder::Decoder;
pub use image_alone::ImageAlone;
pub use noised_image::NoisedImage;

//! The decoder of unCLIP: from an image embedding, and the caption, to a small picture.
//!
//! The image embedding enters twice, added to the timestep embedding and as extra context tokens;
//! the caption enters as context tokens and, pooled, beside the image embedding (paper, section
//! 2.1, as Karlo lays it out). Kandinsky 2.1's decoder reads captions by a text tower of its own,
//! that of Kandinsky 2.2 reads none; Stable unCLIP's reads embeddings with noise; GLIDE's reads nothing
//! but captions, ADM's the number of a class, to which a [`Classifier`] guides it. Binding a [`Condition`] gives a
//! [`Network`](unclip_core::Network), which the samplers of `unclip-core` walk.

mod caption_alone;
mod caption_and_image;
mod class_alone;
mod classifier;
mod condition;
mod conditioner;
mod config;
mod decoder;
mod image_alone;
mod noised_image;
mod replaced_caption;
mod whole_caption;

pub use caption_alone::CaptionAlone;
pub use caption_and_image::CaptionAndImage;
pub use class_alone::ClassAlone;
pub use classifier::{Classifier, ClassifierConfig};
pub use condition::{Bound, Condition, ImageNoise, Null};
pub use conditioner::Conditioner;
pub use config::{Augmentation, CaptionKind, Control, DecoderConfig, LayoutConfig};
pub use decoder::Decoder;
pub use image_alone::ImageAlone;
pub use noised_image::NoisedImage;
pub use replaced_caption::ReplacedCaption;
pub use whole_caption::WholeCaption;

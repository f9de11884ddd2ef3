//! CLIP: captions and pictures as points of one space.
//!
//! A [`Tokenizer`] turns captions into [`Tokens`], a [`TextEncoder`] those into a
//! [`TextEmbedding`](unclip_core::TextEmbedding); [`preprocess`] and an [`ImageEncoder`] turn
//! pictures into an [`ImageEmbedding`](unclip_core::ImageEmbedding). Neither result is normalized:
//! the networks that read them were trained on them as they are.
//!
//! Source: *Learning Transferable Visual Models From Natural Language Supervision*
//! (Radford et al. 2021).

mod config;
mod error;
pub mod loss;
mod noised;
mod preprocess;
mod text;
mod tokenizer;
mod tokenizer_json;
mod tokens;
mod vision;

pub use config::{Fit, ImageEncoderConfig, TextEncoderConfig};
pub use error::TokenizerError;
pub use noised::{NoisedImageEncoder, NoisedImageEncoderConfig};
pub use preprocess::{fitted, preprocess, standardize};
pub use text::TextEncoder;
pub use tokenizer::{Padding, Tokenizer, TokenizerOptions, vocabulary_files};
pub use tokens::Tokens;
pub use vision::ImageEncoder;

//! CLIP: captions and pictures as points of one space.
//!
//! A [`Tokenizer`] turns captions into [`Tokens`], a [`TextEncoder`] those into a
//! [`TextEmbedding`](unclip_core::TextEmbedding); [`preprocess`] and an [`ImageEncoder`] turn
//! pictures into an [`ImageEmbedding`](unclip_core::ImageEmbedding). Neither result is normalized:
//! the networks that read them were trained on them as they are.
//!
//! Captions of other languages are read by M-CLIP's tower ([`MultilingualText`]) and its tokenizer
//! of pieces. GLIDE's tower ([`GlideText`]) reads captions for GLIDE's own networks, not into CLIP's
//! space.
//!
//! Source: *Learning Transferable Visual Models From Natural Language Supervision*
//! (Radford et al. 2021).

mod bpe;
mod charsmap;
mod config;
mod error;
mod glide;
mod gpt2;
pub mod loss;
mod multilingual;
mod noised;
mod preprocess;
mod text;
mod tokenizer;
mod tokenizer_json;
mod tokens;
mod unigram;
mod vision;

pub use bpe::CaptionWords;
pub use config::{Fit, ImageEncoderConfig, TextEncoderConfig, TextTower};
pub use error::TokenizerError;
pub use glide::GlideText;
pub use multilingual::MultilingualText;
pub use noised::{NoisedImageEncoder, NoisedImageEncoderConfig};
pub use preprocess::{fitted, preprocess, standardize};
pub use text::{ClipText, TextEncoder};
pub use tokenizer::{Padding, Tokenizer, TokenizerOptions, is_of_pieces, vocabulary_files};
pub use tokens::Tokens;
pub use vision::ImageEncoder;

//! What a decoder is conditioned on, and what it becomes.

use burn::tensor::Tensor;
use unclip_core::{ImageEmbedding, TextEmbedding};
use unclip_nn::Context;

/// What the user gives: one image embedding and one caption for each picture.
#[derive(Debug, Clone)]
pub struct Condition {
    /// What the picture shows, `[batch, d_embedding]`.
    pub image: ImageEmbedding,
    /// The caption, which the picture follows where the embedding leaves things open. A decoder that
    /// reads no captions ignores it.
    pub text: TextEmbedding,
}

impl Condition {
    /// Concatenates several batches.
    #[must_use]
    pub fn cat(parts: &[&Self]) -> Self {
        Self {
            image: ImageEmbedding::cat(parts.iter().map(|part| part.image.clone()).collect()),
            text: TextEmbedding::cat(parts.iter().map(|part| part.text.clone()).collect()),
        }
    }
}

/// What guidance leads away from.
#[derive(Debug, Clone)]
pub struct Null {
    /// The negative captions, one for each picture.
    pub text: TextEmbedding,
    /// What the picture should not look like, one for each picture; the learned embedding that
    /// stands for no picture if absent.
    pub image: Option<ImageEmbedding>,
}

impl From<TextEmbedding> for Null {
    fn from(text: TextEmbedding) -> Self {
        Self { text, image: None }
    }
}

/// A condition in the U-Net's terms.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Addition to the timestep embedding, `[batch, d_embedding of the U-Net]`.
    pub emb: Tensor<2>,
    /// Image tokens, then text tokens.
    pub context: Context,
    /// Channels that are concatenated to x_t, `[batch, channels, image_size, image_size]`, if there
    /// is a layout.
    pub layout: Option<Tensor<4>>,
}

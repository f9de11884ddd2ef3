//! What an upsampler is conditioned on.

use burn::tensor::Tensor;
use unclip_core::{NarrowRows, TextEmbedding};

/// A small picture, and what else an upsampler may read.
#[derive(Debug, Clone)]
pub struct LowRes {
    /// The small pictures, `[batch, 3, height, width]` in [−1, 1].
    pub picture: Tensor<4>,
    /// The captions, of an upsampler that reads them. One that does not ignores them.
    pub text: Option<TextEmbedding>,
    /// The class of each picture, of an upsampler that is told it. Others ignore it.
    pub classes: Option<Vec<usize>>,
    /// What stays as it is of the large pictures, and a channel of 1 where that is, 0 elsewhere:
    /// `[batch, 4, height, width]`. An upsampler that is not told ignores it; to one that is,
    /// absence says that nothing is kept.
    pub kept: Option<Tensor<4>>,
}

impl From<Tensor<4>> for LowRes {
    fn from(picture: Tensor<4>) -> Self {
        Self { picture, text: None, classes: None, kept: None }
    }
}

impl NarrowRows for LowRes {
    fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            picture: self.picture.clone().narrow(0, start, len),
            text: self.text.as_ref().map(|text| text.narrow(start, len)),
            classes: self.classes.as_ref().map(|all| all[start..start + len].to_vec()),
            kept: self.kept.as_ref().map(|kept| kept.clone().narrow(0, start, len)),
        }
    }
}

/// What is known, and where.
pub(crate) fn known_of(kept: &Tensor<4>) -> (Tensor<4>, Tensor<4>) {
    let channels = kept.dims()[1] - 1;
    (kept.clone().narrow(1, 0, channels), kept.clone().narrow(1, channels, 1))
}

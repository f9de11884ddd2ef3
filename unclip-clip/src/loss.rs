//! The training loss of CLIP.

use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};
use unclip_core::normalize;

/// Largest logarithm of the inverse temperature, ln 100 (Radford et al. 2021). Training keeps the
/// parameter itself below it: if only the loss clamped it, a parameter beyond would have no
/// gradient and never come back.
pub const MAX_LOGIT_SCALE: f64 = 4.605_170_185_988_092;

/// Symmetric cross-entropy over all pairs of a batch: each picture must find its caption among all
/// captions, and each caption its picture.
///
/// # Shapes
/// - `image`, `text`: `[batch, d_embedding]`, row k of one belonging to row k of the other
/// - `logit_scale`: `[1]`, the logarithm of the inverse temperature, in [0, [`MAX_LOGIT_SCALE`]]
/// - result: `[1]`
pub fn contrastive_loss(image: Tensor<2>, text: Tensor<2>, logit_scale: Tensor<1>) -> Tensor<1> {
    let scale = logit_scale.exp().unsqueeze::<2>();
    let logits = normalize(image).matmul(normalize(text).transpose()) * scale;
    (diagonal_cross_entropy(logits.clone()) + diagonal_cross_entropy(logits.transpose())) * 0.5
}

/// Cross-entropy of finding the caption of each noised picture among those of a batch, by the answers
/// of a [`NoisedImageEncoder`](crate::NoisedImageEncoder).
///
/// # Shapes
/// - `image`, `text`: `[batch, d_embedding]`, row k of one belonging to row k of the other
/// - result: `[1]`
pub fn odds_loss(image: Tensor<2>, text: Tensor<2>) -> Tensor<1> {
    diagonal_cross_entropy(image.matmul(normalize(text).transpose()))
}

/// Mean over rows of −log softmax at the diagonal.
fn diagonal_cross_entropy(logits: Tensor<2>) -> Tensor<1> {
    let [batch, _] = logits.dims();
    let right = Tensor::<1, Int>::arange(0..batch as i64, &logits.device()).reshape([batch, 1]);
    log_softmax(logits, 1).gather(1, right).mean() * -1.0
}

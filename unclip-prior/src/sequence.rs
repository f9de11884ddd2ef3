//! What the tokens of a prior's sequence must not look at.

use burn::tensor::{Bool, Tensor};
use unclip_nn::causal_mask;

/// The future, and the padding of the text with which the sequence begins:
/// `[batch, 1, seq, seq]`, true where a token must not look.
///
/// # Shapes
/// - `mask`: `[batch, text]`, true for tokens of the caption
pub(crate) fn hidden(mask: &Tensor<2, Bool>, seq: usize) -> Tensor<4, Bool> {
    let [batch, text] = mask.dims();
    let device = mask.device();
    let extra = Tensor::zeros([batch, seq - text], &device);
    let padding = Tensor::cat(vec![mask.clone().bool_not().int(), extra], 1).equal_elem(1);
    let padding = padding.reshape([batch, 1, 1, seq]).expand([batch, 1, seq, seq]);
    let future = causal_mask(seq, &device).expand([batch, 1, seq, seq]);
    padding.bool_or(future)
}

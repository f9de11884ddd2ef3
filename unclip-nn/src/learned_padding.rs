//! Learned tokens in the place of padding.

use burn::tensor::{Bool, Tensor};

/// Captions' tokens, with a learned one for each position that has none (DALLE2-pytorch). What does not
/// fit is cut off.
///
/// # Shapes
/// - `learned`: `[1, positions, width]`
/// - `tokens`: `[batch, seq, width]`
/// - `mask`: `[batch, seq]`, true for tokens of the caption
/// - result: `[batch, positions, width]`
pub fn with_learned_padding(
    learned: Tensor<3>,
    tokens: Tensor<3>,
    mask: &Tensor<2, Bool>,
) -> Tensor<3> {
    let [_, positions, width] = learned.dims();
    let [batch, seq, _] = tokens.dims();
    let read = seq.min(positions);
    let is_token = mask.clone().narrow(1, 0, read).unsqueeze_dim::<3>(2);
    let is_token = is_token.expand([batch, read, width]);
    let first = learned.clone().narrow(1, 0, read).expand([batch, read, width]);
    let first = first.mask_where(is_token, tokens.narrow(1, 0, read));
    if read == positions {
        return first;
    }
    let rest = learned.narrow(1, read, positions - read);
    Tensor::cat(vec![first, rest.expand([batch, positions - read, width])], 1)
}

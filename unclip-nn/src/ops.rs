//! The operations that dominate a U-Net, in one place, so that each has one implementation to
//! make fast.

use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

/// A convolution by a layer made with [`conv3x3`] or [`conv1x1`].
pub fn conv(layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    layer.forward(x)
}

/// Group normalization, an optional `x·(1 + scale) + shift` with one value per image and channel,
/// then SiLU.
///
/// # Shapes
/// - `x`, result: `[batch, channels, height, width]`
/// - `scale`, `shift`: `[batch, channels]`
pub fn group_norm_silu(
    norm: &GroupNorm,
    x: Tensor<4>,
    scale_shift: Option<(Tensor<2>, Tensor<2>)>,
) -> Tensor<4> {
    let x = norm.forward(x);
    let x = match scale_shift {
        None => x,
        Some((scale, shift)) => {
            let per_channel = |v: Tensor<2>| -> Tensor<4> {
                let [batch, channels] = v.dims();
                v.reshape([batch, channels, 1, 1])
            };
            x * (per_channel(scale) + 1.0) + per_channel(shift)
        }
    };
    silu(x)
}

//! The operations that dominate, in one place: by a kernel of this crate where there is one for
//! the tensor's device and number format, by burn's own operations everywhere else.

use burn::module::Param;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, Linear};
#[cfg(feature = "flex")]
use burn::tensor::Device;
use burn::tensor::module;
use burn::tensor::{DType, Tensor, activation};

#[cfg(feature = "flex")]
use crate::fused;

/// A layer's weight in the number format in which the layer works: its own, but f32 on the
/// processor, which has no 16-bit arithmetic.
pub fn working<const D: usize>(weight: &Param<Tensor<D>>) -> Tensor<D> {
    let weight = weight.val();
    #[cfg(feature = "flex")]
    if weight.device() == Device::flex() {
        return fused::widen(weight);
    }
    weight
}

/// A convolution, in the number format of its weight.
///
/// # Shapes
/// - `x`: `[batch, channels_in, height, width]`
pub fn conv(layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let is_1x1 = layer.kernel_size == [1, 1] && layer.stride == [1, 1];
    #[cfg(feature = "flex")]
    if let (true, Some(bias)) = (fused::is_fused(&x), &layer.bias) {
        let (weight, bias) = (working(&layer.weight), working(bias));
        if is_1x1 {
            return fused::conv1x1(x, weight, bias);
        }
        if is_plain_3x3(layer) {
            return fused::conv3x3(x, weight, bias);
        }
    }
    let x = x.cast(layer.weight.val().dtype());
    if is_1x1 { conv1x1(layer, x) } else { layer.forward(x) }
}

#[cfg(feature = "flex")]
fn is_plain_3x3(layer: &Conv2d) -> bool {
    use burn::nn::PaddingConfig2d::Explicit;
    layer.kernel_size == [3, 3]
        && layer.stride == [1, 1]
        && layer.dilation == [1, 1]
        && layer.groups == 1
        && matches!(layer.padding, Explicit(1, 1, 1, 1))
}

/// A 1 x 1 convolution is a matrix product, and some GPU kernels for it are wrong (cubek#519).
fn conv1x1(layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let [batch, channels_in, height, width] = x.dims();
    let weight = layer.weight.val();
    let channels_out = weight.dims()[0];
    let weight = weight.reshape([1, channels_out, channels_in]);
    let y = weight.matmul(x.reshape([batch, channels_in, height * width]));
    let y = match &layer.bias {
        Some(bias) => y + bias.val().reshape([1, channels_out, 1]),
        None => y,
    };
    y.reshape([batch, channels_out, height, width])
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
    #[cfg(feature = "flex")]
    if let (true, Some(gamma), Some(beta)) = (fused::is_fused(&x), &norm.gamma, &norm.beta) {
        return fused::group_norm(kernel(norm, true), x, gamma.val(), beta.val(), scale_shift);
    }
    let dtype = x.dtype();
    let x = plain_group_norm(norm, x.cast(DType::F32));
    let x = match scale_shift {
        None => x,
        Some((scale, shift)) => {
            let per_channel = |v: Tensor<2>| -> Tensor<4> {
                let [batch, channels] = v.dims();
                v.cast(DType::F32).reshape([batch, channels, 1, 1])
            };
            x * (per_channel(scale) + 1.0) + per_channel(shift)
        }
    };
    activation::silu(x).cast(dtype)
}

/// Group normalization of f32 by burn's operations. Means are taken over the picture's rows first: GPU
/// kernels reduce one dimension in one loop, and that of a whole large picture is longer than
/// Mesa's software Vulkan allows (it stops after 65,535 rounds, without a word).
fn plain_group_norm(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let in_group = channels / norm.num_groups * height;
    let mean = |x: Tensor<3>| x.mean_dim(2).mean_dim(1);
    let x = x.reshape([batch * norm.num_groups, in_group, width]);
    let x = x.clone() - mean(x);
    let variance = mean(x.clone() * x.clone());
    let x = (x / (variance + norm.epsilon).sqrt()).reshape([batch, channels, height, width]);
    let per_channel = |v: &Param<Tensor<1>>| v.val().reshape([1, channels, 1, 1]);
    let x = match &norm.gamma {
        Some(gamma) => x * per_channel(gamma),
        None => x,
    };
    match &norm.beta {
        Some(beta) => x + per_channel(beta),
        None => x,
    }
}

/// Group normalization alone: `[batch, channels, height, width]`.
pub fn group_norm(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let (true, Some(gamma), Some(beta)) = (fused::is_fused(&x), &norm.gamma, &norm.beta) {
        return fused::group_norm(kernel(norm, false), x, gamma.val(), beta.val(), None);
    }
    let dtype = x.dtype();
    plain_group_norm(norm, x.cast(DType::F32)).cast(dtype)
}

#[cfg(feature = "flex")]
fn kernel(norm: &GroupNorm, silu: bool) -> fused::GroupNorm {
    fused::GroupNorm { groups: norm.num_groups, eps: norm.epsilon as f32, silu }
}

/// A linear layer over the last dimension, in the number format of its weight. It is one matrix
/// product over all rows: its gradient is then one product as well, where burn's own would make one
/// for each item of the batch.
pub fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    let weight = working(&layer.weight);
    let mut shape = x.dims();
    let rows = shape[..D - 1].iter().product();
    let x = x.cast(weight.dtype()).reshape([rows, shape[D - 1]]);
    shape[D - 1] = weight.dims()[1];
    module::linear::<2>(x, weight, layer.bias.as_ref().map(working)).reshape(shape)
}

/// x·σ(x).
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if fused::is_fused(&x) {
        return fused::pointwise(fused::Pointwise::Silu, x);
    }
    activation::silu(x)
}

/// Exact (erf) GELU.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if fused::is_fused(&x) {
        return fused::pointwise(fused::Pointwise::Gelu, x);
    }
    activation::gelu(x)
}

/// x·σ(1.702·x), the cheap GELU of OpenAI's CLIP.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const SLOPE: f64 = 1.702;
    silu(x * SLOPE) / SLOPE
}

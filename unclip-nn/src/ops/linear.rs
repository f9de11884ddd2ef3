//! Linear layers, and the number format in which layers compute.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Tensor, module};

#[cfg(feature = "flex")]
use crate::{fused, is_cpu};

/// A layer's weight in the number format in which the layer computes: its own, or f32 on the CPU,
/// which has no 16-bit arithmetic.
pub fn working<const D: usize>(weight: &Param<Tensor<D>>) -> Tensor<D> {
    let weight = weight.val();
    #[cfg(feature = "flex")]
    if is_cpu(&weight.device()) {
        return fused::widen(weight);
    }
    weight
}

/// A linear layer over the last dimension, in the number format of its weight. It is one matrix
/// product over all rows, so that its gradient is one product too; burn's own would compute one for
/// each item of the batch.
///
/// # Shapes
/// - `x`: `[.., d_in]`
/// - result: `[.., d_out]`
pub fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    let weight = working(&layer.weight);
    let mut shape = x.dims();
    let rows = shape[..D - 1].iter().product();
    let x = x.cast(weight.dtype()).reshape([rows, shape[D - 1]]);
    shape[D - 1] = weight.dims()[1];
    module::linear::<2>(x, weight, layer.bias.as_ref().map(working)).reshape(shape)
}

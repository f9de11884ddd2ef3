//! Layer normalization.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::ops;

/// Normalization over the last dimension, with a learned factor and offset.
///
/// It computes in f32, whatever the number format of its input and output. burn's own hides its
/// epsilon, which the kernel needs.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// The factor, `[width]`.
    pub gamma: Param<Tensor<1>>,
    /// The offset, `[width]`.
    pub beta: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm {
    /// PyTorch's default.
    pub const EPSILON: f64 = 1e-5;

    /// A norm of rows of `width` values, with factor 1 and offset 0.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        let gamma = Initializer::Ones.init([width], device);
        Self { gamma, beta: Initializer::Zeros.init([width], device), epsilon }
    }

    /// Normalizes every row.
    ///
    /// # Shapes
    /// - `x`, result: `[.., width]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon)
    }
}

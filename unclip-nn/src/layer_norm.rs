//! Layer normalization.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Tensor};

#[cfg(feature = "flex")]
use crate::fused;

/// Normalization over the last dimension, with a learned factor and offset.
///
/// It computes in f32, whatever the number format of its input and output. burn's own keeps its
/// epsilon to itself, which the kernel needs to know.
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

    /// A norm of rows of `width` values that leaves their scale as it is.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        let gamma = Initializer::Ones.init([width], device);
        Self { gamma, beta: Initializer::Zeros.init([width], device), epsilon }
    }

    /// # Shapes
    /// - `x`, result: `[.., width]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        #[cfg(feature = "flex")]
        if fused::is_fused(&x) {
            let op = fused::LayerNorm { eps: self.epsilon as f32 };
            return fused::layer_norm(op, x, gamma, beta);
        }
        let dtype = x.dtype();
        let x = x.cast(DType::F32);
        burn::tensor::module::layer_norm(x, gamma, Some(beta), self.epsilon).cast(dtype)
    }
}

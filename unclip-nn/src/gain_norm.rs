//! Layer normalization without an offset.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use crate::{LayerNorm, ops};

/// Normalization over the last dimension, with a learned factor alone (DALLE2-pytorch).
#[derive(Module, Debug)]
pub struct GainNorm {
    g: Param<Tensor<1>>,
    stable: bool,
}

impl GainNorm {
    /// A norm of rows of `width` values, with factor 1.
    pub fn new(width: usize, device: &Device) -> Self {
        Self { g: Initializer::Ones.init([width], device), stable: false }
    }

    /// The same, of rows that are divided by their largest value first: not by the largest magnitude,
    /// so that rows whose largest value is negative change their sign.
    #[must_use]
    pub fn stable(self) -> Self {
        Self { stable: true, ..self }
    }

    /// Normalizes every row.
    ///
    /// # Shapes
    /// - `x`, result: `[.., width]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let x = if self.stable { x.clone() / x.max_dim(D - 1).detach() } else { x };
        let gain = self.g.val();
        let offset = gain.zeros_like();
        ops::layer_norm(x, gain, offset, LayerNorm::EPSILON)
    }

    /// Normalizes the channels of every pixel: `[batch, width, height, width of the picture]`.
    pub fn forward_channels(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward(x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
    }
}

//! Elementwise functions.

use burn::tensor::{Tensor, activation};

#[cfg(feature = "flex")]
use crate::fused;

/// x·σ(x).
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if fused::is_fused(&x) {
        return fused::unary(kernel::Pointwise::Silu, x);
    }
    activation::silu(x)
}

/// Exact (erf) GELU.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if fused::is_fused(&x) {
        return fused::unary(kernel::Pointwise::Gelu, x);
    }
    activation::gelu(x)
}

/// x·σ(1.702·x), the cheap GELU of OpenAI's CLIP.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    const SLOPE: f64 = 1.702;
    silu(x * SLOPE) / SLOPE
}

#[cfg(feature = "flex")]
mod kernel {
    use burn::tensor::Shape;

    use crate::fused::Op;

    #[derive(Debug)]
    pub(super) enum Pointwise {
        Silu,
        Gelu,
    }

    impl Op<1> for Pointwise {
        fn forward(&self, [x]: [&[f32]; 1], _: [&Shape; 1]) -> (Vec<f32>, Vec<f32>) {
            let mut y = vec![0.0; x.len()];
            match self {
                Self::Silu => unclip_kernels::silu(x, &mut y),
                Self::Gelu => unclip_kernels::gelu(x, &mut y),
            }
            (y, Vec::new())
        }

        fn backward(
            &self,
            [x]: [&[f32]; 1],
            _: [&Shape; 1],
            _: &[f32],
            gradient: &[f32],
        ) -> [Vec<f32>; 1] {
            let mut dx = vec![0.0; x.len()];
            match self {
                Self::Silu => unclip_kernels::silu_backward(x, gradient, &mut dx),
                Self::Gelu => unclip_kernels::gelu_backward(x, gradient, &mut dx),
            }
            [dx]
        }

        fn output_shape(&self, [x]: [&Shape; 1]) -> Shape {
            x.clone()
        }
    }
}

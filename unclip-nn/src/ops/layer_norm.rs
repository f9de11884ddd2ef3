//! Normalization over the last dimension.

use burn::tensor::{DType, Tensor, module};

#[cfg(feature = "flex")]
use crate::fused;

/// Layer normalization with factor and offset, in f32 whatever the number format of its input.
///
/// # Shapes
/// - `x`, result: `[.., width]`
/// - `gamma`, `beta`: `[width]`
pub fn layer_norm<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    epsilon: f64,
) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if fused::is_fused(&x) {
        return fused::ternary(kernel::LayerNorm { eps: epsilon as f32 }, x, gamma, beta);
    }
    let dtype = x.dtype();
    module::layer_norm(x.cast(DType::F32), gamma, Some(beta), epsilon).cast(dtype)
}

#[cfg(feature = "flex")]
mod kernel {
    use burn::tensor::Shape;
    use unclip_kernels::{LayerNormGrads, layer_norm, layer_norm_backward};

    use crate::fused::Op;

    #[derive(Debug)]
    pub(super) struct LayerNorm {
        pub(super) eps: f32,
    }

    impl Op<3> for LayerNorm {
        fn forward(&self, [x, gamma, beta]: [&[f32]; 3], _: [&Shape; 3]) -> (Vec<f32>, Vec<f32>) {
            let rows = x.len() / gamma.len();
            let (mut y, mut saved) = (vec![0.0; x.len()], vec![0.0; 2 * rows]);
            let (mean, rstd) = saved.split_at_mut(rows);
            layer_norm(x, gamma, Some(beta), self.eps, &mut y, mean, rstd);
            (y, saved)
        }

        fn backward(
            &self,
            [x, gamma, beta]: [&[f32]; 3],
            _: [&Shape; 3],
            saved: &[f32],
            gradient: &[f32],
        ) -> [Vec<f32>; 3] {
            let mut dx = vec![0.0; x.len()];
            let [mut dgamma, mut dbeta] = [gamma, beta].map(|v| vec![0.0; v.len()]);
            let grads =
                LayerNormGrads { dx: &mut dx, dgamma: &mut dgamma, dbeta: Some(&mut dbeta) };
            let saved = saved.split_at(saved.len() / 2);
            layer_norm_backward(x, gradient, gamma, saved, grads);
            [dx, dgamma, dbeta]
        }

        fn output_shape(&self, [x, ..]: [&Shape; 3]) -> Shape {
            x.clone()
        }
    }
}

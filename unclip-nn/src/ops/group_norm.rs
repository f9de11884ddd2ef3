//! Group normalization, and what follows it in a residual block.

use burn::module::Param;
use burn::nn::GroupNorm;
use burn::tensor::{DType, Tensor, activation};

#[cfg(feature = "flex")]
use crate::fused;

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
        let (op, gamma, beta) = (kernel::GroupNorm::new(norm, true), gamma.val(), beta.val());
        return match scale_shift {
            None => fused::ternary(op, x, gamma, beta),
            Some((scale, shift)) => {
                fused::quinary(kernel::Modulated(op), x, [gamma, beta], [scale, shift])
            }
        };
    }
    let dtype = x.dtype();
    let x = plain(norm, x.cast(DType::F32));
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

/// Group normalization alone: `[batch, channels, height, width]`.
pub fn group_norm(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let (true, Some(gamma), Some(beta)) = (fused::is_fused(&x), &norm.gamma, &norm.beta) {
        return fused::ternary(kernel::GroupNorm::new(norm, false), x, gamma.val(), beta.val());
    }
    let dtype = x.dtype();
    plain(norm, x.cast(DType::F32)).cast(dtype)
}

/// Group normalization of f32 by burn's operations. Means are taken over the picture's rows first:
/// GPU kernels reduce one dimension in one loop, and that of a whole large picture is longer than
/// Mesa's software Vulkan allows (it stops after 65,535 rounds, without a word).
fn plain(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
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

#[cfg(feature = "flex")]
mod kernel {
    use burn::tensor::Shape;
    use unclip_kernels::{Affine, GroupNormGrads, GroupShape, group_norm, group_norm_backward};

    use crate::fused::Op;

    /// Perhaps followed by SiLU.
    #[derive(Debug)]
    pub(super) struct GroupNorm {
        groups: usize,
        eps: f32,
        silu: bool,
    }

    /// With a scale and shift between the norm and its SiLU.
    #[derive(Debug)]
    pub(super) struct Modulated(pub(super) GroupNorm);

    impl GroupNorm {
        pub(super) fn new(norm: &burn::nn::GroupNorm, silu: bool) -> Self {
            Self { groups: norm.num_groups, eps: norm.epsilon as f32, silu }
        }

        fn shape(&self, x: &Shape) -> GroupShape {
            let pixels = x[2] * x[3];
            GroupShape { batch: x[0], channels: x[1], pixels, groups: self.groups }
        }

        /// Saves the means, then the reciprocal deviations.
        fn normalize(&self, x: &[f32], shape: &Shape, affine: Affine<'_>) -> (Vec<f32>, Vec<f32>) {
            let shape = self.shape(shape);
            let statistics = shape.batch * shape.groups;
            let (mut y, mut saved) = (vec![0.0; x.len()], vec![0.0; 2 * statistics]);
            let (mean, rstd) = saved.split_at_mut(statistics);
            group_norm(shape, x, affine, self.eps, &mut y, mean, rstd);
            (y, saved)
        }

        fn gradients(
            &self,
            x: &[f32],
            shape: &Shape,
            affine: Affine<'_>,
            saved: &[f32],
            gradient: &[f32],
        ) -> [Vec<f32>; 5] {
            let shape = self.shape(shape);
            let per_image = shape.batch * shape.channels;
            let mut dx = vec![0.0; x.len()];
            let [mut dgamma, mut dbeta] = [(); 2].map(|()| vec![0.0; shape.channels]);
            let [mut dscale, mut dshift] = [(); 2].map(|()| vec![0.0; per_image]);
            let dmodulation = (dscale.as_mut_slice(), dshift.as_mut_slice());
            let grads = GroupNormGrads {
                dx: &mut dx,
                dgamma: &mut dgamma,
                dbeta: &mut dbeta,
                dmodulation: affine.modulation.map(|_| dmodulation),
            };
            let saved = saved.split_at(shape.batch * shape.groups);
            group_norm_backward(shape, x, gradient, affine, saved, grads);
            [dx, dgamma, dbeta, dscale, dshift]
        }
    }

    impl Op<3> for GroupNorm {
        fn forward(
            &self,
            [x, gamma, beta]: [&[f32]; 3],
            shapes: [&Shape; 3],
        ) -> (Vec<f32>, Vec<f32>) {
            let affine = Affine { gamma, beta, modulation: None, silu: self.silu };
            self.normalize(x, shapes[0], affine)
        }

        fn backward(
            &self,
            [x, gamma, beta]: [&[f32]; 3],
            shapes: [&Shape; 3],
            saved: &[f32],
            gradient: &[f32],
        ) -> [Vec<f32>; 3] {
            let affine = Affine { gamma, beta, modulation: None, silu: self.silu };
            let [dx, dgamma, dbeta, ..] = self.gradients(x, shapes[0], affine, saved, gradient);
            [dx, dgamma, dbeta]
        }

        fn output_shape(&self, [x, ..]: [&Shape; 3]) -> Shape {
            x.clone()
        }
    }

    impl Op<5> for Modulated {
        fn forward(
            &self,
            [x, gamma, beta, scale, shift]: [&[f32]; 5],
            shapes: [&Shape; 5],
        ) -> (Vec<f32>, Vec<f32>) {
            let modulation = Some((scale, shift));
            let affine = Affine { gamma, beta, modulation, silu: self.0.silu };
            self.0.normalize(x, shapes[0], affine)
        }

        fn backward(
            &self,
            [x, gamma, beta, scale, shift]: [&[f32]; 5],
            shapes: [&Shape; 5],
            saved: &[f32],
            gradient: &[f32],
        ) -> [Vec<f32>; 5] {
            let modulation = Some((scale, shift));
            let affine = Affine { gamma, beta, modulation, silu: self.0.silu };
            self.0.gradients(x, shapes[0], affine, saved, gradient)
        }

        fn output_shape(&self, [x, ..]: [&Shape; 5]) -> Shape {
            x.clone()
        }
    }
}

//! Halving and doubling pictures inside a network.

use burn::tensor::Tensor;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;

#[cfg(feature = "flex")]
use crate::fused;

/// Repeats every pixel twice in each direction: `[batch, channels, height, width]` to
/// `[batch, channels, 2·height, 2·width]`.
///
/// Repetition by reshaping is exact in every number format and has a gradient on every backend;
/// burn's `interpolate` has neither property on GPUs.
pub fn upsample(x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if fused::is_fused(&x) {
        return fused::unary(kernel::Resample::Double, x);
    }
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height, 1, width, 1])
        .expand([batch, channels, height, 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}

/// Averages every 2 x 2 pixels: `[batch, channels, height, width]` to
/// `[batch, channels, height/2, width/2]`. An odd last row or column is left out.
pub fn downsample(x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if fused::is_fused(&x) && x.dims()[2..].iter().all(|side| side % 2 == 0) {
        return fused::unary(kernel::Resample::Halve, x);
    }
    avg_pool2d(x, AvgPoolOptions::new([2, 2]))
}

#[cfg(feature = "flex")]
mod kernel {
    use burn::tensor::Shape;

    use crate::fused::Op;

    #[derive(Debug)]
    pub(super) enum Resample {
        /// Every pixel twice in each direction.
        Double,
        /// The mean of every 2 x 2 pixels; both sides must be even.
        Halve,
    }

    impl Op<1> for Resample {
        fn forward(&self, [x]: [&[f32]; 1], [shape]: [&Shape; 1]) -> (Vec<f32>, Vec<f32>) {
            let y = match self {
                Self::Double => doubled(shape[3], 1.0, x),
                Self::Halve => halved(shape[3] / 2, 0.25, x),
            };
            (y, Vec::new())
        }

        fn backward(
            &self,
            _: [&[f32]; 1],
            [shape]: [&Shape; 1],
            _: &[f32],
            gradient: &[f32],
        ) -> [Vec<f32>; 1] {
            [match self {
                Self::Double => halved(shape[3], 1.0, gradient),
                Self::Halve => doubled(shape[3] / 2, 0.25, gradient),
            }]
        }

        fn output_shape(&self, [x]: [&Shape; 1]) -> Shape {
            match self {
                Self::Double => Shape::new([x[0], x[1], 2 * x[2], 2 * x[3]]),
                Self::Halve => Shape::new([x[0], x[1], x[2] / 2, x[3] / 2]),
            }
        }
    }

    fn doubled(width: usize, factor: f32, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; 4 * x.len()];
        unclip_kernels::double(width, factor, x, &mut y);
        y
    }

    fn halved(width: usize, factor: f32, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len() / 4];
        unclip_kernels::halve(width, factor, x, &mut y);
        y
    }
}

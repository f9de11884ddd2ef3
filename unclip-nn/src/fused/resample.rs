//! Doubling and halving pictures as operations with a gradient.

use burn::tensor::Shape;

use super::Op;
use unclip_kernels as kernels;

/// A change of a picture's size: `[batch, channels, height, width]`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Resample {
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
    kernels::double(width, factor, x, &mut y);
    y
}

fn halved(width: usize, factor: f32, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len() / 4];
    kernels::halve(width, factor, x, &mut y);
    y
}

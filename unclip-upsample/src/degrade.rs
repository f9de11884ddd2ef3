//! How small pictures are degraded in training, so that the upsampler tolerates a decoder's flaws.

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, TensorData};

/// Gaussian blur with an odd kernel, mirrored at the borders: the degradation of the paper's first
/// upsampler has kernel 3 and sigma 0.6.
///
/// # Shapes
/// - `images`, result: `[batch, channels, height, width]`, both sides at least 2
///
/// # Panics
/// If `kernel` is even, or a side is not larger than half of it.
pub fn gaussian_blur(images: Tensor<4>, kernel: usize, sigma: f64) -> Tensor<4> {
    assert!(kernel % 2 == 1, "a blur kernel is odd, not {kernel}");
    let [batch, channels, height, width] = images.dims();
    let radius = kernel / 2;
    let weights = gaussian_kernel(kernel, sigma);
    let weights = TensorData::new(weights, [1, 1, 1, kernel]);
    let weights = Tensor::<4>::from_data(weights, &images.device());
    let blur_rows = |x: Tensor<4>| {
        let [n, _, h, w] = x.dims();
        let x = mirror_rows(x.reshape([n * channels, 1, h, w]), radius);
        let options = ConvOptions::new([1, 1], [0, 0], [1, 1], 1);
        conv2d(x, weights.clone(), None, options).reshape([n, channels, h, w])
    };
    let rows = blur_rows(images).swap_dims(2, 3);
    blur_rows(rows).swap_dims(2, 3).reshape([batch, channels, height, width])
}

fn gaussian_kernel(kernel: usize, sigma: f64) -> Vec<f32> {
    let center = (kernel / 2) as f64;
    let raw: Vec<f64> =
        (0..kernel).map(|i| (-0.5 * ((i as f64 - center) / sigma).powi(2)).exp()).collect();
    let total: f64 = raw.iter().sum();
    raw.into_iter().map(|v| (v / total) as f32).collect()
}

/// Extends each row by `radius` pixels at both ends, mirrored without repeating the border.
fn mirror_rows(x: Tensor<4>, radius: usize) -> Tensor<4> {
    if radius == 0 {
        return x;
    }
    let width = x.dims()[3];
    let left = x.clone().narrow(3, 1, radius).flip([3]);
    let right = x.clone().narrow(3, width - 1 - radius, radius).flip([3]);
    Tensor::cat(vec![left, x, right], 3)
}

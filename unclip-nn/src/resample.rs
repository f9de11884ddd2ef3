//! Halving and doubling pictures inside a network.

use burn::tensor::Tensor;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;

/// Every pixel twice in each direction: `[batch, channels, height, width]` to
/// `[batch, channels, 2·height, 2·width]`.
///
/// Repetition by reshaping is exact in every number format and has a gradient on every backend;
/// burn's `interpolate` has neither property on GPUs.
pub fn upsample(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height, 1, width, 1])
        .expand([batch, channels, height, 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}

/// The mean of every 2 x 2 pixels: `[batch, channels, height, width]` to
/// `[batch, channels, height/2, width/2]`.
pub fn downsample(x: Tensor<4>) -> Tensor<4> {
    avg_pool2d(x, AvgPoolOptions::new([2, 2]))
}

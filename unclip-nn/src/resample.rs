//! Halving and doubling pictures inside a network.

use burn::tensor::Tensor;
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;

#[cfg(feature = "flex")]
use crate::fused;

/// Every pixel twice in each direction: `[batch, channels, height, width]` to
/// `[batch, channels, 2·height, 2·width]`.
///
/// Repetition by reshaping is exact in every number format and has a gradient on every backend;
/// burn's `interpolate` has neither property on GPUs.
pub fn upsample(x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if fused::is_fused(&x) {
        return fused::resample(fused::Resample::Double, x);
    }
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height, 1, width, 1])
        .expand([batch, channels, height, 2, width, 2])
        .reshape([batch, channels, 2 * height, 2 * width])
}

/// The mean of every 2 x 2 pixels: `[batch, channels, height, width]` to
/// `[batch, channels, height/2, width/2]`. An odd last row or column is left out.
pub fn downsample(x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if fused::is_fused(&x) && x.dims()[2..].iter().all(|side| side % 2 == 0) {
        return fused::resample(fused::Resample::Halve, x);
    }
    avg_pool2d(x, AvgPoolOptions::new([2, 2]))
}

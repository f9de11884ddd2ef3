//! Antialiased bicubic resizing as two matrix products: differentiable, and the same on every
//! backend.
//!
//! The kernel is Keys' cubic with a = −0.5, stretched by the reduction factor when making a picture
//! smaller. Weights outside the picture are dropped, and the rest are renormalized. That is what
//! Pillow and PyTorch's `interpolate(mode="bicubic", antialias=True)` do; burn's own `interpolate`
//! has a = −0.75 and no antialiasing.

use burn::tensor::{Device, Tensor, TensorData};

use crate::keys_cubic::keys_cubic;
pub use crate::resize_8bit::{bicubic_8bit, lanczos_8bit};

/// Resizes pictures `[batch, channels, height, width]` to
/// `[batch, channels, new_height, new_width]`. The cubic overshoots: values may slightly leave the
/// input's range.
///
/// # Panics
/// If any size is 0.
pub fn bicubic(images: Tensor<4>, new_height: usize, new_width: usize) -> Tensor<4> {
    resize(images, [new_height, new_width], keys_cubic)
}

/// Resizes pictures as [`bicubic`], between the nearest two pixels of each row and column: PyTorch's
/// `interpolate(mode="bilinear", align_corners=False)`, to a larger size.
///
/// # Panics
/// If a new side is smaller than the old one: PyTorch would leave pixels out.
pub fn bilinear(images: Tensor<4>, new_height: usize, new_width: usize) -> Tensor<4> {
    let [_, _, height, width] = images.dims();
    assert!(new_height >= height && new_width >= width, "only to a larger size");
    resize(images, [new_height, new_width], |x| (1.0 - x.abs()).max(0.0))
}

/// Repeats every pixel so many times in each direction.
pub fn nearest(images: Tensor<4>, factor: usize) -> Tensor<4> {
    let [batch, channels, height, width] = images.dims();
    images
        .reshape([batch, channels, height, 1, width, 1])
        .expand([batch, channels, height, factor, width, factor])
        .reshape([batch, channels, factor * height, factor * width])
}

fn resize(
    images: Tensor<4>,
    [new_height, new_width]: [usize; 2],
    kernel: fn(f64) -> f64,
) -> Tensor<4> {
    let [batch, channels, height, width] = images.dims();
    let device = images.device();
    let rows = resize_matrix((width, new_width), kernel, &device);
    let columns = resize_matrix((height, new_height), kernel, &device);
    images
        .reshape([batch * channels, height, width])
        .matmul(rows.transpose().unsqueeze::<3>().expand([batch * channels, width, new_width]))
        .swap_dims(1, 2)
        .matmul(columns.transpose().unsqueeze::<3>().expand([batch * channels, height, new_height]))
        .swap_dims(1, 2)
        .reshape([batch, channels, new_height, new_width])
}

/// The `[to, from]` matrix that resizes one dimension.
fn resize_matrix((from, to): (usize, usize), kernel: fn(f64) -> f64, device: &Device) -> Tensor<2> {
    assert!(from > 0 && to > 0, "cannot resize {from} pixels to {to}");
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let mut values = vec![0.0f32; to * from];
    for (i, row) in values.chunks_mut(from).enumerate() {
        let center = (i as f64 + 0.5) * scale;
        let weights: Vec<f64> =
            (0..from).map(|j| kernel((j as f64 + 0.5 - center) / stretch)).collect();
        let total: f64 = weights.iter().sum();
        for (value, weight) in row.iter_mut().zip(weights) {
            *value = (weight / total) as f32;
        }
    }
    Tensor::from_data(TensorData::new(values, [to, from]), device)
}

//! Pictures as tensors.

use burn::tensor::TensorData;
use rayon::prelude::*;

use image::RgbImage;
use unclip_shapes::{Region, Scene, render_into};

use crate::shown::{Items, Shown};

/// Pictures, or parts of pictures, as `[batch, 3, height, width]` in [−1, 1].
///
/// # Panics
/// If the parts differ in size, or there is none.
pub fn pictures(parts: &[(&dyn Shown, Region)]) -> TensorData {
    let draw = |(shown, region): &(&dyn Shown, Region), out: &mut [f32]| shown.draw(*region, out);
    drawn(parts, |(_, region)| *region, draw)
}

/// As [`pictures`], of scenes that nothing is said of.
pub(crate) fn scenes(parts: &[(&Scene, Region)]) -> TensorData {
    let draw = |(scene, region): &(&Scene, Region), out: &mut [f32]| {
        render_into(scene, *region, out);
    };
    drawn(parts, |(_, region)| *region, draw)
}

fn drawn<T: Sync>(
    parts: &[T],
    region: impl Fn(&T) -> Region,
    draw: impl Fn(&T, &mut [f32]) + Sync,
) -> TensorData {
    let first = region(&parts[0]);
    let area = first.area();
    let mut values = vec![0.0f32; parts.len() * 3 * area];
    values.par_chunks_mut(3 * area).zip(parts).for_each(|(planes, part)| draw(part, planes));
    TensorData::new(values, [parts.len(), 3, first.height as usize, first.width as usize])
}

/// Whole pictures of some items: `[batch, 3, side, side]` in [−1, 1].
pub fn whole_pictures(items: &Items, side: u32) -> TensorData {
    let parts: Vec<_> = items.iter().map(|item| (item.as_ref(), Region::whole(side))).collect();
    pictures(&parts)
}

/// Pixels as planes in [−1, 1].
pub(crate) fn fill(out: &mut [f32], image: &RgbImage) {
    let plane = (image.width() * image.height()) as usize;
    for (at, pixel) in image.pixels().enumerate() {
        for channel in 0..3 {
            out[channel * plane + at] = f32::from(pixel[channel]) / 127.5 - 1.0;
        }
    }
}

/// `[batch, 1]` of ones, and zeros where `dropped`.
pub fn kept(dropped: &[bool]) -> TensorData {
    let values: Vec<f32> = dropped.iter().map(|&drop| if drop { 0.0 } else { 1.0 }).collect();
    TensorData::new(values, [dropped.len(), 1])
}

//! Pictures as they come: shrunk from large ones, blurred or sharpened, off in color, grainy,
//! saved as JPEG.
//!
//! A CLIP that has seen nothing but clean pictures takes the grain of a generated one for content:
//! a variation of such a picture then shows another number of objects.

use burn::tensor::TensorData;
use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use unclip_shapes::Region;

use crate::data::fill;
use crate::draws::Draws;
use crate::shown::Items;

/// How many pictures are shrunk from a larger one.
const SHRUNK: f64 = 0.25;
/// How many worn pictures are JPEGs.
const JPEG: f64 = 0.2;

/// Whole pictures of some items, a share of them worn: `[batch, 3, side, side]` in [−1, 1].
pub fn worn_pictures(items: &Items, side: u32, share: f64, draws: &mut Draws) -> TensorData {
    let plane = (side * side) as usize;
    let mut values = vec![0.0f32; items.len() * 3 * plane];
    let draws = draws.split(items.len());
    values.par_chunks_mut(3 * plane).zip(items).zip(draws).for_each(|((out, item), mut draws)| {
        if draws.chance(SHRUNK) {
            item.draw_shrunk(side, out);
        } else {
            item.draw(Region::whole(side), out);
        }
        if draws.chance(share) {
            wear(out, side as usize, &mut draws);
        }
    });
    TensorData::new(values, [items.len(), 3, side as usize, side as usize])
}

/// Spoils a picture, `[3, side, side]` in [−1, 1], in place.
fn wear(picture: &mut [f32], side: usize, draws: &mut Draws) {
    let plane = side * side;
    let softness = draws.within(-0.4..1.0);
    let grain = draws.within(0.0..0.12) * draws.within(0.0..1.0);
    let blotches = draws.within(0.0..0.10) * draws.within(0.0..1.0);
    for channel in picture.chunks_mut(plane) {
        soften(channel, side, softness);
        let (gain, shift) = (draws.within(0.94..1.06), draws.within(-0.06..0.06));
        let coarse = draws.normals(BLOTCHES * BLOTCHES);
        let fine = draws.normals(plane);
        for (at, (value, noise)) in channel.iter_mut().zip(fine).enumerate() {
            let blotch =
                coarse[at / side * BLOTCHES / side * BLOTCHES + at % side * BLOTCHES / side];
            let spoiled = *value * gain + shift + grain * noise + blotches * blotch;
            *value = spoiled.clamp(-1.0, 1.0);
        }
    }
    if draws.chance(JPEG) {
        let quality = draws.within(30.0..95.0) as u8;
        compress(picture, [side, side], quality);
    }
}

/// Blotches along a side.
const BLOTCHES: usize = 8;

/// Moves each pixel towards the mean of its neighbors, by half at 1; away from it below 0.
fn soften(plane: &mut [f32], side: usize, by: f32) {
    let old = plane.to_vec();
    for (at, value) in plane.iter_mut().enumerate() {
        let (row, column) = (at / side, at % side);
        let near = [
            old[row.saturating_sub(1) * side + column],
            old[(row + 1).min(side - 1) * side + column],
            old[row * side + column.saturating_sub(1)],
            old[row * side + (column + 1).min(side - 1)],
        ];
        let mean = near.iter().sum::<f32>() / 4.0;
        *value += (mean - *value) * 0.5 * by;
    }
}

/// Saves a picture of this width and height as JPEG and opens it again. One that JPEG cannot hold stays as
/// it is.
pub(crate) fn compress(picture: &mut [f32], [width, height]: [usize; 2], quality: u8) {
    let plane = width * height;
    let byte = |value: f32| ((value + 1.0) * 127.5).round() as u8;
    let image = RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        image::Rgb([0, 1, 2].map(|channel| byte(picture[channel * plane + at])))
    });
    let mut file = Vec::new();
    let written = image.write_with_encoder(JpegEncoder::new_with_quality(&mut file, quality));
    if written.is_ok()
        && let Ok(read) = image::load_from_memory(&file)
    {
        fill(picture, &read.into_rgb8());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shown::Shown;
    use burn::tensor::{Device, Tensor};
    use unclip_shapes::{Description, Sample, ShapesWorld, Test, judge, read, render};

    fn rgb(pictures: TensorData) -> Vec<RgbImage> {
        unclip_core::image::to_rgb(Tensor::from_data(pictures, &Device::flex()))
    }

    fn items(samples: &[Sample]) -> Items {
        samples.iter().map(|sample| Box::new(sample.clone()) as Box<dyn Shown>).collect()
    }

    /// What the checker still reads, CLIP can be asked to see.
    #[test]
    fn worn_pictures_show_what_they_showed() {
        let world = ShapesWorld::new(4);
        let samples: Vec<Sample> =
            (0..60).map(|index| world.test_sample(Test::SingleSeen, index)).collect();
        let pictures = worn_pictures(&items(&samples), 32, 0.5, &mut Draws::new(1, 2));
        let right = |(sample, picture): (&Sample, &RgbImage)| {
            judge(&Description::of(&sample.scene), &read(picture)).all()
        };
        let pictures = rgb(pictures);
        let n = samples.iter().zip(&pictures).filter(|&pair| right(pair)).count();
        assert!(n >= 54, "{n} of 60");
    }

    #[test]
    fn half_of_the_pictures_are_worn_and_the_same_draws_wear_the_same() {
        let world = ShapesWorld::new(4);
        let samples: Vec<Sample> = (0..200).map(|index| world.sample(index)).collect();
        let made = || worn_pictures(&items(&samples), 32, 0.5, &mut Draws::new(1, 2));
        let pictures = rgb(made());
        let clean = |(sample, picture): (&Sample, &RgbImage)| *picture == render(&sample.scene, 32);
        let n = samples.iter().zip(&pictures).filter(|&pair| clean(pair)).count();
        // three quarters are drawn at this size, and half of those stay clean
        assert!((55..=95).contains(&n), "{n}");
        assert_eq!(pictures, rgb(made()));
    }
}

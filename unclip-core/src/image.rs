//! Pictures to tensors and back.

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;

/// Channels of a picture.
pub const PICTURE_CHANNELS: usize = 3;

/// Pictures of one size as `[batch, 3, height, width]` in [−1, 1].
///
/// # Panics
/// If the list is empty or the sizes differ.
pub fn to_tensor(images: &[RgbImage], device: &Device) -> Tensor<4> {
    let (width, height) = images[0].dimensions();
    let (width, height) = (width as usize, height as usize);
    let mut values = vec![0.0f32; images.len() * 3 * height * width];
    for (image, planes) in images.iter().zip(values.chunks_mut(3 * height * width)) {
        assert_eq!(image.dimensions(), (width as u32, height as u32), "one size for a batch");
        for (i, pixel) in image.pixels().enumerate() {
            for (channel, &value) in pixel.0.iter().enumerate() {
                planes[channel * height * width + i] = value as f32 / 127.5 - 1.0;
            }
        }
    }
    Tensor::from_data(TensorData::new(values, [images.len(), 3, height, width]), device)
}

/// Pictures from `[batch, 3, height, width]`; values outside [−1, 1] are clamped, NaN is black.
///
/// # Panics
/// If the tensor does not have three channels.
pub fn to_rgb(images: Tensor<4>) -> Vec<RgbImage> {
    let [_, channels, height, width] = images.dims();
    assert_eq!(channels, 3, "an RGB image has three channels");
    let values = images.into_data().convert::<f32>();
    let values = values.as_slice::<f32>().unwrap_or_default();
    let byte = |v: f32| ((v.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8;
    let area = height * width;
    let pixel =
        |planes: &[f32], i: usize| image::Rgb([0, 1, 2].map(|c| byte(planes[c * area + i])));
    values
        .chunks(3 * area)
        .map(|planes| {
            RgbImage::from_fn(width as u32, height as u32, |x, y| {
                pixel(planes, y as usize * width + x as usize)
            })
        })
        .collect()
}

/// Peak signal-to-noise ratio of two pictures of one size, in decibels: infinite if they are equal.
///
/// # Panics
/// If the sizes differ.
pub fn psnr(a: &RgbImage, b: &RgbImage) -> f64 {
    assert_eq!(a.dimensions(), b.dimensions(), "two pictures of one size");
    let squares = a.iter().zip(b.iter()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
    let mean = squares.sum::<f64>() / a.len().max(1) as f64;
    10.0 * (255.0 * 255.0 / mean).log10()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_round_trip() {
        let picture = RgbImage::from_fn(16, 32, |x, y| {
            let value = (y * 16 + x) as u8;
            image::Rgb([value, 255 - value, value.wrapping_mul(7)])
        });
        let tensor = to_tensor(std::slice::from_ref(&picture), &Device::flex());
        assert_eq!(tensor.dims(), [1, 3, 32, 16]);
        assert_eq!(to_rgb(tensor)[0], picture);
    }

    #[test]
    fn decibels_of_known_differences() {
        let gray = |value: u8| RgbImage::from_pixel(4, 3, image::Rgb([value; 3]));
        assert_eq!(psnr(&gray(9), &gray(9)), f64::INFINITY);
        assert!((psnr(&gray(0), &gray(255)) - 0.0).abs() < 1e-12);
        assert!((psnr(&gray(100), &gray(101)) - 48.130_803_608_679_1).abs() < 1e-9);
    }

    #[test]
    fn what_is_out_of_range_is_clamped() {
        let values = TensorData::new(vec![-9.0f32, 9.0, f32::NAN], [1, 3, 1, 1]);
        let picture = &to_rgb(Tensor::from_data(values, &Device::flex()))[0];
        assert_eq!(picture.get_pixel(0, 0).0, [0, 255, 0]);
    }
}

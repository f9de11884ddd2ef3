//! Converts pictures to the image tower's input.

use burn::tensor::{Device, Tensor, TensorData};
use image::{GenericImageView, RgbImage};
use unclip_core::image::{to_rgb, to_tensor};
use unclip_core::resize::{bicubic, bicubic_8bit, lanczos_8bit};

use crate::{Fit, ImageEncoderConfig};

/// Brings a picture to the tower's size and distribution: antialiased bicubic resizing onto the
/// 8-bit grid (what Pillow and torchvision do to 8-bit pictures), cropping, [`standardize`].
///
/// A large picture is shrunk before it becomes a tensor, so little memory is needed besides the
/// picture itself, unless one of its sides is many times the other.
///
/// # Shapes
/// - result: `[1, 3, image_size, image_size]`
///
/// # Panics
/// If the picture has no pixels.
pub fn preprocess(config: &ImageEncoderConfig, picture: &RgbImage, device: &Device) -> Tensor<4> {
    standardize(config, tensor(&fitted(config, picture, device), device))
}

/// The square of a picture that the tower sees, as 8-bit pixels: the first half of [`preprocess`],
/// which leaves such a square unchanged.
///
/// # Panics
/// If the picture has no pixels.
pub fn fitted(config: &ImageEncoderConfig, picture: &RgbImage, device: &Device) -> RgbImage {
    let side = config.image_size as u32;
    let (width, height) = picture.dimensions();
    match config.fit {
        _ if (width, height) == (side, side) => picture.clone(),
        Fit::Squash => squashed(picture, side, device),
        Fit::Lanczos => lanczos_8bit(picture, side, side),
        Fit::Crop => {
            let shorter = u64::from(width.min(height));
            // the longer side is truncated, not rounded, as torchvision does
            let [wide, tall] =
                [width, height].map(|old| (u64::from(old) * u64::from(side) / shorter) as u32);
            let resized = bicubic_8bit(picture, wide, tall);
            resized.view((wide - side) / 2, (tall - side) / 2, side, side).to_image()
        }
    }
}

/// Brings pixels to the tower's distribution: `[batch, 3, height, width]`, from [−1, 1] to mean 0
/// and variance 1.
pub fn standardize(config: &ImageEncoderConfig, images: Tensor<4>) -> Tensor<4> {
    let device = images.device();
    let per_channel = |values: [f32; 3]| -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &device)
    };
    ((images + 1.0) * 0.5 - per_channel(config.mean)) / per_channel(config.std)
}

fn tensor(picture: &RgbImage, device: &Device) -> Tensor<4> {
    to_tensor(std::slice::from_ref(picture), device)
}

/// The whole picture as a square, by bands of rows.
fn squashed(picture: &RgbImage, side: u32, device: &Device) -> RgbImage {
    const BAND: usize = 512;
    let (width, height) = picture.dimensions();
    let bands = (0..height).step_by(BAND).map(|first| {
        let rows = (height - first).min(BAND as u32);
        let band = picture.view(0, first, width, rows).to_image();
        bicubic(tensor(&band, device), rows as usize, side as usize)
    });
    let narrow = Tensor::cat(bands.collect(), 2);
    let square = to_rgb(bicubic(narrow, side as usize, side as usize));
    square.into_iter().next().unwrap_or_else(|| unreachable!("one picture"))
}

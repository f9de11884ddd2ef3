//! Pictures as the image tower wants them.

use burn::tensor::{Tensor, TensorData};
use unclip_core::image::{to_rgb, to_tensor};
use unclip_core::resize::{bicubic, bicubic_8bit};

use crate::{Fit, ImageEncoderConfig};

/// Brings pictures to the tower's size and distribution: antialiased bicubic resizing onto the
/// 8-bit grid (what Pillow and torchvision do to 8-bit pictures), cropping, normalizing.
///
/// # Shapes
/// - `images`: `[batch, 3, height, width]` in [−1, 1]
/// - result: `[batch, 3, image_size, image_size]`
pub fn preprocess(config: &ImageEncoderConfig, images: Tensor<4>) -> Tensor<4> {
    let side = config.image_size;
    let [_, _, height, width] = images.dims();
    let images = match config.fit {
        _ if [height, width] == [side, side] => images,
        Fit::Squash => to_8_bit(bicubic(images, side, side)),
        Fit::Crop => {
            let shorter = height.min(width);
            // the longer side is truncated, not rounded, as torchvision does
            let [tall, wide] = [height * side / shorter, width * side / shorter];
            let resize = |image: &_| bicubic_8bit(image, wide as u32, tall as u32);
            let resized: Vec<_> = to_rgb(images.clone()).iter().map(resize).collect();
            let images = to_tensor(&resized, &images.device());
            images.narrow(2, (tall - side) / 2, side).narrow(3, (wide - side) / 2, side)
        }
    };
    let device = images.device();
    let per_channel = |values: [f32; 3]| -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, 3, 1, 1]), &device)
    };
    ((images + 1.0) * 0.5 - per_channel(config.mean)) / per_channel(config.std)
}

/// The nearest values that 8 bits can hold.
fn to_8_bit(images: Tensor<4>) -> Tensor<4> {
    ((images.clamp(-1.0, 1.0) + 1.0) * 127.5).round() / 127.5 - 1.0
}

//! Squares of pixels as channels of one pixel.

use burn::tensor::Tensor;

/// The pixels of each square of `patch` by `patch` as channels of one pixel.
///
/// # Shapes
/// - `x`: `[batch, channels, height, width]`
/// - result: `[batch, channels · patch², height / patch, width / patch]`
pub(crate) fn pixels_to_channels(x: Tensor<4>, patch: usize) -> Tensor<4> {
    if patch == 1 {
        return x;
    }
    let [batch, channels, height, width] = x.dims();
    let (rows, columns) = (height / patch, width / patch);
    x.reshape([batch, channels, rows, patch, columns, patch]).permute([0, 1, 3, 5, 2, 4]).reshape([
        batch,
        channels * patch * patch,
        rows,
        columns,
    ])
}

/// The inverse of [`pixels_to_channels`].
pub(crate) fn channels_to_pixels(x: Tensor<4>, patch: usize) -> Tensor<4> {
    if patch == 1 {
        return x;
    }
    let [batch, channels, rows, columns] = x.dims();
    let channels = channels / (patch * patch);
    x.reshape([batch, channels, patch, patch, rows, columns]).permute([0, 1, 4, 2, 5, 3]).reshape([
        batch,
        channels,
        rows * patch,
        columns * patch,
    ])
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn patches_come_back_as_they_were() {
        let pixels: Vec<f32> = (0..2 * 3 * 4 * 8).map(|i| i as f32).collect();
        let x = Tensor::<1>::from_floats(pixels.as_slice(), &Device::flex()).reshape([2, 3, 4, 8]);
        let patches = pixels_to_channels(x.clone(), 2);
        assert_eq!(patches.dims(), [2, 12, 2, 4]);
        // the first square of the first plane: 0 1 / 8 9
        let first: Vec<f32> =
            patches.clone().slice([0..1, 0..4, 0..1, 0..1]).into_data().iter::<f32>().collect();
        assert_eq!(first, [0.0, 1.0, 8.0, 9.0]);
        assert_eq!(channels_to_pixels(patches, 2).into_data(), x.into_data());
    }
}

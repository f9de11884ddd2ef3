//! The square of a picture that is edited, and the hole in it.

use burn::tensor::{Device, Tensor, TensorData};
use image::{GrayImage, RgbImage, imageops};
use unclip_core::InvalidSetting;
use unclip_core::image::to_tensor;
use unclip_core::resize::bicubic_8bit;

/// What stays of a picture that is edited.
pub(crate) struct KeptPicture {
    /// The square of it that is edited.
    pub(crate) square: RgbImage,
    /// 1 where a pixel of the decoder's picture stays, row by row.
    pub(crate) mask: Vec<f32>,
}

impl KeptPicture {
    /// The same of a larger picture: its values, and a channel of 1 where they stay, 0 elsewhere,
    /// `[1, 4, side, side]`.
    pub(crate) fn at(&self, side: usize, device: &Device) -> Tensor<4> {
        let picture = to_tensor(&[bicubic_8bit(&self.square, side as u32, side as u32)], device);
        let small = self.mask.len().isqrt();
        let mask: Vec<f32> = (0..side * side)
            .map(|at| self.mask[(at / side * small / side) * small + at % side * small / side])
            .collect();
        let mask = Tensor::from_data(TensorData::new(mask, [1, 1, side, side]), device);
        Tensor::cat(vec![picture * mask.clone(), mask], 1)
    }
}

/// The square in the middle of a picture.
pub(crate) struct Square {
    left: u32,
    top: u32,
    side: u32,
}

impl Square {
    pub(crate) fn of(picture: &RgbImage) -> Self {
        let (width, height) = picture.dimensions();
        let side = width.min(height);
        Self { left: (width - side) / 2, top: (height - side) / 2, side }
    }

    pub(crate) fn cut(&self, picture: &RgbImage) -> RgbImage {
        imageops::crop_imm(picture, self.left, self.top, self.side, self.side).to_image()
    }

    /// The square with what is kept nearby in the place of what is not: shrinking mixes neighbors,
    /// and what lies in a hole must not show beside it. Near is within two pixels of a picture of
    /// `side`.
    pub(crate) fn without_hole(
        &self,
        picture: &RgbImage,
        mask: &GrayImage,
        side: usize,
    ) -> RgbImage {
        let mut cut = self.cut(picture);
        let mask = imageops::crop_imm(mask, self.left, self.top, self.side, self.side).to_image();
        let cell = |at: u32| (at as usize * side / self.side as usize).min(side - 1);
        let mut sums = vec![[0u64; 4]; side * side];
        for (x, y, pixel) in cut.enumerate_pixels() {
            if !is_white(mask.get_pixel(x, y)) {
                let sum = &mut sums[cell(y) * side + cell(x)];
                (0..3).for_each(|channel| sum[channel] += u64::from(pixel[channel]));
                sum[3] += 1;
            }
        }
        let mean = |cells: &mut dyn Iterator<Item = usize>| {
            let mut all = [0; 4];
            cells.for_each(|at| (0..4).for_each(|k| all[k] += sums[at][k]));
            let [r, g, b, n] = all;
            (n > 0).then(|| image::Rgb([r, g, b].map(|sum| (sum / n) as u8)))
        };
        let everywhere = mean(&mut (0..side * side)).unwrap_or(image::Rgb([128; 3]));
        let around = |at: usize| at.saturating_sub(2)..(at + 3).min(side);
        let near: Vec<image::Rgb<u8>> = (0..side * side)
            .map(|at| {
                let rows = around(at / side).flat_map(|y| around(at % side).map(move |x| (y, x)));
                mean(&mut rows.map(|(y, x)| y * side + x)).unwrap_or(everywhere)
            })
            .collect();
        for (x, y, pixel) in cut.enumerate_pixels_mut() {
            if is_white(mask.get_pixel(x, y)) {
                *pixel = near[cell(y) * side + cell(x)];
            }
        }
        cut
    }

    fn contains(&self, x: u32, y: u32) -> bool {
        let within = |at: u32, start: u32| (start..start + self.side).contains(&at);
        within(x, self.left) && within(y, self.top)
    }

    /// Refuses a mask of another size, or one that asks for what is not seen.
    pub(crate) fn check(&self, picture: &RgbImage, mask: &GrayImage) -> Result<(), InvalidSetting> {
        if mask.dimensions() != picture.dimensions() {
            let [found, expected] = [mask.dimensions(), picture.dimensions()]
                .map(|(width, height)| format!("{width} × {height} pixels"));
            return Err(InvalidSetting::new("mask", found, format!("{expected}, as the picture")));
        }
        let outside =
            |(x, y, pixel): (u32, u32, &image::Luma<u8>)| is_white(pixel) && !self.contains(x, y);
        if mask.enumerate_pixels().any(outside) {
            let Self { side, .. } = self;
            let found = "white beyond the square in the middle";
            let expected = format!("only within its {side} × {side} pixels, which are seen");
            return Err(InvalidSetting::new("mask", found, expected));
        }
        Ok(())
    }

    /// 1 where all of a small pixel is kept, row by row.
    pub(crate) fn small_mask(&self, mask: &GrayImage, side: usize) -> Vec<f32> {
        let mut kept = vec![1.0f32; side * side];
        for (x, y, _) in mask.enumerate_pixels().filter(|(.., pixel)| is_white(pixel)) {
            // every small pixel on which some of this one lies
            let small = |at: u32, start: u32| {
                let (at, old, new) = ((at - start) as usize, self.side as usize, side);
                at * new / old..((at + 1) * new).div_ceil(old)
            };
            for row in small(y, self.top) {
                small(x, self.left).for_each(|column| kept[row * side + column] = 0.0);
            }
        }
        kept
    }

    /// The picture with what was drawn where the mask is white.
    pub(crate) fn put_into(
        &self,
        picture: &RgbImage,
        mask: &GrayImage,
        drawn: &RgbImage,
    ) -> RgbImage {
        let drawn = bicubic_8bit(drawn, self.side, self.side);
        let mut result = picture.clone();
        for (x, y, _) in mask.enumerate_pixels().filter(|(.., pixel)| is_white(pixel)) {
            result.put_pixel(x, y, *drawn.get_pixel(x - self.left, y - self.top));
        }
        result
    }
}

fn is_white(pixel: &image::Luma<u8>) -> bool {
    pixel[0] >= 128
}

/// A small mask whose hole reaches one pixel farther up, left, down and right, and to the upper left
/// and the lower right: of the eight directions, the decoders for inpainting of Kandinsky 2 saw these
/// six.
pub(crate) fn with_larger_hole(kept: &[f32], side: usize) -> Vec<f32> {
    const STEPS: [(isize, isize); 6] = [(-1, 0), (0, -1), (-1, -1), (1, 0), (0, 1), (1, 1)];
    let mut grown = kept.to_vec();
    let holes = (0..side * side).filter(|&at| kept[at] == 0.0);
    for (row, column) in holes.map(|at| (at / side, at % side)) {
        for (down, right) in STEPS {
            let [row, column] = [row.checked_add_signed(down), column.checked_add_signed(right)];
            if let (Some(row), Some(column)) = (row, column)
                && row < side
                && column < side
            {
                grown[row * side + column] = 0.0;
            }
        }
    }
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_grows_in_six_directions() {
        let mut kept = vec![1.0; 25];
        kept[12] = 0.0;
        let grown = with_larger_hole(&kept, 5);
        let rows: Vec<String> = grown
            .chunks(5)
            .map(|row| row.iter().map(|&it| if it == 0.0 { '.' } else { '#' }).collect())
            .collect();
        assert_eq!(rows, ["#####", "#..##", "#...#", "##..#", "#####"]);
        let mut corner = vec![1.0; 4];
        corner[0] = 0.0;
        assert_eq!(with_larger_hole(&corner, 2), [0.0; 4]);
    }
}

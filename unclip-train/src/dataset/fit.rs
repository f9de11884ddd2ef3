//! How pictures of any proportions become squares.

use image::{RgbImage, imageops};
use serde::{Deserialize, Serialize};
use unclip_core::resize::bicubic_8bit;
use unclip_shapes::Region;

use super::order::lot;
use crate::data::fill;
use crate::shown::{Numbered, Shown};

/// Which part of a picture is its square.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// The largest square in the middle.
    #[default]
    Center,
    /// The largest square anywhere, at another place each time.
    Random,
    /// All of it, squashed.
    Squash,
}

/// How pictures become squares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fitting {
    /// Which part it is.
    pub crop: Crop,
    /// Whether half of the pictures are mirrored, each time others; not where a caption says `left` or
    /// `right`.
    pub flip: bool,
    /// What the shorter side must have at least, in pixels.
    pub min_side: u32,
}

impl Default for Fitting {
    fn default() -> Self {
        Self { crop: Crop::Center, flip: false, min_side: 16 }
    }
}

/// An item whose turn it is: its square, no larger than it was asked for.
#[derive(Debug, Clone)]
pub struct Square {
    /// Its name in the data set.
    pub name: String,
    /// Its number there, and that of the caption.
    pub number: Numbered,
    /// One of its captions.
    pub caption: String,
    /// Its pixels.
    pub picture: RgbImage,
}

impl Fitting {
    /// The square of a picture, of this side. Chances follow from the seed and the number of the sample.
    ///
    /// # Errors
    /// A picture that is too small.
    pub(super) fn square(
        &self,
        picture: &RgbImage,
        side: u32,
        (caption, seed, place): (&str, u64, u64),
    ) -> Result<RgbImage, String> {
        let (width, height) = picture.dimensions();
        let least = self.min_side.max(1);
        if width.min(height) < least {
            return Err(format!("{width} x {height} pixels, expected at least {least} a side"));
        }
        let own = width.min(height);
        let at = |space: u32, which: u64| match self.crop {
            Crop::Random => (lot(seed, place, which) * f64::from(space + 1)) as u32,
            Crop::Center | Crop::Squash => space / 2,
        };
        let square = match self.crop {
            Crop::Squash => bicubic_8bit(picture, side, side),
            // without a copy
            Crop::Center | Crop::Random if width == height => bicubic_8bit(picture, side, side),
            Crop::Center | Crop::Random => {
                let (x, y) = (at(width - own, 1), at(height - own, 2));
                let part = imageops::crop_imm(picture, x, y, own, own).to_image();
                bicubic_8bit(&part, side, side)
            }
        };
        let mirrors = self.flip && lot(seed, place, 3) < 0.5 && !says_side(caption);
        Ok(if mirrors { imageops::flip_horizontal(&square) } else { square })
    }
}

/// Whether a caption says what is left or right.
fn says_side(caption: &str) -> bool {
    let words = caption.split(|c: char| !c.is_alphabetic());
    words.into_iter().any(|word| ["left", "right"].contains(&word.to_lowercase().as_str()))
}

impl Shown for Square {
    fn caption(&self) -> &str {
        &self.caption
    }

    fn number(&self) -> Option<Numbered> {
        Some(self.number)
    }

    fn draw(&self, part: Region, out: &mut [f32]) {
        let whole = if part.side == self.picture.width() {
            None
        } else {
            Some(bicubic_8bit(&self.picture, part.side, part.side))
        };
        let whole = whole.as_ref().unwrap_or(&self.picture);
        let Region { x, y, width, height, .. } = part;
        fill(out, &imageops::crop_imm(whole, x, y, width, height).to_image());
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn picture(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 7]))
    }

    #[test]
    fn squares_are_cut_as_asked() {
        let fitting = |crop| Fitting { crop, ..Fitting::default() };
        let wide = picture(60, 20);
        let of = |crop, place| {
            fitting(crop).square(&wide, 20, ("a cat", 1, place)).expect("it is large enough")
        };
        assert_eq!(of(Crop::Center, 0).get_pixel(0, 0).0, [20, 0, 7]);
        assert_eq!(of(Crop::Squash, 0).dimensions(), (20, 20));
        let first = |place| of(Crop::Random, place).get_pixel(0, 0).0[0];
        let places: Vec<u8> = (0..200).map(first).collect();
        assert!(places.iter().any(|x| *x < 5) && places.iter().any(|x| *x > 35), "{places:?}");
        assert!(places.iter().all(|x| *x <= 40));
        let small = fitting(Crop::Center).square(&picture(15, 100), 20, ("a cat", 1, 0));
        assert!(small.unwrap_err().contains("15 x 100 pixels, expected at least 16"));
    }

    #[test]
    fn half_of_the_pictures_are_mirrored_unless_a_side_is_said() {
        let fitting = Fitting { flip: true, ..Fitting::default() };
        let mirrored = |caption: &str| {
            let of = |place| {
                let square = fitting.square(&picture(20, 20), 20, (caption, 1, place));
                square.expect("it is large enough").get_pixel(0, 0).0[0] != 0
            };
            (0..400).filter(|place| of(*place)).count()
        };
        assert!((150..250).contains(&mirrored("a cat")));
        assert_eq!(mirrored("a cat on the Left."), 0);
        assert!(mirrored("a leftover") > 0);
    }

    #[test]
    fn parts_are_those_of_the_whole() {
        let number = Numbered { item: 0, caption: 0 };
        let square =
            Square { name: "a".into(), number, caption: "b".into(), picture: picture(32, 32) };
        let mut out = vec![0.0; 3 * 4 * 4];
        square.draw(Region { side: 32, x: 3, y: 5, width: 4, height: 4 }, &mut out);
        assert_eq!(out[0], 3.0 / 127.5 - 1.0);
        assert_eq!(out[16], 5.0 / 127.5 - 1.0);
        let mut whole = vec![0.0; 3 * 16 * 16];
        square.draw(Region::whole(16), &mut whole);
        let mut part = vec![0.0; 3 * 4 * 4];
        square.draw(Region { side: 16, x: 4, y: 0, width: 4, height: 4 }, &mut part);
        assert_eq!(part[..4], whole[4..8]);
    }
}

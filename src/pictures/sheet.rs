//! Many pictures as one.

use std::path::Path;

use image::RgbImage;

use super::format::{self, PictureFormat};
use super::picture::Picture;
use crate::{Error, Recipe};

/// Several pictures side by side, and how they were made.
#[derive(Debug, Clone, PartialEq)]
pub struct Sheet {
    /// The pixels.
    pub image: RgbImage,
    /// The recipe of each picture, in order.
    pub recipes: Vec<Recipe>,
}

impl Sheet {
    /// Pictures in rows, as square as possible ([`grid`]).
    pub fn grid(pictures: &[Picture]) -> Self {
        Self::of(pictures, grid)
    }

    /// Pictures in one row ([`strip`]).
    pub fn strip(pictures: &[Picture]) -> Self {
        Self::of(pictures, strip)
    }

    fn of(pictures: &[Picture], join: fn(&[RgbImage]) -> RgbImage) -> Self {
        let images: Vec<RgbImage> = pictures.iter().map(|it| it.image.clone()).collect();
        Self {
            image: join(&images),
            recipes: pictures.iter().map(|it| it.recipe.clone()).collect(),
        }
    }

    /// Writes the sheet in the format of the name's extension, with all its recipes inside;
    /// [`Recipe::read_all`] reads them back.
    ///
    /// # Errors
    /// As [`Picture::save`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        self.save_as(path, PictureFormat::of(path)?)
    }

    /// Like [`save`](Self::save), in the given format.
    ///
    /// # Errors
    /// As [`Picture::save`].
    pub fn save_as(&self, path: impl AsRef<Path>, format: PictureFormat) -> Result<(), Error> {
        format::write(path.as_ref(), format, &self.image, &self.recipes)
    }

    /// Encodes the sheet as the bytes of such a file.
    ///
    /// # Errors
    /// [`Error::Picture`] if the picture cannot be encoded.
    pub fn to_bytes(&self, format: PictureFormat) -> Result<Vec<u8>, Error> {
        format::to_bytes(format, &self.image, &self.recipes)
    }
}

/// Pictures side by side in rows, as square as possible, with a gray line between them.
///
/// Pictures larger than the first are cut to its size. An empty list gives an empty picture.
pub fn grid(images: &[RgbImage]) -> RgbImage {
    sheet(images, (images.len() as f64).sqrt().ceil() as u32)
}

/// Pictures side by side in one row, otherwise like [`grid`].
pub fn strip(images: &[RgbImage]) -> RgbImage {
    sheet(images, images.len() as u32)
}

fn sheet(images: &[RgbImage], columns: u32) -> RgbImage {
    const LINE: u32 = 2;
    let Some(first) = images.first() else { return RgbImage::new(0, 0) };
    let rows = (images.len() as u32).div_ceil(columns);
    let (width, height) = (first.width() + LINE, first.height() + LINE);
    let line = image::Rgb([128; 3]);
    let mut sheet = RgbImage::from_pixel(columns * width - LINE, rows * height - LINE, line);
    for (i, image) in images.iter().enumerate() {
        let (column, row) = (i as u32 % columns, i as u32 / columns);
        for (x, y, pixel) in image.enumerate_pixels() {
            if x < first.width() && y < first.height() {
                sheet.put_pixel(column * width + x, row * height + y, *pixel);
            }
        }
    }
    sheet
}

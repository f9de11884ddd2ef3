//! A picture and its recipe, as one.

use std::path::Path;

use burn::tensor::Tensor;
use image::RgbImage;

use super::format::{self, PictureFormat};
use crate::{Error, Recipe};

/// A picture and how it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The pixels.
    pub image: RgbImage,
    /// Everything that is needed to make it again on its own.
    pub recipe: Recipe,
}

impl Picture {
    /// Pictures from `[batch, 3, height, width]` in [−1, 1], each with its recipe.
    pub(crate) fn join(pixels: Tensor<4>, recipes: impl Iterator<Item = Recipe>) -> Vec<Self> {
        let images = unclip_core::image::to_rgb(pixels).into_iter();
        images.zip(recipes).map(|(image, recipe)| Self { image, recipe }).collect()
    }

    /// Writes the picture with its recipe inside, in the format of the name's extension
    /// ([`PictureFormat::of`]), whole or not at all. [`Recipe::read`] reads the recipe back, unless
    /// a custom sampler made the picture.
    ///
    /// # Example
    /// ```no_run
    /// use unclip::{GenerateOptions, Recipe, UnClip, device};
    ///
    /// let unclip = UnClip::shapes(&device("flex")?)?;
    /// unclip.text_to_image("a pink ring", &GenerateOptions::default())?.pictures[0].save("a.png")?;
    ///
    /// let recipe = Recipe::read("a.png")?;
    /// let again = unclip.text_to_image(&recipe.prompt, &recipe.options())?;
    /// assert_eq!(again.pictures[0].recipe, recipe);
    /// # Ok::<(), unclip::Error>(())
    /// ```
    ///
    /// # Errors
    /// A name with another extension, [`Error::Picture`] if the picture cannot be encoded,
    /// [`Error::Load`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        self.save_as(path, PictureFormat::of(path)?)
    }

    /// Like [`save`](Self::save), in the given format.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn save_as(&self, path: impl AsRef<Path>, format: PictureFormat) -> Result<(), Error> {
        format::write(path.as_ref(), format, &self.image, std::slice::from_ref(&self.recipe))
    }

    /// Encodes the picture as the bytes of such a file.
    ///
    /// # Errors
    /// [`Error::Picture`] if the picture cannot be encoded.
    pub fn to_bytes(&self, format: PictureFormat) -> Result<Vec<u8>, Error> {
        format::to_bytes(format, &self.image, std::slice::from_ref(&self.recipe))
    }
}

/// Writes pixels without a recipe in the format of the name's extension, whole or not at all.
///
/// # Errors
/// As [`Picture::save`].
pub fn write_picture(path: impl AsRef<Path>, image: &RgbImage) -> Result<(), Error> {
    let path = path.as_ref();
    format::write(path, PictureFormat::of(path)?, image, &[])
}

//! Pictures on disk, with their recipe inside.

use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use burn::tensor::Tensor;
use image::RgbImage;
use unclip_nn::checkpoint::{open_file, write_whole};

use crate::{Error, Recipe};

/// Name of the text chunk that holds a picture's recipe as JSON.
const RECIPE_CHUNK: &str = "unclip";

/// A picture and how it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The pixels.
    pub image: RgbImage,
    /// Everything that is needed to make it again, alone.
    pub recipe: Recipe,
}

impl Picture {
    /// Pictures from `[batch, 3, height, width]` in [−1, 1], each with its recipe.
    pub(crate) fn join(pixels: Tensor<4>, recipes: impl Iterator<Item = Recipe>) -> Vec<Self> {
        let images = unclip_core::image::to_rgb(pixels).into_iter();
        images.zip(recipes).map(|(image, recipe)| Self { image, recipe }).collect()
    }

    /// Writes a PNG with the recipe inside, whole or not at all; [`Recipe::read`] gets it back,
    /// unless a sampler of one's own made the picture.
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
    /// [`Error::Picture`] if the picture cannot be encoded, [`Error::Load`] if the file cannot be
    /// written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let path = path.as_ref();
        Ok(write_whole(path, &png(path, &self.image, Some(&self.recipe))?)?)
    }

    /// The bytes of such a PNG.
    ///
    /// # Errors
    /// [`Error::Picture`] if the picture cannot be encoded.
    pub fn to_png(&self) -> Result<Vec<u8>, Error> {
        png(Path::new("picture"), &self.image, Some(&self.recipe))
    }
}

/// Writes a PNG without a recipe, whole or not at all.
///
/// # Errors
/// As [`Picture::save`].
pub fn write_png(path: impl AsRef<Path>, image: &RgbImage) -> Result<(), Error> {
    let path = path.as_ref();
    Ok(write_whole(path, &png(path, image, None)?)?)
}

fn png(path: &Path, image: &RgbImage, recipe: Option<&Recipe>) -> Result<Vec<u8>, Error> {
    encode(image, recipe).map_err(|error| picture(path, error))
}

fn encode(
    image: &RgbImage,
    recipe: Option<&Recipe>,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder
        .add_text_chunk("Software".into(), concat!("unclip ", env!("CARGO_PKG_VERSION")).into())?;
    if let Some(recipe) = recipe {
        encoder.add_itxt_chunk(RECIPE_CHUNK.into(), serde_json::to_string(recipe)?)?;
    }
    encoder.write_header()?.write_image_data(image.as_raw())?;
    Ok(bytes)
}

/// Reads a PNG or JPEG file. Transparency is dropped.
///
/// # Errors
/// [`Error::Load`] if there is no such file, [`Error::Picture`] if it is no picture, or larger than
/// 16,384 pixels on a side.
pub fn read_picture(path: impl AsRef<Path>) -> Result<RgbImage, Error> {
    let path = path.as_ref();
    let (file, _) = open_file(path)?;
    decode(path, BufReader::new(file))
}

/// The same from memory, a file's bytes.
///
/// # Errors
/// [`Error::Picture`], as [`read_picture`].
pub fn picture_from_bytes(bytes: &[u8]) -> Result<RgbImage, Error> {
    decode(Path::new("picture"), Cursor::new(bytes))
}

fn decode(path: &Path, bytes: impl BufRead + Seek) -> Result<RgbImage, Error> {
    const MAX_SIDE: u32 = 1 << 14;
    let reader = image::ImageReader::new(bytes).with_guessed_format();
    let mut reader = reader.map_err(|error| picture(path, error))?;
    let mut limits = image::Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    reader.limits(limits);
    let read = reader.decode().map_err(|error| picture(path, error))?;
    Ok(read.into_rgb8())
}

impl Recipe {
    /// The recipe in a picture that [`Picture::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Load`] if there is no such file, [`Error::Picture`] if it is not a PNG or holds no
    /// recipe.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let (file, _) = open_file(path)?;
        let reader = png::Decoder::new(BufReader::new(file)).read_info();
        let reader = reader.map_err(|error| picture(path, error))?;
        let chunks = &reader.info().utf8_text;
        let Some(chunk) = chunks.iter().find(|chunk| chunk.keyword == RECIPE_CHUNK) else {
            return Err(picture(path, "holds no recipe: it was not made by this library"));
        };
        // other programs may have compressed it, without a bound
        let mut chunk = chunk.clone();
        chunk.decompress_text().map_err(|error| picture(path, error))?;
        let json = chunk.get_text().map_err(|error| picture(path, error))?;
        serde_json::from_str(&json).map_err(|error| picture(path, error))
    }
}

/// Pictures side by side in rows, as square as possible, with a gray line between them.
///
/// Pictures of other sizes than the first are cut. No picture gives a picture of no size.
pub fn grid(images: &[RgbImage]) -> RgbImage {
    sheet(images, (images.len() as f64).sqrt().ceil() as u32)
}

/// Pictures side by side in one row, as [`grid`] has them.
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

fn picture(path: &Path, message: impl ToString) -> Error {
    Error::Picture { path: path.into(), message: message.to_string() }
}

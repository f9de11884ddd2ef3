//! Pictures on disk, with their recipe inside.

use std::io::BufReader;
use std::path::Path;

use image::RgbImage;
use unclip_nn::checkpoint::{open_file, write_whole};

use crate::{Error, Settings};

/// Name of the text chunk that holds a picture's recipe as JSON.
const SETTINGS_CHUNK: &str = "unclip";

/// Writes a PNG, whole or not at all. Its recipe, if there is one, goes into a text chunk, from
/// which [`read_settings`] gets it back.
///
/// # Errors
/// [`Error::Picture`] if the picture cannot be encoded, [`Error::Load`] if the file cannot be
/// written.
pub fn write_png(path: &Path, image: &RgbImage, settings: Option<&Settings>) -> Result<(), Error> {
    let bytes = encode(image, settings).map_err(|error| picture(path, error))?;
    Ok(write_whole(path, &bytes)?)
}

fn encode(
    image: &RgbImage,
    settings: Option<&Settings>,
) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder
        .add_text_chunk("Software".into(), concat!("unclip ", env!("CARGO_PKG_VERSION")).into())?;
    if let Some(settings) = settings {
        encoder.add_itxt_chunk(SETTINGS_CHUNK.into(), serde_json::to_string(settings)?)?;
    }
    encoder.write_header()?.write_image_data(image.as_raw())?;
    Ok(bytes)
}

/// Reads a PNG or JPEG file. Transparency is dropped.
///
/// # Errors
/// [`Error::Load`] if there is no such file, [`Error::Picture`] if it is no picture, or larger than
/// 16,384 pixels on a side.
pub fn read_picture(path: &Path) -> Result<RgbImage, Error> {
    const MAX_SIDE: u32 = 1 << 14;
    let (file, _) = open_file(path)?;
    let reader = image::ImageReader::new(BufReader::new(file)).with_guessed_format();
    let mut reader = reader.map_err(|error| picture(path, error))?;
    let mut limits = image::Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    reader.limits(limits);
    let read = reader.decode().map_err(|error| picture(path, error))?;
    Ok(read.into_rgb8())
}

/// The recipe of a picture that [`write_png`] wrote.
///
/// # Errors
/// [`Error::Load`] if there is no such file, [`Error::Picture`] if it is not a PNG or holds no
/// recipe.
pub fn read_settings(path: &Path) -> Result<Settings, Error> {
    let (file, _) = open_file(path)?;
    let reader = png::Decoder::new(BufReader::new(file)).read_info();
    let reader = reader.map_err(|error| picture(path, error))?;
    let chunks = &reader.info().utf8_text;
    let Some(chunk) = chunks.iter().find(|chunk| chunk.keyword == SETTINGS_CHUNK) else {
        return Err(picture(path, "holds no recipe: it was not made by this library"));
    };
    // other programs may have compressed it, without a bound
    let mut chunk = chunk.clone();
    chunk.decompress_text().map_err(|error| picture(path, error))?;
    let json = chunk.get_text().map_err(|error| picture(path, error))?;
    serde_json::from_str(&json).map_err(|error| picture(path, error))
}

/// Pictures side by side in rows, as square as possible, with a gray line between them.
///
/// Pictures of other sizes than the first are cut. No picture gives a picture of no size.
pub fn grid(images: &[RgbImage]) -> RgbImage {
    const LINE: u32 = 2;
    let Some(first) = images.first() else { return RgbImage::new(0, 0) };
    let columns = (images.len() as f64).sqrt().ceil() as u32;
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

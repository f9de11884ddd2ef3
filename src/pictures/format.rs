//! Encodes pictures in the formats in which they are written.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use unclip_core::InvalidSetting;

use unclip_nn::checkpoint::write_whole;

use super::error::picture_error;
use super::recipes;
use crate::{Error, Recipe};

/// The longest Exif block of a JPEG: a segment counts its bytes by 16 bits, its name among them.
const MAX_JPEG_EXIF: usize = (1 << 16) - 16;

/// A format in which pictures are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PictureFormat {
    /// PNG, lossless.
    Png,
    /// JPEG, lossy.
    Jpeg {
        /// 1 to 100.
        quality: u8,
    },
    /// WebP, lossless.
    WebP,
}

impl PictureFormat {
    /// Default quality of a JPEG.
    pub const QUALITY: u8 = 90;

    /// The format that a file name's extension stands for: `png`, `jpg` or `jpeg`, or `webp`, in
    /// any letter case. A name without an extension means PNG.
    ///
    /// # Errors
    /// Any other extension.
    pub fn of(path: impl AsRef<Path>) -> Result<Self, InvalidSetting> {
        let path = path.as_ref();
        let Some(ending) = path.extension() else { return Ok(Self::Png) };
        Self::named(&ending.to_string_lossy()).ok_or_else(|| {
            let expected = "a name that ends in .png, .jpg, .jpeg or .webp";
            InvalidSetting::new("format of a picture", path.display(), expected)
        })
    }

    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "png" => Some(Self::Png),
            "jpg" | "jpeg" => Some(Self::Jpeg { quality: Self::QUALITY }),
            "webp" => Some(Self::WebP),
            _ => None,
        }
    }

    /// The same format with a quality, if it has one.
    ///
    /// # Errors
    /// A quality outside 1 to 100, or one for a lossless format.
    pub fn with_quality(self, quality: u8) -> Result<Self, InvalidSetting> {
        match self {
            Self::Jpeg { .. } if (1..=100).contains(&quality) => Ok(Self::Jpeg { quality }),
            Self::Jpeg { .. } => Err(InvalidSetting::new("quality", quality, "1 to 100")),
            lossless => {
                let expected = format!("none: {lossless} is written without loss");
                Err(InvalidSetting::new("quality", quality, expected))
            }
        }
    }

    /// The extension of its files.
    pub const fn ending(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg { .. } => "jpg",
            Self::WebP => "webp",
        }
    }

    /// A picture as a file's bytes, with its recipes inside.
    pub(super) fn encode(
        self,
        image: &RgbImage,
        recipes: &[Recipe],
    ) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let json = recipes::to_json(recipes)?;
        let mut bytes = Vec::new();
        match self {
            Self::Png => encode_png(&mut bytes, image, json)?,
            Self::Jpeg { quality } => {
                self.with_quality(quality)?;
                let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
                encode_with_exif(encoder, image, json, MAX_JPEG_EXIF)?;
            }
            Self::WebP => {
                let encoder = WebPEncoder::new_lossless(&mut bytes);
                encode_with_exif(encoder, image, json, usize::MAX)?;
            }
        }
        Ok(bytes)
    }
}

impl FromStr for PictureFormat {
    type Err = InvalidSetting;

    /// Parses `png`, `jpeg`, `jpg` or `webp`, in any letter case.
    fn from_str(name: &str) -> Result<Self, InvalidSetting> {
        let invalid = || InvalidSetting::new("format of a picture", name, "png, jpeg or webp");
        Self::named(name).ok_or_else(invalid)
    }
}

impl fmt::Display for PictureFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "PNG",
            Self::Jpeg { .. } => "JPEG",
            Self::WebP => "WebP",
        })
    }
}

/// The bytes of a file.
pub(super) fn to_bytes(
    format: PictureFormat,
    image: &RgbImage,
    recipes: &[Recipe],
) -> Result<Vec<u8>, Error> {
    format.encode(image, recipes).map_err(|error| picture_error("picture", error))
}

/// Writes a file, whole or not at all.
pub(super) fn write(
    path: &Path,
    format: PictureFormat,
    image: &RgbImage,
    recipes: &[Recipe],
) -> Result<(), Error> {
    let bytes = format.encode(image, recipes).map_err(|error| picture_error(path, error))?;
    Ok(write_whole(path, &bytes)?)
}

fn encode_png(
    bytes: &mut Vec<u8>,
    image: &RgbImage,
    json: Option<String>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut encoder = png::Encoder::new(bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.add_text_chunk("Software".into(), recipes::SOFTWARE.into())?;
    if let Some(json) = json {
        encoder.add_itxt_chunk(recipes::KEYWORD.into(), json)?;
    }
    encoder.write_header()?.write_image_data(image.as_raw())?;
    Ok(())
}

fn encode_with_exif(
    mut encoder: impl ImageEncoder,
    image: &RgbImage,
    json: Option<String>,
    most: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    if let Some(json) = json {
        encoder.set_exif_metadata(recipes::to_exif(&json, most)?)?;
    }
    let (width, height) = image.dimensions();
    Ok(encoder.write_image(image.as_raw(), width, height, ExtendedColorType::Rgb8)?)
}

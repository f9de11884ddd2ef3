//! Reads pictures from files as a viewer shows them.

use std::fmt;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use unclip_core::Limit;
use unclip_nn::checkpoint::{LoadError, open_file};

use super::color::Profile;
use super::error::picture_error;
use super::jpeg;
use crate::Error;

/// The formats that are read.
const FORMATS: &str = "PNG, JPEG, WebP, GIF, BMP or TIFF";
const KNOWN: [ImageFormat; 6] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Gif,
    ImageFormat::Bmp,
    ImageFormat::Tiff,
];

/// How pictures are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReadOptions {
    /// The color behind a transparent picture; white by default.
    pub background: [u8; 3],
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { background: [255; 3] }
    }
}

/// A picture as a viewer shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadPicture {
    /// The pixels, in sRGB.
    pub image: RgbImage,
    /// What in the file they do not show.
    pub left_out: Vec<LeftOut>,
}

/// Something in a picture's file that the pixels read from it do not show. Its `Display` says so in
/// words.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeftOut {
    /// All frames or pages but the first.
    LaterFrames,
    /// The end of a JPEG whose file is cut short, as by an interrupted download.
    End,
    /// The color profile, with the reason why it is not applied.
    ColorProfile(String),
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LaterFrames => write!(f, "only the first of several frames is read"),
            Self::End => write!(f, "the file ends before its picture does: its end may be gray"),
            Self::ColorProfile(reason) => write!(f, "its color profile is not applied: {reason}"),
        }
    }
}

impl ReadOptions {
    /// The same with another color behind transparent pictures.
    #[must_use]
    pub const fn with_background(self, background: [u8; 3]) -> Self {
        Self { background }
    }

    /// Reads a PNG, JPEG, WebP, GIF, BMP or TIFF file as a viewer shows it: turned as the file
    /// says, converted to sRGB if the file describes its colors, and laid over the background where
    /// it is transparent.
    ///
    /// # Example
    /// ```no_run
    /// use unclip::ReadOptions;
    ///
    /// let read = ReadOptions::default().with_background([0; 3]).read("sticker.webp")?;
    /// for left_out in &read.left_out {
    ///     eprintln!("note: sticker.webp: {left_out}");
    /// }
    /// # Ok::<(), unclip::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Load`] if there is no such file, [`Error::Picture`] if it is not a picture, or
    /// damaged, of another format, or over [`Limit::PictureSide`] or [`Limit::PictureBytes`].
    pub fn read(&self, path: impl AsRef<Path>) -> Result<ReadPicture, Error> {
        let path = path.as_ref();
        let (file, found) = open_file(path)?;
        let limit = Limit::PictureFileBytes;
        if found > limit.value() {
            return Err(LoadError::TooLarge { path: path.into(), found, limit }.into());
        }
        self.decode(BufReader::new(file)).map_err(|message| picture_error(path, message))
    }

    /// Like [`read`](Self::read), from the bytes of a file.
    ///
    /// # Errors
    /// [`Error::Picture`], as [`read`](Self::read).
    pub fn from_bytes(&self, bytes: &[u8]) -> Result<ReadPicture, Error> {
        self.decode(Cursor::new(bytes)).map_err(|message| picture_error("picture", message))
    }

    fn decode(&self, mut bytes: impl BufRead + Seek) -> Result<ReadPicture, String> {
        let format = format(&mut bytes)?;
        let mut left_out = Vec::new();
        let mut decoder = decoder(format, &mut bytes)?;
        let orientation = decoder.orientation().map_err(text)?;
        let embedded = decoder.icc_profile().map_err(text)?.map(|icc| Profile::of_icc(&icc));
        drop(decoder);
        if has_more_frames(format, &mut bytes)? {
            left_out.push(LeftOut::LaterFrames);
        }
        if format == ImageFormat::Jpeg && !jpeg::has_end(&mut bytes).map_err(text)? {
            left_out.push(LeftOut::End);
        }
        let profile = match format {
            ImageFormat::Png => Profile::of_png(&mut bytes, embedded),
            ImageFormat::Tiff => Profile::of_tiff(&mut bytes),
            _ => embedded.transpose(),
        };
        let decoder = self::decoder(format, &mut bytes)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(text)?;
        match profile.and_then(|profile| profile.map_or(Ok(()), |it| it.apply(&mut image))) {
            Ok(()) => {}
            Err(reason) => left_out.push(LeftOut::ColorProfile(reason)),
        }
        let mut image = DynamicImage::ImageRgb8(flattened(image, self.background));
        image.apply_orientation(orientation);
        Ok(ReadPicture { image: image.into_rgb8(), left_out })
    }
}

/// A decoder of a picture that is not too large, within limits.
fn decoder<'a>(
    format: ImageFormat,
    bytes: &'a mut (impl BufRead + Seek),
) -> Result<impl ImageDecoder + 'a, String> {
    rewind(bytes)?;
    const MAX_HEADER: u64 = 64 << 20;
    let mut reader = ImageReader::with_format(bytes, format);
    // of what comes before the pixels, a profile may be compressed without a bound
    reader.limits(limits(MAX_HEADER));
    let mut decoder = reader.into_decoder().map_err(text)?;
    check_size(&decoder)?;
    decoder.set_limits(limits(Limit::PictureBytes.value().saturating_mul(2))).map_err(text)?;
    Ok(decoder)
}

/// Reads a picture as [`ReadOptions::read`] does by default.
///
/// # Errors
/// As [`ReadOptions::read`].
pub fn read_picture(path: impl AsRef<Path>) -> Result<RgbImage, Error> {
    Ok(ReadOptions::default().read(path)?.image)
}

/// Like [`read_picture`], from the bytes of a file.
///
/// # Errors
/// [`Error::Picture`], as [`ReadOptions::read`].
pub fn picture_from_bytes(bytes: &[u8]) -> Result<RgbImage, Error> {
    Ok(ReadOptions::default().from_bytes(bytes)?.image)
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

fn rewind(bytes: &mut impl Seek) -> Result<(), String> {
    bytes.rewind().map_err(text)
}

/// The format, by the first bytes.
pub(super) fn format(bytes: &mut (impl BufRead + Seek)) -> Result<ImageFormat, String> {
    let beginning = bytes.fill_buf().map_err(text)?;
    let refused = |found: String| format!("{found}, expected {FORMATS}");
    if beginning.is_empty() {
        return Err(refused("an empty file".into()));
    }
    let known = image::guess_format(beginning).ok();
    match known.filter(|format| KNOWN.contains(format)) {
        Some(format) => Ok(format),
        None => Err(refused(match foreign(beginning) {
            Some(name) => format!("a file of the format {name}"),
            None => "not a picture of a known format".into(),
        })),
    }
}

/// Formats that are not read, by name.
fn foreign(beginning: &[u8]) -> Option<&'static str> {
    const BRANDS: [(&[u8], &str); 6] = [
        (b"heic", "HEIC"),
        (b"heix", "HEIC"),
        (b"mif1", "HEIF"),
        (b"avif", "AVIF"),
        (b"avis", "AVIF"),
        (b"crx ", "CR3"),
    ];
    const STARTS: [(&[u8], &str); 9] = [
        (b"<svg", "SVG"),
        (b"<?xml", "XML or SVG"),
        (b"%PDF", "PDF"),
        (b"8BPS", "PSD"),
        (b"gimp xcf", "XCF"),
        (b"\0\0\x01\0", "ICO"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"\xff\x0a", "JPEG XL"),
        (b"\0\0\0\x0cJXL ", "JPEG XL"),
    ];
    if beginning.get(4..8) == Some(b"ftyp") {
        let brand = beginning.get(8..12)?;
        return BRANDS.iter().find(|(known, _)| brand == *known).map(|&(_, name)| name);
    }
    STARTS.iter().find(|(start, _)| beginning.starts_with(start)).map(|&(_, name)| name)
}

fn check_size(decoder: &impl ImageDecoder) -> Result<(), String> {
    let (width, height) = decoder.dimensions();
    if u64::from(width.max(height)) > Limit::PictureSide.value() {
        let expected = Limit::PictureSide;
        return Err(format!("{width} × {height} pixels, expected a side of {expected}"));
    }
    if decoder.total_bytes() > Limit::PictureBytes.value() {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let (found, expected) = (gib(decoder.total_bytes()), Limit::PictureBytes);
        return Err(format!("{found:.1} GiB when decoded, expected {expected}"));
    }
    Ok(())
}

fn limits(bytes: u64) -> Limits {
    // sides have their own check, whose message says more
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

/// Whether the file, whose size was checked, holds more pictures than the one that is read.
fn has_more_frames(format: ImageFormat, bytes: &mut (impl BufRead + Seek)) -> Result<bool, String> {
    rewind(bytes)?;
    let bytes = &mut *bytes;
    // a file that cannot be read is refused by the one that reads it
    let more = match format {
        ImageFormat::Gif => {
            // counted without being drawn: a frame may claim any size
            let mut options = gif::DecodeOptions::new();
            options.skip_frame_decoding(true);
            options.read_info(bytes).is_ok_and(|mut it| {
                let mut is_there = || it.next_frame_info().is_ok_and(|frame| frame.is_some());
                is_there() && is_there()
            })
        }
        ImageFormat::WebP => WebPDecoder::new(bytes).is_ok_and(|it| it.has_animation()),
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(bytes, limits(Limit::PictureBytes.value()));
            decoder.is_ok_and(|it| it.is_apng().is_ok_and(|animated| animated))
        }
        ImageFormat::Tiff => tiff::decoder::Decoder::new(bytes).is_ok_and(|it| it.more_images()),
        _ => false,
    };
    Ok(more)
}

/// A picture without transparency: laid over a background.
fn flattened(image: DynamicImage, background: [u8; 3]) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let (width, height) = image.dimensions();
    // in place: a large picture is there once
    let mut bytes = image.into_raw();
    for at in 0..(width as usize * height as usize) {
        let alpha = u32::from(bytes[4 * at + 3]);
        for channel in 0..3 {
            let (over, under) = (bytes[4 * at + channel], background[channel]);
            let mixed = u32::from(over) * alpha + u32::from(under) * (255 - alpha);
            bytes[3 * at + channel] = ((mixed + 127) / 255) as u8;
        }
    }
    bytes.truncate(3 * width as usize * height as usize);
    RgbImage::from_raw(width, height, bytes).unwrap_or_else(|| unreachable!("three bytes a pixel"))
}

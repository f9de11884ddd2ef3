//! Pictures one after the other, as one file.

use std::path::Path;
use std::time::Duration;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, Frame, RgbImage, RgbaImage};
use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::write_whole;

use super::error::picture_error;
use crate::Error;

/// How long an animated PNG shows a frame, in parts of a second.
const PARTS: u16 = 1000;

/// Writes pictures as an animation that begins again at its end: `.gif`, in 256 colors for each
/// frame, or `.apng`, without loss.
///
/// # Errors
/// A name of another format; no picture, or pictures of different sizes; a file that cannot be
/// written.
pub fn write_animation(
    path: impl AsRef<Path>,
    frames: &[RgbImage],
    each: Duration,
) -> Result<(), Error> {
    let path = path.as_ref();
    let sizes: Vec<(u32, u32)> = frames.iter().map(RgbImage::dimensions).collect();
    if sizes.is_empty() || sizes.windows(2).any(|pair| pair[0] != pair[1]) {
        let expected = "at least one, all of one size";
        return Err(InvalidSetting::new("frames", format!("{sizes:?}"), expected).into());
    }
    let encode = match kind(path) {
        Some(Kind::Gif) => gif,
        Some(Kind::Png) => apng,
        None => {
            let expected = "a name that ends in .gif or .apng";
            return Err(
                InvalidSetting::new("format of an animation", path.display(), expected).into()
            );
        }
    };
    let bytes = encode(frames, each).map_err(|error| picture_error(path, error))?;
    Ok(write_whole(path, &bytes)?)
}

/// Whether [`write_animation`] knows the format of a name.
pub fn is_animation(path: impl AsRef<Path>) -> bool {
    kind(path.as_ref()).is_some()
}

enum Kind {
    Gif,
    Png,
}

fn kind(path: &Path) -> Option<Kind> {
    match path.extension()?.to_string_lossy().to_ascii_lowercase().as_str() {
        "gif" => Some(Kind::Gif),
        "apng" => Some(Kind::Png),
        _ => None,
    }
}

fn gif(frames: &[RgbImage], each: Duration) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    encoder.set_repeat(Repeat::Infinite)?;
    for frame in frames {
        let opaque = RgbaImage::from_fn(frame.width(), frame.height(), |x, y| {
            let [r, g, b] = frame.get_pixel(x, y).0;
            image::Rgba([r, g, b, 255])
        });
        let delay = Delay::from_saturating_duration(each);
        encoder.encode_frame(Frame::from_parts(opaque, 0, 0, delay))?;
    }
    drop(encoder);
    Ok(bytes)
}

fn apng(frames: &[RgbImage], each: Duration) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut bytes = Vec::new();
    let (width, height) = frames[0].dimensions();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_animated(frames.len() as u32, 0)?;
    let delay = (each.as_secs_f64() * f64::from(PARTS)).round();
    encoder.set_frame_delay(delay as u16, PARTS)?;
    let mut writer = encoder.write_header()?;
    frames.iter().try_for_each(|frame| writer.write_image_data(frame.as_raw()))?;
    writer.finish()?;
    Ok(bytes)
}

//! What a file says of its colors, and the way from there to sRGB.

use std::io::{BufRead, ErrorKind, Seek, SeekFrom};
use std::sync::Arc;

use image::{DynamicImage, Rgb};
use moxcms::{
    Chromaticity, CicpColorPrimaries, CicpProfile, ColorPrimaries, ColorProfile, DataColorSpace,
    Layout, MatrixCoefficients, ToneReprCurve, TransferCharacteristics, TransformExecutor,
    TransformOptions,
};

/// Colors as a file describes them.
pub(super) struct Profile(ColorProfile);

/// Largest change of an 8-bit channel that nobody sees.
const UNSEEN: u8 = 1;

impl Profile {
    /// Of an ICC profile.
    pub(super) fn of_icc(bytes: &[u8]) -> Result<Self, String> {
        ColorProfile::new_from_slice(bytes).map(Self).map_err(|error| error.to_string())
    }

    /// Of the chunks in which a PNG describes its colors, in the order of precedence of its third
    /// edition: cICP, then `embedded`, its ICC profile, then sRGB, then gAMA with cHRM.
    pub(super) fn of_png(
        bytes: &mut (impl BufRead + Seek),
        embedded: Option<Result<Self, String>>,
    ) -> Result<Option<Self>, String> {
        const MAX_BYTES: usize = 64 << 20;
        bytes.rewind().map_err(|error| error.to_string())?;
        let limits = png::Limits { bytes: MAX_BYTES };
        // a file that cannot be read is refused by the one that reads it
        let Ok(reader) = png::Decoder::new_with_limits(&mut *bytes, limits).read_info() else {
            return embedded.transpose();
        };
        let info = reader.info().clone();
        if let Some(points) = info.coding_independent_code_points {
            return of_code_points(points).map(Some);
        }
        if embedded.is_some() {
            return embedded.transpose();
        }
        if png_has(bytes, b"iCCP").map_err(|error| error.to_string())? {
            return Err("it is damaged or too large".into());
        }
        match (info.srgb, info.gama_chunk) {
            (None, Some(gamma)) => Ok(of_gamma(gamma.into_value(), info.chrm_chunk)),
            _ => Ok(None),
        }
    }

    /// Of the ICC profile of a TIFF, which image 0.25 does not find.
    pub(super) fn of_tiff(bytes: &mut (impl BufRead + Seek)) -> Result<Option<Self>, String> {
        bytes.rewind().map_err(|error| error.to_string())?;
        let tag = tiff::tags::Tag::IccProfile;
        // a file that cannot be read is refused by the one that reads it
        let value = tiff::decoder::Decoder::new(bytes).and_then(|mut it| it.find_tag(tag));
        match value.ok().flatten().map(tiff::decoder::ifd::Value::into_u8_vec) {
            Some(icc) => Self::of_icc(&icc.map_err(|error| error.to_string())?).map(Some),
            None => Ok(None),
        }
    }

    /// Brings a picture from these colors to sRGB.
    pub(super) fn apply(&self, image: &mut DynamicImage) -> Result<(), String> {
        let is_gray = !image.color().has_color();
        match self.0.color_space {
            DataColorSpace::Rgb => {}
            DataColorSpace::Gray if is_gray => return self.apply_to_gray(image),
            other => return Err(format!("it is for {other:?} and the pixels are RGB")),
        }
        if self.is_srgb()? {
            return Ok(());
        }
        let taken = std::mem::take(image);
        let has_alpha = taken.color().has_alpha();
        let layout = if has_alpha { Layout::Rgba } else { Layout::Rgb };
        let wide = taken.color().bytes_per_pixel() / taken.color().channel_count() > 1;
        *image = match (wide, has_alpha) {
            (false, false) => taken.into_rgb8().into(),
            (false, true) => taken.into_rgba8().into(),
            (true, false) => taken.into_rgb16().into(),
            (true, true) => taken.into_rgba16().into(),
        };
        let (to, options) = (ColorProfile::new_srgb(), TransformOptions::default());
        match image {
            DynamicImage::ImageRgb16(_) | DynamicImage::ImageRgba16(_) => {
                let transform = self.0.create_transform_16bit(layout, &to, layout, options);
                let transform = transform.map_err(|error| error.to_string())?;
                in_place(&transform, samples_16(image), layout.channels())
            }
            _ => {
                let transform = self.0.create_transform_8bit(layout, &to, layout, options);
                let transform = transform.map_err(|error| error.to_string())?;
                in_place(&transform, samples_8(image), layout.channels())
            }
        }
    }

    /// A curve for gray, which stays gray.
    fn apply_to_gray(&self, image: &mut DynamicImage) -> Result<(), String> {
        let (to, options) = (ColorProfile::new_srgb(), TransformOptions::default());
        let transform = self.0.create_transform_8bit(Layout::Gray, &to, Layout::Rgb, options);
        let transform = transform.map_err(|error| error.to_string())?;
        let levels: Vec<u8> = (0..=255).collect();
        let mut curve = vec![0; 3 * levels.len()];
        transform.transform(&levels, &mut curve).map_err(|error| error.to_string())?;
        if levels.iter().zip(curve.chunks(3)).all(|(&from, to)| to[0].abs_diff(from) <= UNSEEN) {
            return Ok(());
        }
        let mut taken = std::mem::take(image).into_luma_alpha8();
        taken.pixels_mut().for_each(|pixel| pixel[0] = curve[3 * usize::from(pixel[0])]);
        *image = taken.into();
        Ok(())
    }

    /// Whether these colors are sRGB to the eye: such a picture keeps its bytes.
    fn is_srgb(&self) -> Result<bool, String> {
        const STEPS: [u8; 9] = [0, 32, 64, 96, 128, 160, 192, 224, 255];
        let colors = STEPS.iter().flat_map(|&r| {
            STEPS.iter().flat_map(move |&g| STEPS.iter().map(move |&b| Rgb([r, g, b])))
        });
        let from: Vec<u8> = colors.flat_map(|color| color.0).collect();
        let mut to = vec![0; from.len()];
        let (srgb, options) = (ColorProfile::new_srgb(), TransformOptions::default());
        let transform = self.0.create_transform_8bit(Layout::Rgb, &srgb, Layout::Rgb, options);
        let transform = transform.map_err(|error| error.to_string())?;
        transform.transform(&from, &mut to).map_err(|error| error.to_string())?;
        Ok(from.iter().zip(&to).all(|(a, b)| a.abs_diff(*b) <= UNSEEN))
    }
}

/// Transforms samples where they are, a few pixels at a time: a large picture is there once.
fn in_place<V: Copy + Default>(
    transform: &Arc<impl TransformExecutor<V> + ?Sized>,
    samples: &mut [V],
    channels: usize,
) -> Result<(), String> {
    const PIXELS: usize = 4096;
    let mut from = vec![V::default(); PIXELS * channels];
    for to in samples.chunks_mut(PIXELS * channels) {
        let from = &mut from[..to.len()];
        from.copy_from_slice(to);
        transform.transform(from, to).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Whether a PNG has such a chunk before its pixels. The decoder skips a profile that it cannot
/// read.
fn png_has(file: &mut (impl BufRead + Seek), name: &[u8; 4]) -> std::io::Result<bool> {
    const SIGNATURE: u64 = 8;
    const CHECKSUM: i64 = 4;
    file.seek(SeekFrom::Start(SIGNATURE))?;
    loop {
        let mut head = [0; 8];
        match file.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        let [a, b, c, d, found @ ..] = head;
        if found == *name || found == *b"IDAT" {
            return Ok(found == *name);
        }
        file.seek_relative(i64::from(u32::from_be_bytes([a, b, c, d])) + CHECKSUM)?;
    }
}

fn samples_8(image: &mut DynamicImage) -> &mut [u8] {
    match image {
        DynamicImage::ImageRgb8(image) => image,
        DynamicImage::ImageRgba8(image) => image,
        _ => &mut [],
    }
}

fn samples_16(image: &mut DynamicImage) -> &mut [u16] {
    match image {
        DynamicImage::ImageRgb16(image) => image,
        DynamicImage::ImageRgba16(image) => image,
        _ => &mut [],
    }
}

fn of_code_points(points: png::CodingIndependentCodePoints) -> Result<Profile, String> {
    let unknown = |_| "unknown code points in its cICP chunk".to_string();
    Ok(Profile(ColorProfile::new_from_cicp(CicpProfile {
        color_primaries: CicpColorPrimaries::try_from(points.color_primaries).map_err(unknown)?,
        transfer_characteristics: TransferCharacteristics::try_from(points.transfer_function)
            .map_err(unknown)?,
        matrix_coefficients: MatrixCoefficients::try_from(points.matrix_coefficients)
            .map_err(unknown)?,
        full_range: points.is_video_full_range_image,
    })))
}

/// Colors of a gamma and, where the file names them, primaries. The gamma of an sRGB picture, which
/// old programs wrote into each file, means sRGB where the primaries do not say otherwise.
fn of_gamma(gamma: f32, primaries: Option<png::SourceChromaticities>) -> Option<Profile> {
    const LIKE_SRGB: std::ops::RangeInclusive<f32> = 0.44..=0.47;
    const SRGB: [(f32, f32); 4] = [(0.3127, 0.3290), (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)];
    let points = primaries.map(|png::SourceChromaticities { white, red, green, blue }| {
        [white, red, green, blue].map(|(x, y)| (x.into_value(), y.into_value()))
    });
    let points = points.unwrap_or(SRGB);
    let near = |a: f32, b: f32| (a - b).abs() < 0.005;
    let is_srgb = points.iter().zip(SRGB).all(|(a, b)| near(a.0, b.0) && near(a.1, b.1));
    if (LIKE_SRGB.contains(&gamma) && is_srgb) || !(0.01..=10.0).contains(&gamma) {
        return None;
    }
    let mut profile = ColorProfile::new_srgb();
    let [white, red, green, blue] = points.map(|(x, y)| Chromaticity::new(x, y));
    profile.update_rgb_colorimetry(white.to_xyyb(), ColorPrimaries { red, green, blue });
    let curve = ToneReprCurve::Parametric(vec![1.0 / gamma]);
    profile.red_trc = Some(curve.clone());
    profile.green_trc = Some(curve.clone());
    profile.blue_trc = Some(curve);
    Some(Profile(profile))
}

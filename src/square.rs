//! What the image encoder sees of a picture.

use std::fmt;

use burn::tensor::Device;
use image::{RgbImage, imageops};
use unclip_clip::{Fit, ImageEncoderConfig, fitted};
use unclip_core::InvalidSetting;

use crate::{Bundle, Error};

/// How many times longer than the other one side of a picture may be. Beyond that, too little of it
/// would be left in a square.
const MAX_PROPORTION: u32 = 16;

/// How a picture was cropped; its `Display` says so in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cropped {
    /// Width and height of the picture.
    pub size: [u32; 2],
    /// Side of the square in the middle that the encoder sees.
    pub side: u32,
}

impl fmt::Display for Cropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size: [width, height], side } = self;
        write!(f, "of its {width} × {height} pixels, the {side} × {side} in the middle are seen")
    }
}

impl Cropped {
    /// What a tower cuts from a picture.
    pub(crate) fn of(config: &ImageEncoderConfig, picture: &RgbImage) -> Option<Self> {
        let (width, height) = picture.dimensions();
        let is_cut = config.fit == Fit::Crop && width != height;
        is_cut.then(|| Self { size: [width, height], side: width.min(height) })
    }
}

impl Bundle {
    /// The same square as small as the decoder's pictures: what an inversion starts from.
    ///
    /// # Errors
    /// As [`fit`](Self::fit).
    pub fn fit_small(&self, picture: &RgbImage, device: &Device) -> Result<RgbImage, Error> {
        let encoder = self.image_encoder()?.config();
        check_pictures(std::slice::from_ref(picture))?;
        let image_size = self.small_size();
        Ok(fitted(&ImageEncoderConfig { image_size, ..encoder.clone() }, picture, device))
    }

    /// The square of a picture that the image encoder sees, and what it leaves out. Variations of
    /// the square are those of the picture, so that large pictures need not be kept.
    ///
    /// # Errors
    /// A model without an image encoder; a picture with a side of 0, or with one side more than 16
    /// times the other.
    pub fn fit(
        &self,
        picture: &RgbImage,
        device: &Device,
    ) -> Result<(RgbImage, Option<Cropped>), Error> {
        let config = self.image_encoder()?.config();
        check_pictures(std::slice::from_ref(picture))?;
        Ok((fitted(config, picture, device), Cropped::of(config, picture)))
    }
}

/// The largest part in the middle of a picture that has these proportions.
pub(crate) fn middle(picture: &RgbImage, [width, height]: [u32; 2]) -> RgbImage {
    let (own_width, own_height) = picture.dimensions();
    let scaled = |side: u32, by: u32, of: u32| {
        (u64::from(side) * u64::from(by) / u64::from(of)).max(1) as u32
    };
    let width_of_all = scaled(own_height, width, height);
    let (width, height) = if width_of_all <= own_width {
        (width_of_all, own_height)
    } else {
        (own_width, scaled(own_width, height, width))
    };
    let (left, top) = ((own_width - width) / 2, (own_height - height) / 2);
    imageops::crop_imm(picture, left, top, width, height).to_image()
}

/// Refuses pictures of which nothing would be left in a square.
pub(crate) fn check_pictures(pictures: &[RgbImage]) -> Result<(), InvalidSetting> {
    let sizes: Vec<(u32, u32)> = pictures.iter().map(|picture| picture.dimensions()).collect();
    let usable =
        |&(w, h): &(u32, u32)| w.min(h) > 0 && w.max(h) <= w.min(h).saturating_mul(MAX_PROPORTION);
    if sizes.is_empty() || !sizes.iter().all(usable) {
        let expected = format!(
            "at least one picture, with no side 0 and none more than {MAX_PROPORTION} times \
                 the other"
        );
        return Err(InvalidSetting::new("pictures", format!("{sizes:?}"), expected));
    }
    Ok(())
}

//! Sizes of an upsampler.

use serde::{Deserialize, Serialize};
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{DiffusionConfig, InvalidSetting, Parameterization};
use unclip_nn::{UNetConfig, check};

/// Sizes of an [`Upsampler`](crate::Upsampler), and how it denoises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpsamplerConfig {
    /// How many times larger each side becomes; the paper's upsamplers have 4.
    pub factor: usize,
    /// Whether a second network takes the last step (Karlo).
    #[serde(default)]
    pub last_step_network: bool,
    /// Whether the network predicts only what the resized small picture lacks. A network of few
    /// channels, whose norms remove the picture's mean color, then need not restore it. Published
    /// upsamplers predict the whole picture.
    #[serde(default)]
    pub residual: bool,
    /// The U-Net. Its input is the noised picture and the resized small one: six channels.
    pub unet: UNetConfig,
    /// How it denoises.
    pub diffusion: DiffusionConfig,
}

impl UpsamplerConfig {
    /// Channels of the pictures.
    pub const CHANNELS: usize = PICTURE_CHANNELS;

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        if !(2..=16).contains(&self.factor) {
            return Err(InvalidSetting::new("factor", self.factor, "2 to 16"));
        }
        self.unet.validate().map_err(|error| error.within("unet"))?;
        check::equal("unet.in_channels", self.unet.in_channels, 2 * Self::CHANNELS)?;
        let channels_out = self.diffusion.output_channels(Self::CHANNELS);
        check::equal("unet.out_channels", self.unet.out_channels, channels_out)?;
        let kind = self.diffusion.parameterization;
        if self.residual
            && (kind != Parameterization::Sample || self.diffusion.variance.is_learned())
        {
            let found = format!("true, for {kind:?} and {:?}", self.diffusion.variance);
            let expected = "false, or a network that predicts the sample and no variance";
            return Err(InvalidSetting::new("residual", found, expected));
        }
        if self.diffusion.guidance_scale != 1.0 {
            let expected = "1: an upsampler has no condition to be guided by";
            let found = self.diffusion.guidance_scale;
            return Err(InvalidSetting::new("diffusion.guidance_scale", found, expected));
        }
        if !self.unet.attention_resolutions.is_empty() {
            let found = format!("{:?}", self.unet.attention_resolutions);
            let expected = "empty: an upsampler is fully convolutional";
            return Err(InvalidSetting::new("unet.attention_resolutions", found, expected));
        }
        self.diffusion.validate().map_err(|error| error.within("diffusion"))
    }
}

//! Sizes of an upsampler.

use serde::{Deserialize, Serialize};
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{DiffusionConfig, InvalidSetting, Parameterization};
use unclip_nn::{AnyUNetConfig, check};

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
    /// How the small picture is resized. Karlo's is bicubic, those of GLIDE and ADM are
    /// bilinear, those of DALLE2-pytorch repeat pixels.
    #[serde(default, skip_serializing_if = "Resize::is_bicubic")]
    pub resize: Resize,
    /// How the small picture's values become those that a file of 8 bits holds, before it is resized,
    /// if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
    /// Number of the classes of which it enlarges things, of an upsampler that is told the class
    /// (ADM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classes: Option<usize>,
    /// Width of the caption's token states, of an upsampler that reads captions by a text tower of
    /// its own (GLIDE): then that of a context token as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_text: Option<usize>,
    /// Whether it is told what stays as it is of the large picture, and where (GLIDE's for
    /// inpainting).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
    /// The U-Net. Its input is the noised picture, what is kept of it with a channel that says where,
    /// if it is told, and the resized small picture: six channels, or ten.
    pub unet: AnyUNetConfig,
    /// How it denoises.
    pub diffusion: DiffusionConfig,
}

/// How small pictures are resized.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// By Keys' cubic ([`bicubic`](unclip_core::resize::bicubic)).
    #[default]
    Bicubic,
    /// Between neighbors ([`bilinear`](unclip_core::resize::bilinear)).
    Bilinear,
    /// By repeating pixels ([`nearest`](unclip_core::resize::nearest)).
    Nearest,
}

impl Resize {
    fn is_bicubic(&self) -> bool {
        *self == Self::Bicubic
    }
}

/// How values become those of 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rounding {
    /// To the nearest (GLIDE).
    Nearest,
    /// To the next lower (ADM, which reads what it has written to a file).
    Down,
}

impl UpsamplerConfig {
    /// Channels of the pictures.
    pub const CHANNELS: usize = PICTURE_CHANNELS;

    /// An upsampler of the paper's kind: one network that sees the small picture, enlarged by a cubic,
    /// and nothing else.
    pub fn new(factor: usize, unet: impl Into<AnyUNetConfig>, diffusion: DiffusionConfig) -> Self {
        Self {
            factor,
            last_step_network: false,
            residual: false,
            resize: Resize::default(),
            rounding: None,
            classes: None,
            d_text: None,
            kept: false,
            unet: unet.into(),
            diffusion,
        }
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        if !(2..=16).contains(&self.factor) {
            return Err(InvalidSetting::new("factor", self.factor, "2 to 16"));
        }
        self.unet.validate().map_err(|error| error.within("unet"))?;
        let kept = if self.kept { Self::CHANNELS + 1 } else { 0 };
        check::equal("unet.in_channels", self.unet.in_channels(), 2 * Self::CHANNELS + kept)?;
        self.check_captions()?;
        let channels_out = self.diffusion.output_channels(Self::CHANNELS);
        check::equal("unet.out_channels", self.unet.out_channels(), channels_out)?;
        let kind = self.diffusion.parameterization;
        if self.residual
            && (kind != Parameterization::Sample || self.diffusion.variance.is_learned())
        {
            let found = format!("true, for {kind:?} and {:?}", self.diffusion.variance);
            let expected = "false, or a network that predicts the sample and no variance";
            return Err(InvalidSetting::new("residual", found, expected));
        }
        if self.diffusion.guidance_scale != 1.0 {
            let expected = "1: an upsampler has no null condition";
            let found = self.diffusion.guidance_scale;
            return Err(InvalidSetting::new("diffusion.guidance_scale", found, expected));
        }
        self.diffusion.validate().map_err(|error| error.within("diffusion"))
    }

    fn check_captions(&self) -> Result<(), InvalidSetting> {
        self.classes.map_or(Ok(()), |classes| check::size("classes", classes))?;
        if let (Some(classes), Some(_)) = (self.classes, self.d_text) {
            let expected = "absent: the upsampler reads captions";
            return Err(InvalidSetting::new("classes", classes, expected));
        }
        let Some(unet) = self.unet.adm() else { return self.check_laion() };
        let has_attention = !unet.attention_resolutions.is_empty();
        match (self.d_text, unet.d_context) {
            (None, Some(width)) => {
                let expected = "absent: the upsampler reads no captions";
                Err(InvalidSetting::new("unet.d_context", width, expected))
            }
            (Some(width), found) if found != Some(width) || !has_attention => {
                let expected = "absent, or the width of a context token of a U-Net with attention";
                Err(InvalidSetting::new("d_text", width, expected))
            }
            (Some(width), _) => check::size("d_text", width),
            (None, None) => Ok(()),
        }
    }

    /// Checks an upsampler of DALLE2-pytorch, which is told nothing but the small picture.
    fn check_laion(&self) -> Result<(), InvalidSetting> {
        let told = [
            ("d_text", self.d_text.is_some()),
            ("classes", self.classes.is_some()),
            ("kept", self.kept),
        ];
        match told.into_iter().find(|(_, is_told)| *is_told) {
            Some((field, _)) => {
                let expected =
                    "absent: an upsampler of DALLE2-pytorch is told the small picture alone";
                Err(InvalidSetting::new(field, "given", expected))
            }
            None => Ok(()),
        }
    }
}

//! Sizes of the decoder.

use serde::{Deserialize, Serialize};
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{BetaSchedule, DiffusionConfig, InvalidSetting, NoiseSchedule};
use unclip_nn::{AnyUNetConfig, check};

/// Sizes of a [`Decoder`](crate::Decoder), and how it denoises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels of what it samples: 3 of a picture, 4 of most latents.
    #[serde(default = "picture", skip_serializing_if = "is_picture")]
    pub channels: usize,
    /// Width of CLIP's space; of a decoder that reads no image embedding, that of the timestep
    /// embedding.
    pub d_embedding: usize,
    /// Width of the text tower's token states; absent in a decoder that reads no captions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_text: Option<usize>,
    /// How captions are read, if they are.
    #[serde(default, skip_serializing_if = "CaptionKind::is_masked")]
    pub captions: CaptionKind,
    /// Number of context tokens made from the image embedding; the paper and Karlo have 4. None with an
    /// augmentation, or without an image embedding.
    pub image_tokens: usize,
    /// Whether image embeddings are whitened along their principal components before anything
    /// reads them. Published decoders take them as they are.
    #[serde(default)]
    pub whitened: bool,
    /// A coarse picture of the condition that the U-Net reads alongside x_t, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<LayoutConfig>,
    /// The noise that its image embeddings have, if it was trained on such (Stable unCLIP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<Augmentation>,
    /// What it is told of every pixel, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// The U-Net. If the diffusion's variance is not learned and this gives one all the same, it is
    /// not used. Its `d_context` is the width of the context tokens; its input is x_t and the
    /// channels of layout and control.
    pub unet: AnyUNetConfig,
    /// How it denoises.
    pub diffusion: DiffusionConfig,
}

/// How a decoder reads captions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptionKind {
    /// Padding is hidden, tokens are normalized, and there is a learned embedding that stands for no
    /// picture (the paper, Karlo).
    #[default]
    Masked,
    /// Padding counts, the caption's embedding is normalized, and what stands for no picture has to
    /// be given (Kandinsky 2.1).
    Whole,
    /// They are the whole condition: no image embedding has a part in it. Padding counts, and the
    /// embedding is of the timestep embedding's width (GLIDE).
    Alone,
    /// It reads none: things of so many classes are drawn, by their numbers. Of 0 classes, it is told
    /// nothing at all (ADM).
    Classes(usize),
    /// What stands for padding, for no caption and for no picture is learned, and the middle of the
    /// U-Net alone reads captions, if they are read (DALLE2-pytorch).
    Replaced {
        /// Positions of a caption: a shorter one is filled up, what is longer is cut off.
        positions: usize,
    },
}

impl CaptionKind {
    fn is_masked(&self) -> bool {
        *self == Self::Masked
    }

    fn name(self) -> &'static str {
        match self {
            Self::Masked => "masked",
            Self::Whole => "whole",
            Self::Alone => "alone",
            Self::Classes(_) => "classes",
            Self::Replaced { .. } => "replaced",
        }
    }
}

/// Sizes of a layout: both embeddings go through one hidden layer to a small square of channels,
/// which is enlarged to the picture's size.
///
/// A timestep embedding is the same everywhere. It can say what lies where only through what the
/// network knows about each pixel's place, which a small network takes very long to learn (for a
/// trial without a layout, see `assets/shapes/RECIPE.md`). Published decoders have no layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayoutConfig {
    /// Side of the square; the picture's is this times a power of two.
    pub side: usize,
    /// Channels of the square.
    pub channels: usize,
    /// Width of the hidden layer.
    pub d_hidden: usize,
}

/// Noise that is added to an image embedding, which the decoder is told the level of: levels are
/// timesteps of a schedule of their own.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Number of levels.
    pub num_train_timesteps: usize,
    /// The noise of each.
    pub beta_schedule: BetaSchedule,
}

impl Augmentation {
    /// The schedule of its levels.
    ///
    /// # Errors
    /// See [`NoiseSchedule::new`].
    pub fn schedule(&self) -> Result<NoiseSchedule, InvalidSetting> {
        NoiseSchedule::new(self.beta_schedule, self.num_train_timesteps)
    }
}

/// What a decoder is told of every pixel beside x_t, in further channels of the U-Net's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Control {
    /// What stays as it is, and where: `channels + 1` of a decoder that was trained to draw the rest
    /// (Kandinsky's for inpainting).
    Kept,
    /// A picture that the result follows, such as a depth map: a network makes `channels` of it
    /// (ControlNet of Kandinsky 2.2).
    Hint,
}

impl Control {
    /// Channels of the U-Net's input, for a sample of so many.
    fn channels(self, sample: usize) -> usize {
        match self {
            Self::Kept => sample + 1,
            Self::Hint => sample,
        }
    }
}

/// More channels than any latent has.
const MAX_CHANNELS: usize = 64;

fn picture() -> usize {
    PICTURE_CHANNELS
}

fn is_picture(channels: &usize) -> bool {
    *channels == PICTURE_CHANNELS
}

impl DecoderConfig {
    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        check::size("d_embedding", self.d_embedding)?;
        if !(1..=MAX_CHANNELS).contains(&self.channels) {
            let expected = format!("1 to {MAX_CHANNELS}");
            return Err(InvalidSetting::new("channels", self.channels, expected));
        }
        // what follows computes with its sizes
        self.unet.validate().map_err(|error| error.within("unet"))?;
        self.check_captions()?;
        self.check_augmentation()?;
        if let Some(LayoutConfig { side, channels, d_hidden }) = self.layout {
            check::size("layout.side", side)?;
            check::size("layout.channels", channels)?;
            check::size("layout.d_hidden", d_hidden)?;
            let image_size = self.unet.image_size();
            if !image_size.is_multiple_of(side) || !(image_size / side).is_power_of_two() {
                let expected = format!("{image_size} divided by a power of two");
                return Err(InvalidSetting::new("layout.side", side, expected));
            }
        }
        let channels_in = self.channels
            + self.layout.map_or(0, |layout| layout.channels)
            + self.control.map_or(0, |control| control.channels(self.channels));
        check::equal("unet.in_channels", self.unet.in_channels(), channels_in)?;
        let channels_out = self.diffusion.output_channels(self.channels);
        // Kandinsky's give a variance that nobody uses
        if !self.needs_null_image() || self.unet.out_channels() != 2 * self.channels {
            check::equal("unet.out_channels", self.unet.out_channels(), channels_out)?;
        }
        if self.unet.d_context().is_none() && self.classes().is_none() {
            return Err(InvalidSetting::new("unet.d_context", "absent", "the width of a token"));
        }
        self.diffusion.validate().map_err(|error| error.within("diffusion"))
    }

    /// Whether captions have a part in its condition.
    pub fn reads_captions(&self) -> bool {
        self.d_text.is_some()
    }

    /// Whether an image embedding has a part in its condition.
    pub fn reads_images(&self) -> bool {
        !matches!(self.captions, CaptionKind::Alone | CaptionKind::Classes(_))
    }

    /// Number of classes of which it draws things, 0 of a decoder that is told nothing; absent if it
    /// reads captions or embeddings.
    pub fn classes(&self) -> Option<usize> {
        match self.captions {
            CaptionKind::Classes(classes) => Some(classes),
            _ => None,
        }
    }

    /// Whether guidance leads its pictures away from an embedding that has to be given, because it
    /// has learned none that stands for no picture (Kandinsky 2.1 and 2.2).
    pub fn needs_null_image(&self) -> bool {
        self.augmentation.is_none()
            && self.reads_images()
            && !self.has_null_caption()
            && (!self.reads_captions() || self.captions == CaptionKind::Whole)
    }

    /// Whether it has learned what stands for no caption, so that a negative one has no effect.
    pub fn has_null_caption(&self) -> bool {
        matches!(self.captions, CaptionKind::Replaced { .. })
    }

    fn check_augmentation(&self) -> Result<(), InvalidSetting> {
        let Some(augmentation) = &self.augmentation else {
            return if self.reads_images() {
                check::size("image_tokens", self.image_tokens)
            } else {
                check::equal("image_tokens", self.image_tokens, 0)
            };
        };
        augmentation.schedule().map_err(|error| error.within("augmentation"))?;
        if self.image_tokens != 0 {
            let expected = "0: with an augmentation, the embedding makes no tokens";
            return Err(InvalidSetting::new("image_tokens", self.image_tokens, expected));
        }
        let (found, expected) = (self.d_text.unwrap_or(0), self.unet.d_context().unwrap_or(0));
        check::equal("d_text", found, expected)?;
        if self.whitened || self.layout.is_some() || self.control.is_some() {
            let expected = "absent: the decoder whitens, or has a layout or a control";
            return Err(InvalidSetting::new("augmentation", "given", expected));
        }
        Ok(())
    }

    fn check_captions(&self) -> Result<(), InvalidSetting> {
        let kind = self.captions;
        let is_other = kind != CaptionKind::Masked;
        if is_other && (self.augmentation.is_some() || self.whitened || self.layout.is_some()) {
            let expected = "masked: the decoder whitens, or has a layout or an augmentation";
            return Err(InvalidSetting::new("captions", kind.name(), expected));
        }
        if !self.reads_images() {
            check::equal("d_embedding", self.d_embedding, self.unet.d_embedding())?;
        }
        if self.unet.adm().is_none() != self.has_null_caption() {
            let expected = "replaced with a U-Net of DALLE2-pytorch, and with no other";
            return Err(InvalidSetting::new("captions", kind.name(), expected));
        }
        if let CaptionKind::Classes(classes) = kind {
            return self.check_classes(classes);
        }
        if let CaptionKind::Replaced { positions } = kind {
            return self.check_replaced(positions);
        }
        match self.d_text {
            Some(width) => check::size("d_text", width)?,
            None if self.whitened || self.layout.is_some() || is_other => {
                let expected = "a width: a decoder that whitens, has a layout or a kind of captions \
                                reads captions";
                return Err(InvalidSetting::new("d_text", "absent", expected));
            }
            None => {}
        }
        if kind == CaptionKind::Alone {
            let (found, expected) = (self.d_text.unwrap_or(0), self.unet.d_context().unwrap_or(0));
            check::equal("d_text", found, expected)?;
        }
        match self.control {
            Some(control) if self.reads_captions() && !(is_other && control == Control::Kept) => {
                let expected = "absent, or kept with captions whole or alone: the decoder reads \
                                captions";
                Err(InvalidSetting::new("control", format!("{control:?}"), expected))
            }
            _ => Ok(()),
        }
    }

    /// Checks a decoder of DALLE2-pytorch, which is told nothing of single pixels.
    fn check_replaced(&self, positions: usize) -> Result<(), InvalidSetting> {
        check::size("captions.replaced.positions", positions)?;
        self.d_text.map_or(Ok(()), |width| check::size("d_text", width))?;
        match self.control {
            Some(control) => {
                let expected = "absent: a decoder of DALLE2-pytorch has none";
                Err(InvalidSetting::new("control", format!("{control:?}"), expected))
            }
            None => Ok(()),
        }
    }

    /// Checks a decoder of classes, which is told nothing else and knows no null condition.
    fn check_classes(&self, classes: usize) -> Result<(), InvalidSetting> {
        if classes > 0 {
            check::size("captions.classes", classes)?;
        }
        let absent = |field: &str, found: String| {
            let expected = "absent: a decoder of classes is told nothing else";
            Err(InvalidSetting::new(field, found, expected))
        };
        if let Some(width) = self.d_text {
            return absent("d_text", width.to_string());
        }
        if let Some(width) = self.unet.d_context() {
            return absent("unet.d_context", width.to_string());
        }
        if let Some(control) = self.control {
            return absent("control", format!("{control:?}"));
        }
        match self.diffusion.guidance_scale {
            1.0 => Ok(()),
            scale => {
                let expected = "1: a decoder of classes has no null condition";
                Err(InvalidSetting::new("diffusion.guidance_scale", scale, expected))
            }
        }
    }
}

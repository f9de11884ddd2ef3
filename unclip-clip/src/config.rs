//! Sizes of CLIP's towers.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::{ConfigError, TransformerConfig};

use crate::{ImageEncoder, TextEncoder};

/// Sizes of a [`TextEncoder`](crate::TextEncoder).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoderConfig {
    /// Number of tokens that the tokenizer knows.
    pub vocab_size: usize,
    /// Number of positions: tokens of a caption with its two marks and padding.
    pub context_length: usize,
    /// Width of CLIP's space.
    pub d_embedding: usize,
    /// The tower.
    pub transformer: TransformerConfig,
}

impl TextEncoderConfig {
    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::check_size("vocab_size", self.vocab_size)?;
        ConfigError::check_size("context_length", self.context_length)?;
        ConfigError::check_size("d_embedding", self.d_embedding)?;
        if self.context_length < 3 {
            let expected = "at least 3: two marks and a token";
            return Err(ConfigError::new("context_length", self.context_length, expected));
        }
        self.transformer.validate()
    }
}

/// How a picture is brought to the image tower's square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// The shorter side is resized to the square's, the longer one cut at both ends (OpenAI,
    /// diffusers).
    Crop,
    /// Both sides are resized, the proportions lost (original Karlo).
    Squash,
}

/// Sizes of an [`ImageEncoder`](crate::ImageEncoder), and the pictures that it wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEncoderConfig {
    /// Side of the square picture, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width of CLIP's space.
    pub d_embedding: usize,
    /// The tower.
    pub transformer: TransformerConfig,
    /// Mean of each channel over the training pictures, in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviation of each channel, in [0, 1].
    pub std: [f32; 3],
    /// How pictures of other proportions are fitted.
    pub fit: Fit,
}

impl ImageEncoderConfig {
    /// Number of tokens: one per patch, and the class token.
    pub fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::check_size("image_size", self.image_size)?;
        ConfigError::check_size("patch_size", self.patch_size)?;
        ConfigError::check_multiple("image_size", self.image_size, "patch_size", self.patch_size)?;
        ConfigError::check_size("d_embedding", self.d_embedding)?;
        let usable = |v: &f32| v.is_finite() && *v > 1e-6;
        if !self.std.iter().all(usable) || !self.mean.iter().all(|v| v.is_finite()) {
            let found = format!("{:?} and {:?}", self.mean, self.std);
            return Err(ConfigError::new("mean and std", found, "finite, std above 0"));
        }
        self.transformer.validate()
    }
}

impl StageConfig for TextEncoderConfig {
    const STAGE: &'static str = "text_encoder";
    const KEYS: KeyMap = crate::formats::HUGGING_FACE;
    type Network = TextEncoder;

    fn validate(&self) -> Result<(), ConfigError> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        self.transformer.layers()
    }

    fn init(&self, device: &Device) -> TextEncoder {
        self.init(device)
    }
}

impl StageConfig for ImageEncoderConfig {
    const STAGE: &'static str = "image_encoder";
    const KEYS: KeyMap = crate::formats::HUGGING_FACE;
    type Network = ImageEncoder;

    fn validate(&self) -> Result<(), ConfigError> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        self.transformer.layers()
    }

    fn init(&self, device: &Device) -> ImageEncoder {
        self.init(device)
    }
}

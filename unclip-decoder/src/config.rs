//! Sizes of the decoder.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use unclip_core::DiffusionConfig;
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::{ConfigError, UNetConfig};

use crate::Decoder;

/// Sizes of a [`Decoder`](crate::Decoder), and how it denoises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Width of CLIP's space.
    pub d_embedding: usize,
    /// Width of the text tower's token states.
    pub d_text: usize,
    /// Context tokens that are made of the image embedding; the paper and Karlo have 4.
    pub image_tokens: usize,
    /// Whether image embeddings are whitened along their principal components before anything
    /// reads them. Published decoders take them as they are.
    #[serde(default)]
    pub whitened: bool,
    /// The U-Net. Its `d_context` is the width of the context tokens.
    pub unet: UNetConfig,
    /// How it denoises.
    pub diffusion: DiffusionConfig,
}

impl DecoderConfig {
    /// Channels of the pictures.
    pub const CHANNELS: usize = 3;

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::check_size("d_embedding", self.d_embedding)?;
        ConfigError::check_size("d_text", self.d_text)?;
        ConfigError::check_size("image_tokens", self.image_tokens)?;
        self.unet.validate()?;
        ConfigError::check_equal("unet.in_channels", self.unet.in_channels, Self::CHANNELS)?;
        let channels_out = self.diffusion.output_channels(Self::CHANNELS);
        ConfigError::check_equal("unet.out_channels", self.unet.out_channels, channels_out)?;
        if self.unet.d_context.is_none() {
            return Err(ConfigError::new("unet.d_context", "absent", "the width of a token"));
        }
        self.diffusion
            .validate()
            .map_err(|e| ConfigError::new(format!("diffusion: {}", e.name), e.found, e.expected))
    }
}

impl StageConfig for DecoderConfig {
    const STAGE: &'static str = "decoder";
    const KEYS: KeyMap = crate::formats::DIFFUSERS;
    type Network = Decoder;

    fn validate(&self) -> Result<(), ConfigError> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        self.unet.layers()
    }

    fn init(&self, device: &Device) -> Decoder {
        self.init(device)
    }
}

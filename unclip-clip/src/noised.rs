//! An image tower that reads noised pictures, for guidance.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use unclip_core::{ImageEmbedding, InvalidSetting};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::{TimestepEmbedding, TransformerConfig};

use crate::config::NAMES;
use crate::{Fit, ImageEncoder, ImageEncoderConfig};

/// Sizes of a [`NoisedImageEncoder`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoisedImageEncoderConfig {
    /// Side of the square picture, in pixels: that of the decoder it is to guide.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width of CLIP's space.
    pub d_embedding: usize,
    /// The tower.
    pub transformer: TransformerConfig,
}

/// An image tower of a CLIP that was trained on noised pictures (GLIDE, Nichol et al. 2021, section
/// 2.3): it is told the timestep, which is added to its class token. Its answers are compared with
/// the text tower of a CLIP of clean pictures.
///
/// The length of an answer says how sure it is: its product with the direction of a caption's
/// embedding is the logarithm of that caption's odds.
#[derive(Module, Debug)]
pub struct NoisedImageEncoder {
    tower: ImageEncoder,
    time_embedding: TimestepEmbedding,
}

impl NoisedImageEncoderConfig {
    fn tower(&self) -> ImageEncoderConfig {
        ImageEncoderConfig {
            unit_length: false,
            image_size: self.image_size,
            patch_size: self.patch_size,
            d_embedding: self.d_embedding,
            transformer: self.transformer.clone(),
            // it reads the sample as it is
            mean: [0.5; 3],
            std: [0.5; 3],
            fit: Fit::Crop,
        }
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        self.tower().validate()
    }

    /// The tower, with fresh weights.
    pub fn init(&self, device: &Device) -> NoisedImageEncoder {
        let d_model = self.transformer.d_model;
        NoisedImageEncoder {
            tower: self.tower().init(device),
            time_embedding: TimestepEmbedding::new(d_model, d_model, device),
        }
    }
}

impl StageConfig for NoisedImageEncoderConfig {
    const STAGE: &'static str = "noised_image_encoder";
    const KEYS: KeyMap = NAMES;
    type Network = NoisedImageEncoder;

    fn validate(&self) -> Result<(), InvalidSetting> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        self.transformer.layers().within("transformer")
    }

    fn init(&self, device: &Device) -> NoisedImageEncoder {
        self.init(device)
    }
}

impl NoisedImageEncoder {
    /// Embeds a batch of noised pictures.
    ///
    /// # Shapes
    /// - `x_t`: `[batch, 3, image_size, image_size]`, as the decoder's sampler has it
    /// - `timesteps`: `[batch]`, of the decoder's training schedule
    pub fn forward(&self, x_t: Tensor<4>, timesteps: Tensor<1>) -> ImageEmbedding {
        let told = self.time_embedding.forward(timesteps);
        self.tower.forward_told(x_t, Some(told))
    }
}

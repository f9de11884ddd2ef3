//! An autoencoder: both ways, and what a latent is.

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{DType, Device, Tensor};
use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::ops::conv;

use crate::blocks::conv1x1;
use crate::norm::SpatialNorm;
use crate::paths::{Decoder, Encoder};
use crate::{AutoencoderConfig, Codebook, Latents, Tiling};

/// Turns pictures into latents and back.
#[derive(Module, Debug)]
pub struct Autoencoder {
    encoder: Encoder,
    quant_conv: Conv2d,
    quantize: Option<Codebook>,
    post_quant_conv: Conv2d,
    decoder: AnyDecoder,
    factor: usize,
    scaling_factor: f64,
}

/// A decoder with norms of either kind.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a whole network")]
enum AnyDecoder {
    Plain(Decoder<GroupNorm>),
    Spatial(Decoder<SpatialNorm>),
}

/// Pictures as latents, each value of which may be uncertain.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The most probable latents: `[batch, channels, height / factor, width / factor]`.
    pub mean: Tensor<4>,
    /// Their standard deviations, of an autoencoder whose latents are distributions.
    pub deviation: Option<Tensor<4>>,
}

impl Encoded {
    /// Latents drawn by this noise, of the shape of the mean; the mean if nothing is uncertain.
    pub fn drawn(&self, noise: Tensor<4>) -> Tensor<4> {
        match &self.deviation {
            Some(deviation) => self.mean.clone() + deviation.clone() * noise,
            None => self.mean.clone(),
        }
    }
}

impl AutoencoderConfig {
    /// The autoencoder, with fresh weights.
    pub fn init(&self, device: &Device) -> Autoencoder {
        let (latent, stored) = (self.latent_channels, self.stored_channels());
        let (quantize, spatial, encoded) = match self.latents {
            Latents::Kl => (None, false, [2 * latent; 2]),
            Latents::Codes { n_codes, d_code, spatial_norm } => {
                (Some(Codebook::new(n_codes, d_code, device)), spatial_norm, [latent, d_code])
            }
        };
        let decoder = if spatial {
            AnyDecoder::Spatial(Decoder::new(self, device))
        } else {
            AnyDecoder::Plain(Decoder::new(self, device))
        };
        Autoencoder {
            encoder: Encoder::new(self, device),
            quant_conv: conv1x1(encoded, device),
            quantize,
            post_quant_conv: conv1x1([stored, latent], device),
            decoder,
            factor: self.factor(),
            scaling_factor: self.scaling_factor,
        }
    }
}

/// Names of tensors in files: attention's norm is named after its kind.
const NAMES: KeyMap = KeyMap::new(&[
    (".norm.norm_layer.", ".spatial_norm.norm_layer."),
    (".norm.conv_", ".spatial_norm.conv_"),
    (".norm.", ".group_norm."),
    (".Plain.", "."),
    (".Spatial.", "."),
]);

impl StageConfig for AutoencoderConfig {
    const STAGE: &'static str = "autoencoder";
    const KEYS: KeyMap = NAMES;
    type Network = Autoencoder;

    fn validate(&self) -> Result<(), InvalidSetting> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        let levels = self.block_out_channels.len();
        Layers { field: "num_res_blocks".into(), each: self.num_res_blocks, levels }
    }

    fn init(&self, device: &Device) -> Autoencoder {
        self.init(device)
    }
}

impl Autoencoder {
    /// Pictures as latents, in the units that a decoder of latents samples.
    ///
    /// # Shapes
    /// - `pictures`: `[batch, 3, height, width]` in [−1, 1], sides multiples of
    ///   [`AutoencoderConfig::factor`]
    pub fn encode(&self, pictures: Tensor<4>) -> Encoded {
        self.moments(one_by_one(pictures, |picture| self.encoded(picture)))
    }

    /// Like [`encode`](Self::encode), in tiles.
    pub fn encode_tiled(&self, pictures: Tensor<4>, tiling: Tiling) -> Encoded {
        let tiled = |picture| tiling.encode(&picture, self.factor, |tile| self.encoded(tile));
        self.moments(one_by_one(pictures, tiled))
    }

    /// Latents as pictures, not limited to [−1, 1].
    ///
    /// # Shapes
    /// - `latents`: `[batch, channels, height, width]`, in the units of [`encode`](Self::encode)
    /// - result: `[batch, 3, height · factor, width · factor]`
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        one_by_one(latents / self.scaling_factor, |latent| self.decoded(latent))
    }

    /// Like [`decode`](Self::decode), in tiles.
    pub fn decode_tiled(&self, latents: Tensor<4>, tiling: Tiling) -> Tensor<4> {
        let tiled = |latent| tiling.decode(&latent, self.factor, |tile| self.decoded(tile));
        one_by_one(latents / self.scaling_factor, tiled)
    }

    /// Latents rounded to the codebook, of an autoencoder that has one.
    pub fn quantized(&self, latents: Tensor<4>) -> Option<Tensor<4>> {
        let codebook = self.codebook()?;
        let codes = codebook.codes(latents / self.scaling_factor);
        Some(codebook.entries(codes) * self.scaling_factor)
    }

    /// The codebook, if latents can be rounded to one. Its entries are latents before scaling.
    pub fn codebook(&self) -> Option<&Codebook> {
        self.quantize.as_ref()
    }

    fn encoded(&self, picture: Tensor<4>) -> Tensor<4> {
        conv(&self.quant_conv, self.encoder.forward(picture)).cast(DType::F32)
    }

    fn moments(&self, encoded: Tensor<4>) -> Encoded {
        let scale = self.scaling_factor;
        if self.quantize.is_some() {
            return Encoded { mean: encoded * scale, deviation: None };
        }
        let channels = encoded.dims()[1] / 2;
        let mean = encoded.clone().narrow(1, 0, channels) * scale;
        // limited as in the reference
        let log_variance = encoded.narrow(1, channels, channels).clamp(-30.0, 20.0);
        Encoded { mean, deviation: Some((log_variance * 0.5).exp() * scale) }
    }

    fn decoded(&self, latent: Tensor<4>) -> Tensor<4> {
        let x = conv(&self.post_quant_conv, latent.clone());
        let picture = match &self.decoder {
            AnyDecoder::Plain(decoder) => decoder.forward(x, &latent),
            AnyDecoder::Spatial(decoder) => decoder.forward(x, &latent),
        };
        picture.cast(DType::F32)
    }
}

/// A call for each item of a batch: a batch would be faster by nothing, and take all its memory at
/// once.
fn one_by_one(batch: Tensor<4>, call: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    let items = (0..batch.dims()[0]).map(|row| call(batch.clone().narrow(0, row, 1)));
    Tensor::cat(items.collect(), 0)
}

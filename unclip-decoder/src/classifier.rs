//! A classifier of noised pictures, which guides a decoder to a class.
//!
//! Source: *Diffusion Models Beat GANs on Image Synthesis* (Dhariwal & Nichol 2021), section 4.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{InvalidSetting, check_guidance_scale};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::ops::linear;
use unclip_nn::{UNet, UNetConfig, UNetEncoder, attend, check};

/// Sizes of a [`Classifier`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Number of classes.
    pub classes: usize,
    /// How strongly it guides, unless something else is asked for.
    pub scale: f64,
    /// The U-Net, of which it has the way down and the middle, with attention.
    pub unet: UNetConfig,
}

impl ClassifierConfig {
    /// Side of what the pictures are at the coarsest level.
    fn inner_side(&self) -> usize {
        self.unet.image_size / self.unet.size_multiple()
    }

    /// The classifier, with fresh weights.
    pub fn init(&self, device: &Device) -> Classifier {
        let encoder = self.unet.init_encoder(device);
        Classifier { encoder, pool: AttentionPool::new(self, device) }
    }
}

impl StageConfig for ClassifierConfig {
    const STAGE: &'static str = "classifier";
    const KEYS: KeyMap = KeyMap::NONE.then(UNet::NAMES);
    type Network = Classifier;

    fn validate(&self) -> Result<(), InvalidSetting> {
        check::size("classes", self.classes)?;
        check_guidance_scale("scale", self.scale)?;
        self.unet.validate().map_err(|error| error.within("unet"))?;
        check::equal("unet.in_channels", self.unet.in_channels, PICTURE_CHANNELS)?;
        check::equal("unet.patch_size", self.unet.patch_size, 1)?;
        let unet = &self.unet;
        if unet.attention_resolutions.is_empty() {
            let expected = "some levels: a classifier has attention";
            return Err(InvalidSetting::new("unet.attention_resolutions", "empty", expected));
        }
        if let Some(width) = unet.d_context {
            let expected = "absent: a classifier reads pictures alone";
            return Err(InvalidSetting::new("unet.d_context", width, expected));
        }
        if unet.coordinates {
            let expected = "false: a classifier is told no positions";
            return Err(InvalidSetting::new("unet.coordinates", true, expected));
        }
        let inner = self.unet.block_out_channels.last().copied().unwrap_or(1);
        check::multiple("unet.block_out_channels", inner, "d_head", self.unet.d_head)
    }

    fn layers(&self) -> Layers {
        self.unet.layers().within("unet")
    }

    fn init(&self, device: &Device) -> Classifier {
        self.init(device)
    }
}

/// Says what class of things a noised picture shows.
#[derive(Module, Debug)]
pub struct Classifier {
    encoder: UNetEncoder,
    pool: AttentionPool,
}

impl Classifier {
    /// Log-odds of each class.
    ///
    /// # Shapes
    /// - `x_t`: `[batch, 3, side, side]`
    /// - `timesteps`: `[batch]`, of the training schedule
    /// - result: `[batch, classes]`
    pub fn forward(&self, x_t: Tensor<4>, timesteps: Tensor<1>) -> Tensor<2> {
        self.pool.forward(self.encoder.forward(x_t, timesteps)).cast(DType::F32)
    }
}

/// The mean of all pixels looks at the pixels, and at itself (after CLIP's image towers of 2021).
#[derive(Module, Debug)]
struct AttentionPool {
    positional_embedding: Param<Tensor<2>>,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    c_proj: Linear,
    n_heads: usize,
}

impl AttentionPool {
    fn new(config: &ClassifierConfig, device: &Device) -> Self {
        let channels = config.unet.block_out_channels.last().copied().unwrap_or(1);
        let tokens = config.inner_side().pow(2) + 1;
        let dense = |d_out| LinearConfig::new(channels, d_out).init(device);
        Self {
            positional_embedding: Initializer::Normal { mean: 0.0, std: 0.02 }
                .init([tokens, channels], device),
            to_q: dense(channels),
            to_k: dense(channels),
            to_v: dense(channels),
            c_proj: dense(config.classes),
            n_heads: channels / config.unet.d_head,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let [batch, channels, height, width] = x.dims();
        let pixels = x.reshape([batch, channels, height * width]).swap_dims(1, 2);
        let tokens = Tensor::cat(vec![pixels.clone().mean_dim(1), pixels], 1);
        let positions = self.positional_embedding.val().unsqueeze::<3>();
        let tokens = tokens.clone() + positions.cast(tokens.dtype());
        // only what the mean sees is read
        let q = linear(&self.to_q, tokens.clone().narrow(1, 0, 1));
        let (k, v) = (linear(&self.to_k, tokens.clone()), linear(&self.to_v, tokens));
        let seen = attend(q, k, v, self.n_heads, None);
        linear(&self.c_proj, seen).squeeze_dim::<2>(1)
    }
}

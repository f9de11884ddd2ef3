//! A condition of an image embedding alone (Kandinsky 2.2).

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use unclip_core::ImageEmbedding;
use unclip_nn::ops::linear;
use unclip_nn::{Context, LayerNorm};

use crate::DecoderConfig;
use crate::condition::Bound;

/// The condition of a decoder that reads no captions: its embedding as an addition to the timestep
/// embedding and as context tokens, both normalized.
#[derive(Module, Debug)]
pub struct ImageAlone {
    image_proj: Linear,
    image_norm: LayerNorm,
    tokens_proj: Linear,
    tokens_norm: LayerNorm,
    image_tokens: usize,
}

impl ImageAlone {
    pub(crate) fn new(config: &DecoderConfig, device: &Device) -> Self {
        let (d_time, d_context) = (config.unet.d_embedding(), config.unet.d_context.unwrap_or(1));
        let from_clip = |d_out| LinearConfig::new(config.d_embedding, d_out).init(device);
        let norm = |width| LayerNorm::new(width, LayerNorm::EPSILON, device);
        Self {
            image_proj: from_clip(d_time),
            image_norm: norm(d_time),
            tokens_proj: from_clip(d_context * config.image_tokens),
            tokens_norm: norm(d_context),
            image_tokens: config.image_tokens,
        }
    }

    pub(crate) fn forward(&self, image: &ImageEmbedding) -> Bound {
        let emb = self.image_norm.forward(linear(&self.image_proj, image.0.clone()));
        let tokens = linear(&self.tokens_proj, image.0.clone());
        let [batch, width] = tokens.dims();
        // here, other than in Karlo, one token follows the other
        let tokens = tokens.reshape([batch, self.image_tokens, width / self.image_tokens]);
        let context = Context { tokens: self.tokens_norm.forward(tokens), mask: None };
        Bound { emb, context, layout: None }
    }
}

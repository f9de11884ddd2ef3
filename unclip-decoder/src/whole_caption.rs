//! A condition of an image embedding and a caption, padding included (Kandinsky 2.1).

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use unclip_nn::ops::linear;
use unclip_nn::{Context, LayerNorm};

use crate::DecoderConfig;
use crate::condition::{Bound, Condition};

/// The condition of a decoder that reads captions by a text tower of its own: the caption's
/// embedding, normalized, and the image embedding as an addition to the timestep embedding; tokens of
/// both as context. Padding counts.
#[derive(Module, Debug)]
pub struct WholeCaption {
    pooled_proj: Linear,
    pooled_norm: LayerNorm,
    image_proj: Linear,
    image_tokens_proj: Linear,
    text_tokens_proj: Linear,
    image_tokens: usize,
}

impl WholeCaption {
    pub(crate) fn new(config: &DecoderConfig, d_text: usize, device: &Device) -> Self {
        let (d_time, d_context) = (config.unet.d_embedding(), config.unet.d_context().unwrap_or(1));
        let from_clip = |d_out| LinearConfig::new(config.d_embedding, d_out).init(device);
        Self {
            pooled_proj: from_clip(d_time),
            pooled_norm: LayerNorm::new(d_time, LayerNorm::EPSILON, device),
            image_proj: from_clip(d_time),
            image_tokens_proj: from_clip(d_context * config.image_tokens),
            text_tokens_proj: LinearConfig::new(d_text, d_context).init(device),
            image_tokens: config.image_tokens,
        }
    }

    pub(crate) fn forward(&self, condition: &Condition) -> Bound {
        let (image, text) = (&condition.image().0, condition.text());
        let pooled = linear(&self.pooled_proj, text.pooled.clone());
        let emb = self.pooled_norm.forward(pooled) + linear(&self.image_proj, image.clone());
        let from_image = linear(&self.image_tokens_proj, image.clone());
        let [batch, width] = from_image.dims();
        // here, other than in Karlo, one token follows the other
        let from_image = from_image.reshape([batch, self.image_tokens, width / self.image_tokens]);
        let from_text = linear(&self.text_tokens_proj, text.tokens.clone());
        let tokens = Tensor::cat(vec![from_image, from_text], 1);
        Bound {
            emb: Some(emb),
            context: Some(Context { tokens, mask: None }),
            layout: condition.control.clone(),
            middle: None,
        }
    }
}

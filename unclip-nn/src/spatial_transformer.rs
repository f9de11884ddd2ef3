//! The U-Net's attention as a block of a transformer: pixels look at each other, then at the context.

use burn::module::Module;
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Tensor};

use crate::attention_block::SeenContext;
use crate::ops::{attend, gelu, group_norm, linear};
use crate::{AttentionBlockConfig, Context, KeysValues, LayerNorm};

/// What the first norm adds to a variance.
const GROUP_NORM_EPSILON: f64 = 1e-6;

/// Attention of pixels to each other, then to the context, then a gated hidden layer: each behind a
/// norm and added to its input, and all of it added to the picture.
///
/// Source: Stable Diffusion (Rombach et al. 2022), with linear projections as in its version 2.
#[derive(Module, Debug)]
pub struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    transformer_blocks: [CrossBlock; 1],
    proj_out: Linear,
}

#[derive(Module, Debug)]
struct CrossBlock {
    norm1: LayerNorm,
    attn1: CrossAttention,
    norm2: LayerNorm,
    attn2: CrossAttention,
    norm3: LayerNorm,
    ff: GatedMlp,
}

/// Attention to tokens that may be of another width, with a bias at its output alone.
#[derive(Module, Debug)]
struct CrossAttention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: [Linear; 1],
    n_heads: usize,
}

/// GEGLU (Shazeer 2020): one half of the hidden layer, times the GELU of the other.
#[derive(Module, Debug)]
struct GatedMlp {
    c_fc: Linear,
    c_proj: Linear,
}

impl SpatialTransformer {
    /// A block of the given sizes. Without context, the second attention is to the pixels again.
    pub fn new(config: &AttentionBlockConfig, device: &Device) -> Self {
        let channels = config.channels;
        let projection = || LinearConfig::new(channels, channels).init(device);
        let norm = || LayerNorm::new(channels, LayerNorm::EPSILON, device);
        let d_context = config.d_context.unwrap_or(channels);
        Self {
            norm: GroupNormConfig::new(config.norm_groups, channels)
                .with_epsilon(GROUP_NORM_EPSILON)
                .init(device),
            proj_in: projection(),
            transformer_blocks: [CrossBlock {
                norm1: norm(),
                attn1: CrossAttention::new(config, channels, device),
                norm2: norm(),
                attn2: CrossAttention::new(config, d_context, device),
                norm3: norm(),
                ff: GatedMlp {
                    c_fc: LinearConfig::new(channels, 8 * channels).init(device),
                    c_proj: LinearConfig::new(4 * channels, channels).init(device),
                },
            }],
            proj_out: projection(),
        }
    }

    /// Projects the context, once for all calls.
    pub fn read(&self, context: &Context) -> SeenContext {
        let [block] = &self.transformer_blocks;
        SeenContext::new(block.attn2.keys_values(&context.tokens), context.mask.clone())
    }

    /// The picture after the block.
    ///
    /// # Shapes
    /// - `x`, result: `[batch, channels, height, width]`
    /// - `context`: what [`read`](Self::read) gave
    pub fn forward(&self, x: Tensor<4>, context: Option<&SeenContext>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let tokens = group_norm(&self.norm, x.clone()).reshape([batch, channels, height * width]);
        let mut h = linear(&self.proj_in, tokens.swap_dims(1, 2));
        for block in &self.transformer_blocks {
            h = block.forward(h, context);
        }
        let h = linear(&self.proj_out, h);
        x + h.swap_dims(1, 2).reshape([batch, channels, height, width])
    }
}

impl CrossBlock {
    fn forward(&self, x: Tensor<3>, context: Option<&SeenContext>) -> Tensor<3> {
        let normed = self.norm1.forward(x.clone());
        let own = self.attn1.keys_values(&normed);
        let x = added(x, self.attn1.forward(normed, own, None));
        let normed = self.norm2.forward(x.clone());
        let (seen, hidden) = match context {
            Some(context) => (context.seen(), context.hidden(0)),
            None => (self.attn2.keys_values(&normed), None),
        };
        let x = added(x, self.attn2.forward(normed, seen, hidden));
        let h = self.ff.forward(self.norm3.forward(x.clone()));
        added(x, h)
    }
}

/// The sum, in the number format of what is added.
fn added(x: Tensor<3>, h: Tensor<3>) -> Tensor<3> {
    x.cast(h.dtype()) + h
}

impl CrossAttention {
    fn new(config: &AttentionBlockConfig, d_seen: usize, device: &Device) -> Self {
        let channels = config.channels;
        let from = |width: usize| LinearConfig::new(width, channels).with_bias(false).init(device);
        Self {
            to_q: from(channels),
            to_k: from(d_seen),
            to_v: from(d_seen),
            to_out: [LinearConfig::new(channels, channels).init(device)],
            n_heads: channels / config.d_head,
        }
    }

    fn keys_values(&self, tokens: &Tensor<3>) -> KeysValues {
        KeysValues {
            keys: linear(&self.to_k, tokens.clone()),
            values: linear(&self.to_v, tokens.clone()),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        seen: KeysValues,
        hidden: Option<Tensor<4, Bool>>,
    ) -> Tensor<3> {
        let q = linear(&self.to_q, x);
        linear(&self.to_out[0], attend(q, seen.keys, seen.values, self.n_heads, hidden))
    }
}

impl GatedMlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let hidden = linear(&self.c_fc, x);
        let width = hidden.dims()[2] / 2;
        let gate = gelu(hidden.clone().narrow(2, width, width));
        linear(&self.c_proj, hidden.narrow(2, 0, width) * gate)
    }
}

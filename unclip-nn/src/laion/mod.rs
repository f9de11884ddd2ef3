//! The U-Net of DALLE2-pytorch, by which LAION's decoders and upsamplers draw.
//!
//! It differs from ADM's in all but the idea: the timestep is context tokens as well, pixels attend to
//! the context inside of residual blocks, and the caption is read in the middle alone. Pictures are halved
//! by moving pixels into channels, or by strided convolutions in the early releases, and doubled by moving
//! channels into pixels or by repeating pixels.

mod attention;
mod blocks;
mod config;
mod path;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};

pub use config::{LaionRelease, LaionUNetConfig, LevelAttention};

use crate::ops::{conv, gelu, linear, silu};
use crate::{LayerNorm, NullAttention, NullAttentionConfig, sine_first_embedding};
use blocks::{Block, Conditions, Stem, as_tokens, same_size};
use path::{DownLevel, UpLevel};

/// Maps a picture to one of the same size, through ever smaller ones and back.
///
/// Source: DALLE2-pytorch 1.0.3 and 1.15.6.
#[derive(Module, Debug)]
pub struct LaionUNet {
    init_conv: Stem,
    to_time_hiddens: Linear,
    to_time_tokens: Linear,
    to_time_cond: Linear,
    norm_cond: LayerNorm,
    norm_mid_cond: LayerNorm,
    init_resnet_block: Option<Block>,
    downs: Vec<DownLevel>,
    mid_block1: Block,
    mid_attn: NullAttention,
    mid_block2: Block,
    ups: Vec<UpLevel>,
    final_resnet_block: Block,
    to_out: Conv2d,
    channels: usize,
    time_tokens: usize,
    read_again: usize,
    scaled_skips: bool,
}

/// What a [`LaionUNet`] reads beside the picture and its timestep.
#[derive(Debug, Clone, Default)]
pub struct LaionContext {
    /// Addition to the timestep embedding, `[batch, d_embedding]`.
    pub emb: Option<Tensor<2>>,
    /// Tokens beside those of the timestep, `[batch, seq, d_context]`, not normalized.
    pub tokens: Option<Tensor<3>>,
    /// Tokens that the middle reads beside these, likewise.
    pub middle: Option<Tensor<3>>,
}

impl LaionUNetConfig {
    /// The network, with fresh weights.
    ///
    /// # Panics
    /// May panic if [`validate`](Self::validate) fails.
    pub fn init(&self, device: &Device) -> LaionUNet {
        let (channels, d_time) = (self.channels, self.d_embedding());
        let last = self.block_out_channels.len() - 1;
        let inner = self.block_out_channels[last];
        let attention = NullAttentionConfig {
            d_model: inner,
            d_context: None,
            n_heads: self.n_heads,
            d_head: self.d_head,
            comparison: self.comparison(),
        };
        let block = |sizes, reads_context| Block::new(self, sizes, reads_context, device);
        let norm = || LayerNorm::new(self.d_context, LayerNorm::EPSILON, device);
        let projection = |d_in, d_out| LinearConfig::new(d_in, d_out).init(device);
        LaionUNet {
            init_conv: Stem::new(self, device),
            to_time_hiddens: projection(channels, d_time),
            to_time_tokens: projection(d_time, self.d_context * self.time_tokens),
            to_time_cond: projection(d_time, d_time),
            norm_cond: norm(),
            norm_mid_cond: norm(),
            init_resnet_block: self.halves_first.then(|| block([channels; 2], false)),
            downs: (0..=last).map(|level| DownLevel::new(self, level, device)).collect(),
            mid_block1: block([inner; 2], true),
            mid_attn: attention.init(device),
            mid_block2: block([inner; 2], true),
            ups: (0..=last).rev().map(|level| UpLevel::new(self, level, device)).collect(),
            final_resnet_block: block([2 * channels, channels], false),
            to_out: same_size(
                channels + self.read_again,
                self.out_channels,
                self.last_kernel,
                device,
            ),
            channels,
            time_tokens: self.time_tokens,
            read_again: self.read_again,
            scaled_skips: self.scaled_skips,
        }
    }
}

impl LaionUNet {
    /// Takes the picture down to the coarsest level and up again, where each level also reads what the
    /// way down left there.
    ///
    /// # Shapes
    /// - `x`: `[batch, in_channels, height, width]`, both sides multiples of
    ///   [`LaionUNetConfig::size_multiple`]
    /// - `timesteps`: `[batch]`
    /// - result: `[batch, out_channels, height, width]`
    pub fn forward(&self, x: Tensor<4>, timesteps: Tensor<1>, read: &LaionContext) -> Tensor<4> {
        let (outer, middle) = self.conditions(timesteps, read);
        let channels_in = x.dims()[1];
        let again = (self.read_again > 0)
            .then(|| x.clone().narrow(1, channels_in - self.read_again, self.read_again));
        let first = self.init_conv.forward(&x);
        let mut x = match &self.init_resnet_block {
            Some(block) => block.forward(first.clone(), &outer),
            None => first.clone(),
        };
        let mut skips = Vec::new();
        for level in &self.downs {
            x = level.forward(x, &outer, &mut skips);
        }
        x = self.mid_block1.forward(x, &middle);
        x = as_tokens(x, |tokens| self.mid_attn.forward(tokens, None));
        x = self.mid_block2.forward(x, &middle);
        let scale = if self.scaled_skips { 0.5f64.sqrt() } else { 1.0 };
        for level in &self.ups {
            x = level.forward(x, &outer, || skips.pop().map(|skip| skip * scale));
        }
        let x = self.final_resnet_block.forward(Tensor::cat(vec![x, first], 1), &outer);
        let x = match again {
            Some(again) => Tensor::cat(vec![x.clone(), again.cast(x.dtype())], 1),
            None => x,
        };
        conv(&self.to_out, x).cast(DType::F32)
    }

    /// What the levels read, and what the middle does.
    fn conditions(&self, timesteps: Tensor<1>, read: &LaionContext) -> (Conditions, Conditions) {
        let sinusoids = sine_first_embedding(timesteps, self.channels);
        let hiddens = gelu(linear(&self.to_time_hiddens, sinusoids));
        let tokens = linear(&self.to_time_tokens, hiddens.clone());
        let [batch, width] = tokens.dims();
        let tokens = tokens.reshape([batch, self.time_tokens, width / self.time_tokens]);
        let emb = linear(&self.to_time_cond, hiddens);
        let emb = match &read.emb {
            Some(added) => emb.clone() + added.clone().cast(emb.dtype()),
            None => emb,
        };
        let joined = |tokens: Tensor<3>, others: &Option<Tensor<3>>| match others {
            Some(others) => {
                let others = others.clone().cast(tokens.dtype());
                Tensor::cat(vec![tokens, others], 1)
            }
            None => tokens,
        };
        let outer = joined(tokens, &read.tokens);
        let middle = joined(outer.clone(), &read.middle);
        let emb = silu(emb);
        (
            Conditions { emb: emb.clone(), context: self.norm_cond.forward(outer) },
            Conditions { emb, context: self.norm_mid_cond.forward(middle) },
        )
    }
}

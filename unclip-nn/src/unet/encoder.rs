//! The first half of a U-Net: what a picture is at its coarsest level.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::{Device, Tensor};

use super::config::UNetConfig;
use super::path::{Conditions, DownBlock, MiddleBlock};
use crate::TimestepEmbedding;
use crate::ops::{conv, group_norm_silu, silu};
use crate::res_block::conv3x3;

/// The way down of a [`UNet`](crate::UNet) and its middle, without context.
///
/// Source: the classifiers of ADM (Dhariwal & Nichol 2021, section 4).
#[derive(Module, Debug)]
pub struct UNetEncoder {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MiddleBlock,
    conv_norm_out: GroupNorm,
}

impl UNetConfig {
    /// The first half of the network, with fresh weights.
    ///
    /// # Panics
    /// May panic if [`validate`](Self::validate) fails.
    pub fn init_encoder(&self, device: &Device) -> UNetEncoder {
        let (outer, inner) = (self.outer_channels(), self.inner_channels());
        UNetEncoder {
            conv_in: conv3x3(self.conv_in_channels(), outer, device),
            time_embedding: TimestepEmbedding::new(self.sinusoids(), self.d_embedding(), device),
            down_blocks: self.levels().iter().map(|l| DownBlock::new(self, l, device)).collect(),
            mid_block: MiddleBlock::new(self, inner, device),
            conv_norm_out: GroupNormConfig::new(self.norm_groups, inner)
                .with_epsilon(self.norm_eps)
                .init(device),
        }
    }
}

impl UNetEncoder {
    /// Takes a noised picture down to the coarsest level.
    ///
    /// # Shapes
    /// - `x`: `[batch, in_channels, height, width]`
    /// - `timesteps`: `[batch]`
    /// - result: `[batch, channels of the innermost level, ..]`, normalized
    pub fn forward(&self, x: Tensor<4>, timesteps: Tensor<1>) -> Tensor<4> {
        let emb = silu(self.time_embedding.forward(timesteps));
        let mut conditions = Conditions { emb, contexts: [].iter() };
        let mut x = conv(&self.conv_in, x);
        // nobody reads what the way down leaves for a way up
        let mut skips = Vec::new();
        for block in &self.down_blocks {
            x = block.forward(x, &mut conditions, &mut skips);
            skips.clear();
        }
        let x = self.mid_block.forward(x, &mut conditions);
        group_norm_silu(&self.conv_norm_out, x, None)
    }
}

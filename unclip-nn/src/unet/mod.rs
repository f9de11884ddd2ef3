//! The U-Net skeleton that the decoder and the upsamplers share.
//!
//! It takes a finished embedding and finished context tokens: what they mean, and how a timestep
//! affects them, is the stages' business. Field names are those of published (diffusers)
//! checkpoints, so that these load without renaming.

mod config;
mod encoder;
mod path;

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::{DType, Device, Tensor};

pub use config::{AttentionKind, Level, ResampleKind, UNetConfig};
pub use encoder::UNetEncoder;
pub use path::{DownBlock, MiddleBlock, Resampler, UNetAttention, UpBlock};

use crate::ops::{conv, group_norm_silu, silu};
use crate::patches::{channels_to_pixels, pixels_to_channels};
use crate::res_block::conv3x3;
use crate::{Context, SeenContext, TimestepEmbedding};
use path::Conditions;

/// Maps a picture to one of the same size, through ever smaller ones and back.
///
/// Source: ADM (Dhariwal & Nichol 2021), GLIDE (Nichol et al. 2021), Karlo.
#[derive(Module, Debug)]
pub struct UNet {
    conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    down_blocks: Vec<DownBlock>,
    mid_block: MiddleBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    coordinates: bool,
    patch_size: usize,
}

impl UNetConfig {
    /// The network, with fresh weights.
    ///
    /// # Panics
    /// May panic if [`validate`](Self::validate) fails.
    pub fn init(&self, device: &Device) -> UNet {
        let levels = self.levels();
        let (outer, inner) = (self.outer_channels(), self.inner_channels());
        let up = levels.iter().enumerate().rev();
        UNet {
            conv_in: conv3x3(self.conv_in_channels(), outer, device),
            time_embedding: TimestepEmbedding::new(self.sinusoids(), self.d_embedding(), device),
            down_blocks: levels.iter().map(|l| DownBlock::new(self, l, device)).collect(),
            mid_block: MiddleBlock::new(self, inner, device),
            up_blocks: up.map(|(i, level)| UpBlock::new(self, level, i > 0, device)).collect(),
            conv_norm_out: GroupNormConfig::new(self.norm_groups, outer)
                .with_epsilon(self.norm_eps)
                .init(device),
            conv_out: conv3x3(outer, self.conv_out_channels(), device),
            coordinates: self.coordinates,
            patch_size: self.patch_size,
        }
    }
}

impl UNet {
    /// Names of tensors in files, where they are not those of the fields; a stage adds them to its
    /// own.
    pub const NAMES: &'static [(&'static str, &'static str)] = path::NAMES;

    /// The timestep as an embedding, to which a stage may add its own.
    ///
    /// # Shapes
    /// - `timesteps`: `[batch]`
    /// - result: `[batch, d_embedding]`
    pub fn embed_time(&self, timesteps: Tensor<1>) -> Tensor<2> {
        self.time_embedding.forward(timesteps)
    }

    /// Projects a context for each attention block, in order. The result does not depend on the
    /// picture or the timestep, so it is computed once for all steps. Empty for a U-Net without
    /// context.
    pub fn read(&self, context: &Context) -> Vec<SeenContext> {
        let down = self.down_blocks.iter().flat_map(DownBlock::attentions);
        let up = self.up_blocks.iter().flat_map(UpBlock::attentions);
        let blocks = down.chain(self.mid_block.attentions()).chain(up);
        blocks.filter_map(|block| block.read(context)).collect()
    }

    /// Takes the picture down to the coarsest level and up again, where each level also reads what
    /// the way down left there.
    ///
    /// # Shapes
    /// - `x`: `[batch, in_channels, height, width]`, both sides multiples of
    ///   [`UNetConfig::size_multiple`]
    /// - `emb`: `[batch, d_embedding]`
    /// - `contexts`: what [`read`](Self::read) gave; empty for none
    /// - result: `[batch, out_channels, height, width]`
    pub fn forward(&self, x: Tensor<4>, emb: Tensor<2>, contexts: &[SeenContext]) -> Tensor<4> {
        let mut conditions = Conditions { emb: silu(emb), contexts: contexts.iter() };
        let x = pixels_to_channels(x, self.patch_size);
        let x = if self.coordinates { with_coordinates(x) } else { x };
        let mut x = conv(&self.conv_in, x);
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &mut conditions, &mut skips);
        }
        x = self.mid_block.forward(x, &mut conditions);
        for block in &self.up_blocks {
            x = block.forward(x, &mut conditions, &mut skips);
        }
        let x = conv(&self.conv_out, group_norm_silu(&self.conv_norm_out, x, None));
        channels_to_pixels(x, self.patch_size).cast(DType::F32)
    }
}

/// Appends two channels that tell each pixel's center, from −1 to 1 across the picture.
fn with_coordinates(x: Tensor<4>) -> Tensor<4> {
    let [batch, _, height, width] = x.dims();
    let device = x.device();
    let axis = |n: usize| {
        let centers: Vec<f32> = (0..n).map(|i| (2 * i + 1) as f32 / n as f32 - 1.0).collect();
        Tensor::<1>::from_floats(centers.as_slice(), &device)
    };
    let columns = axis(width).reshape([1, 1, 1, width]).expand([batch, 1, height, width]);
    let rows = axis(height).reshape([1, 1, height, 1]).expand([batch, 1, height, width]);
    Tensor::cat(vec![x, columns, rows], 1)
}

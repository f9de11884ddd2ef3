//! The U-Net's residual block, conditioned on the timestep embedding.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use crate::ops::{conv, group_norm_silu, linear};
use crate::ops::{downsample, upsample};

/// How many tensors of its widest shape a residual block holds at once, at most: its input, what that becomes after
/// the norm, its bordered copy, planes of it, and the output. Estimates of memory are made of it.
pub const BLOCK_TENSORS: usize = 6;

/// A 3 x 3 convolution that keeps the picture's size.
pub(crate) fn conv3x3(channels_in: usize, channels_out: usize, device: &Device) -> Conv2d {
    Conv2dConfig::new([channels_in, channels_out], [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

/// What a residual block does to the picture's size, on its main path and its shortcut alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// Nothing.
    Keep,
    /// Halves it by averaging.
    Down,
    /// Doubles it by repetition.
    Up,
}

/// Sizes of a [`ResBlock`].
#[derive(Debug, Clone, Copy)]
pub struct ResBlockConfig {
    /// Channels of the input.
    pub channels_in: usize,
    /// Channels of the output; a 1 x 1 convolution on the shortcut bridges a difference.
    pub channels_out: usize,
    /// Width of the timestep embedding.
    pub d_embedding: usize,
    /// Groups of both norms.
    pub norm_groups: usize,
    /// What both norms add to a variance.
    pub norm_eps: f64,
    /// Whether the embedding scales and shifts after the second norm (decoder) or is added before
    /// it (upsampler).
    pub scale_shift: bool,
    /// Whether the block also halves or doubles the picture.
    pub resample: Resample,
}

/// norm, SiLU, \[resample,\] convolution; timestep; norm, SiLU, convolution; plus the shortcut.
///
/// Source: ADM (Dhariwal & Nichol 2021, appendix B), Karlo.
#[derive(Module, Debug)]
pub struct ResBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Linear,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    scale_shift: bool,
    #[module(skip)]
    resample: Resample,
}

impl ResBlockConfig {
    /// The block, with fresh weights.
    pub fn init(&self, device: &Device) -> ResBlock {
        let Self { channels_in, channels_out, .. } = *self;
        let norm = |channels| {
            GroupNormConfig::new(self.norm_groups, channels)
                .with_epsilon(self.norm_eps)
                .init(device)
        };
        let d_time = channels_out * if self.scale_shift { 2 } else { 1 };
        let shortcut = || Conv2dConfig::new([channels_in, channels_out], [1, 1]).init(device);
        ResBlock {
            norm1: norm(channels_in),
            conv1: conv3x3(channels_in, channels_out, device),
            time_emb_proj: LinearConfig::new(self.d_embedding, d_time).init(device),
            norm2: norm(channels_out),
            conv2: conv3x3(channels_out, channels_out, device),
            conv_shortcut: (channels_in != channels_out).then(shortcut),
            scale_shift: self.scale_shift,
            resample: self.resample,
        }
    }
}

impl ResBlock {
    /// Two convolutions under the timestep embedding, added to the picture.
    ///
    /// # Shapes
    /// - `x`: `[batch, channels_in, height, width]`
    /// - `emb`: `[batch, d_embedding]`, the timestep embedding *after* its SiLU (the same for every
    ///   block, so it is computed once)
    /// - result: `[batch, channels_out, height', width']`
    pub fn forward(&self, x: Tensor<4>, emb: Tensor<2>) -> Tensor<4> {
        let h = group_norm_silu(&self.norm1, x.clone(), None);
        let (x, h) = match self.resample {
            Resample::Keep => (x, h),
            Resample::Down => (downsample(x), downsample(h)),
            Resample::Up => (upsample(x), upsample(h)),
        };
        let h = conv(&self.conv1, h);
        let h = self.condition(h, linear(&self.time_emb_proj, emb));
        let h = conv(&self.conv2, h);
        match &self.conv_shortcut {
            Some(shortcut) => conv(shortcut, x) + h,
            None => x + h,
        }
    }

    fn condition(&self, h: Tensor<4>, time: Tensor<2>) -> Tensor<4> {
        let [batch, channels, _, _] = h.dims();
        if self.scale_shift {
            let scale = time.clone().narrow(1, 0, channels);
            let shift = time.narrow(1, channels, channels);
            return group_norm_silu(&self.norm2, h, Some((scale, shift)));
        }
        group_norm_silu(&self.norm2, h + time.reshape([batch, channels, 1, 1]), None)
    }
}

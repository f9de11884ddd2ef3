//! What both halves are made of: residual blocks, attention, a size changed by a convolution.
//!
//! Field names are those of published (diffusers) checkpoints.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};
use unclip_nn::ops::{conv, linear};
use unclip_nn::{attend, upsample};

use crate::AutoencoderConfig;
use crate::norm::Norm;

/// A 3 x 3 convolution that keeps the size.
pub(crate) fn conv3x3(channels: [usize; 2], device: &Device) -> Conv2d {
    Conv2dConfig::new(channels, [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .init(device)
}

/// A 1 x 1 convolution.
pub(crate) fn conv1x1(channels: [usize; 2], device: &Device) -> Conv2d {
    Conv2dConfig::new(channels, [1, 1]).init(device)
}

/// norm, SiLU, convolution, twice, plus the shortcut.
#[derive(Module, Debug)]
pub(crate) struct ResBlock<N: Module> {
    norm1: N,
    conv1: Conv2d,
    norm2: N,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl<N: Norm> ResBlock<N> {
    pub(crate) fn new(
        config: &AutoencoderConfig,
        [channels_in, channels_out]: [usize; 2],
        device: &Device,
    ) -> Self {
        let shortcut = || conv1x1([channels_in, channels_out], device);
        Self {
            norm1: N::new(config, channels_in, device),
            conv1: conv3x3([channels_in, channels_out], device),
            norm2: N::new(config, channels_out, device),
            conv2: conv3x3([channels_out; 2], device),
            conv_shortcut: (channels_in != channels_out).then(shortcut),
        }
    }

    pub(crate) fn forward(&self, x: Tensor<4>, latent: &Tensor<4>) -> Tensor<4> {
        let h = conv(&self.conv1, self.norm1.forward_silu(x.clone(), latent));
        let h = conv(&self.conv2, self.norm2.forward_silu(h, latent));
        match &self.conv_shortcut {
            Some(shortcut) => conv(shortcut, x) + h,
            None => x + h,
        }
    }
}

/// Attention of all places to all, in one head.
#[derive(Module, Debug)]
pub(crate) struct Attention<N: Module> {
    norm: N,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: [Linear; 1],
}

impl<N: Norm> Attention<N> {
    pub(crate) fn new(config: &AutoencoderConfig, channels: usize, device: &Device) -> Self {
        let linear = || LinearConfig::new(channels, channels).init(device);
        Self {
            norm: N::new(config, channels, device),
            to_q: linear(),
            to_k: linear(),
            to_v: linear(),
            to_out: [linear()],
        }
    }

    pub(crate) fn forward(&self, x: Tensor<4>, latent: &Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let tokens = self.norm.forward(x.clone(), latent);
        let tokens: Tensor<3> = tokens.reshape([batch, channels, height * width]).swap_dims(1, 2);
        let [q, k, v] =
            [&self.to_q, &self.to_k, &self.to_v].map(|layer| linear(layer, tokens.clone()));
        let seen = linear(&self.to_out[0], attend(q, k, v, 1, None));
        x + seen.swap_dims(1, 2).reshape([batch, channels, height, width])
    }
}

/// Halves the size: every other place of a convolution, with zeros on the right and below.
#[derive(Module, Debug)]
pub(crate) struct Halve {
    conv: Conv2d,
}

impl Halve {
    pub(crate) fn new(channels: usize, device: &Device) -> Self {
        let conv = Conv2dConfig::new([channels; 2], [3, 3])
            .with_stride([2, 2])
            .with_padding(PaddingConfig2d::Explicit(0, 0, 1, 1));
        Self { conv: conv.init(device) }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv(&self.conv, x)
    }
}

/// Doubles the size: every place four times, then a convolution.
#[derive(Module, Debug)]
pub(crate) struct Double {
    conv: Conv2d,
}

impl Double {
    pub(crate) fn new(channels: usize, device: &Device) -> Self {
        Self { conv: conv3x3([channels; 2], device) }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv(&self.conv, upsample(x))
    }
}

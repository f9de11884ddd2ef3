//! The way from a picture to its latent, and the way back.

use burn::module::Module;
use burn::nn::GroupNorm;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use unclip_nn::ops::conv;

use crate::blocks::{Attention, Double, Halve, ResBlock, conv3x3};
use crate::norm::Norm;
use crate::{AutoencoderConfig, Latents};

/// One level on the way down.
#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResBlock<GroupNorm>>,
    attentions: Vec<Attention<GroupNorm>>,
    downsamplers: Vec<Halve>,
}

/// One level on the way up.
#[derive(Module, Debug)]
struct UpBlock<N: Module> {
    resnets: Vec<ResBlock<N>>,
    attentions: Vec<Attention<N>>,
    upsamplers: Vec<Double>,
}

/// The innermost part of either way.
#[derive(Module, Debug)]
struct MiddleBlock<N: Module> {
    resnets: [ResBlock<N>; 2],
    attentions: [Attention<N>; 1],
}

/// A level's residual blocks, the first of which changes the channels, each with its attention.
fn level<N: Norm>(
    config: &AutoencoderConfig,
    n: usize,
    [channels_in, channels]: [usize; 2],
    has_attention: bool,
    device: &Device,
) -> (Vec<ResBlock<N>>, Vec<Attention<N>>) {
    let from = |k: usize| if k == 0 { channels_in } else { channels };
    let resnets = (0..n).map(|k| ResBlock::new(config, [from(k), channels], device));
    let attentions =
        (0..if has_attention { n } else { 0 }).map(|_| Attention::new(config, channels, device));
    (resnets.collect(), attentions.collect())
}

/// Residual blocks in turn with their attentions.
fn through<N: Norm>(
    resnets: &[ResBlock<N>],
    attentions: &[Attention<N>],
    x: Tensor<4>,
    latent: &Tensor<4>,
) -> Tensor<4> {
    resnets.iter().enumerate().fold(x, |x, (k, resnet)| {
        let x = resnet.forward(x, latent);
        match attentions.get(k) {
            Some(attention) => attention.forward(x, latent),
            None => x,
        }
    })
}

impl<N: Norm> MiddleBlock<N> {
    fn new(config: &AutoencoderConfig, channels: usize, device: &Device) -> Self {
        let block = || ResBlock::new(config, [channels; 2], device);
        Self { resnets: [block(), block()], attentions: [Attention::new(config, channels, device)] }
    }

    fn forward(&self, x: Tensor<4>, latent: &Tensor<4>) -> Tensor<4> {
        through(&self.resnets, &self.attentions, x, latent)
    }
}

/// From a picture to what its latent is made of.
#[derive(Module, Debug)]
pub(crate) struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MiddleBlock<GroupNorm>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    pub(crate) fn new(config: &AutoencoderConfig, device: &Device) -> Self {
        let all = &config.block_out_channels;
        let (first, last) = (all[0], all[all.len() - 1]);
        let block = |(k, &channels): (usize, &usize)| {
            let (from, is_last) = (all[k.saturating_sub(1)], k + 1 == all.len());
            let (resnets, attentions) = level(
                config,
                config.num_res_blocks,
                [from, channels],
                config.attention && is_last,
                device,
            );
            let halve = || Halve::new(channels, device);
            let downsamplers = (!is_last).then(halve).into_iter().collect();
            DownBlock { resnets, attentions, downsamplers }
        };
        let out = match config.latents {
            // a mean and a log-variance of each value
            Latents::Kl => 2 * config.latent_channels,
            Latents::Codes { .. } => config.latent_channels,
        };
        Self {
            conv_in: conv3x3([AutoencoderConfig::CHANNELS, first], device),
            down_blocks: all.iter().enumerate().map(block).collect(),
            mid_block: MiddleBlock::new(config, last, device),
            conv_norm_out: Norm::new(config, last, device),
            conv_out: conv3x3([last, out], device),
        }
    }

    pub(crate) fn forward(&self, pictures: Tensor<4>) -> Tensor<4> {
        // its norms know nothing of a latent
        let none = pictures.clone();
        let x = self.down_blocks.iter().fold(conv(&self.conv_in, pictures), |x, block| {
            let x = through(&block.resnets, &block.attentions, x, &none);
            block.downsamplers.iter().fold(x, |x, halve| halve.forward(x))
        });
        let x = self.mid_block.forward(x, &none);
        conv(&self.conv_out, self.conv_norm_out.forward_silu(x, &none))
    }
}

/// From a latent to a picture.
#[derive(Module, Debug)]
pub(crate) struct Decoder<N: Module> {
    conv_in: Conv2d,
    mid_block: MiddleBlock<N>,
    up_blocks: Vec<UpBlock<N>>,
    conv_norm_out: N,
    conv_out: Conv2d,
}

impl<N: Norm> Decoder<N> {
    pub(crate) fn new(config: &AutoencoderConfig, device: &Device) -> Self {
        let all = &config.block_out_channels;
        let (first, last) = (all[0], all[all.len() - 1]);
        let block = |k: usize| {
            let (from, is_last) = (all[(k + 1).min(all.len() - 1)], k + 1 == all.len());
            let (resnets, attentions) = level(
                config,
                config.num_res_blocks + 1,
                [from, all[k]],
                config.attention && is_last,
                device,
            );
            let double = || Double::new(all[k], device);
            let upsamplers = (k > 0).then(double).into_iter().collect();
            UpBlock { resnets, attentions, upsamplers }
        };
        Self {
            conv_in: conv3x3([config.latent_channels, last], device),
            mid_block: MiddleBlock::new(config, last, device),
            up_blocks: (0..all.len()).rev().map(block).collect(),
            conv_norm_out: N::new(config, first, device),
            conv_out: conv3x3([first, AutoencoderConfig::CHANNELS], device),
        }
    }

    /// `latent` is what norms read.
    pub(crate) fn forward(&self, x: Tensor<4>, latent: &Tensor<4>) -> Tensor<4> {
        let x = self.mid_block.forward(conv(&self.conv_in, x), latent);
        let x = self.up_blocks.iter().fold(x, |x, block| {
            let x = through(&block.resnets, &block.attentions, x, latent);
            block.upsamplers.iter().fold(x, |x, double| double.forward(x))
        });
        conv(&self.conv_out, self.conv_norm_out.forward_silu(x, latent))
    }
}

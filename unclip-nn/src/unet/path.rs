//! The three parts of a U-Net, named as published checkpoints name them.

use std::slice::Iter;

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::config::{Level, UNetConfig};
use crate::attention_block::AttentionBlockConfig;
use crate::attention_block::SeenContext;
use crate::res_block::ResBlockConfig;
use crate::{AttentionBlock, ResBlock, Resample};

/// What the blocks of a forward pass are given beside the picture.
pub(super) struct Conditions<'a> {
    pub(super) emb: Tensor<2>,
    /// One for each attention block that is still to come; none in a U-Net without context.
    pub(super) contexts: Iter<'a, SeenContext>,
}

impl UNetConfig {
    fn res_block(&self, channels: [usize; 2], resample: Resample, device: &Device) -> ResBlock {
        ResBlockConfig {
            channels_in: channels[0],
            channels_out: channels[1],
            d_embedding: self.d_embedding(),
            norm_groups: self.norm_groups,
            norm_eps: self.norm_eps,
            scale_shift: self.scale_shift,
            resample,
        }
        .init(device)
    }

    fn attention_block(&self, channels: usize, device: &Device) -> AttentionBlock {
        AttentionBlockConfig {
            channels,
            d_head: self.d_head,
            norm_groups: self.norm_groups,
            d_context: self.d_context,
        }
        .init(device)
    }

    fn attentions(&self, level: &Level, n: usize, device: &Device) -> Vec<AttentionBlock> {
        let n = if level.attention { n } else { 0 };
        (0..n).map(|_| self.attention_block(level.channels, device)).collect()
    }
}

/// One level on the way down.
#[derive(Module, Debug)]
pub struct DownBlock {
    resnets: Vec<ResBlock>,
    attentions: Vec<AttentionBlock>,
    downsamplers: Vec<ResBlock>,
}

impl DownBlock {
    pub(super) fn new(config: &UNetConfig, level: &Level, device: &Device) -> Self {
        let channels = level.channels;
        let block = |&c: &usize| config.res_block([c, channels], Resample::Keep, device);
        let down = || config.res_block([channels; 2], Resample::Down, device);
        Self {
            resnets: level.down.iter().map(block).collect(),
            attentions: config.attentions(level, level.down.len(), device),
            downsamplers: level.resampled.then(down).into_iter().collect(),
        }
    }

    /// Pushes what the way up will need onto `skips`.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        conditions: &mut Conditions<'_>,
        skips: &mut Vec<Tensor<4>>,
    ) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, conditions.emb.clone());
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, conditions.contexts.next());
            }
            skips.push(x.clone());
        }
        for downsampler in &self.downsamplers {
            x = downsampler.forward(x, conditions.emb.clone());
            skips.push(x.clone());
        }
        x
    }

    /// The attention blocks, in the order of their calls.
    pub(super) fn attentions(&self) -> &[AttentionBlock] {
        &self.attentions
    }
}

/// The innermost part.
#[derive(Module, Debug)]
pub struct MiddleBlock {
    resnets: [ResBlock; 2],
    attentions: Vec<AttentionBlock>,
}

impl MiddleBlock {
    pub(super) fn new(config: &UNetConfig, channels: usize, device: &Device) -> Self {
        let block = || config.res_block([channels; 2], Resample::Keep, device);
        let attention = || config.attention_block(channels, device);
        Self {
            resnets: [block(), block()],
            attentions: (!config.attention_resolutions.is_empty())
                .then(attention)
                .into_iter()
                .collect(),
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>, conditions: &mut Conditions<'_>) -> Tensor<4> {
        let x = self.resnets[0].forward(x, conditions.emb.clone());
        let x = self.attentions.iter().fold(x, |x, a| a.forward(x, conditions.contexts.next()));
        self.resnets[1].forward(x, conditions.emb.clone())
    }

    /// The attention blocks, in the order of their calls.
    pub(super) fn attentions(&self) -> &[AttentionBlock] {
        &self.attentions
    }
}

/// One level on the way up.
#[derive(Module, Debug)]
pub struct UpBlock {
    resnets: Vec<ResBlock>,
    attentions: Vec<AttentionBlock>,
    upsamplers: Vec<ResBlock>,
}

impl UpBlock {
    /// `upsampled` is whether a larger level follows.
    pub(super) fn new(
        config: &UNetConfig,
        level: &Level,
        upsampled: bool,
        device: &Device,
    ) -> Self {
        let channels = level.channels;
        let block = |&c: &usize| config.res_block([c, channels], Resample::Keep, device);
        let up = || config.res_block([channels; 2], Resample::Up, device);
        Self {
            resnets: level.up.iter().map(block).collect(),
            attentions: config.attentions(level, level.up.len(), device),
            upsamplers: upsampled.then(up).into_iter().collect(),
        }
    }

    /// Takes from `skips` what the way down left there.
    ///
    /// # Panics
    /// If the way down left too little, which would be an error of [`UNetConfig::levels`].
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        conditions: &mut Conditions<'_>,
        skips: &mut Vec<Tensor<4>>,
    ) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().expect("the way down leaves one skip for each block");
            x = resnet.forward(Tensor::cat(vec![x, skip], 1), conditions.emb.clone());
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x, conditions.contexts.next());
            }
        }
        let resampled = self.upsamplers.iter();
        resampled.fold(x, |x, upsampler| upsampler.forward(x, conditions.emb.clone()))
    }

    /// The attention blocks, in the order of their calls.
    pub(super) fn attentions(&self) -> &[AttentionBlock] {
        &self.attentions
    }
}

//! The three parts of a U-Net, named as published checkpoints name them.

use std::slice::Iter;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};

use super::config::{AttentionKind, Level, ResampleKind, UNetConfig};
use crate::attention_block::{AttentionBlockConfig, SeenContext};
use crate::ops::{conv, upsample};
use crate::res_block::{ResBlockConfig, conv3x3};
use crate::{AttentionBlock, Context, ResBlock, Resample, SpatialTransformer};

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

    fn attention_block(&self, channels: usize, device: &Device) -> UNetAttention {
        let config = AttentionBlockConfig {
            channels,
            d_head: self.head_of(channels),
            norm_groups: self.norm_groups,
            d_context: self.d_context,
        };
        match self.attention {
            AttentionKind::Added => UNetAttention::Added(config.init(device)),
            AttentionKind::Transformer => {
                UNetAttention::Transformer(SpatialTransformer::new(&config, device))
            }
        }
    }

    fn resampler(&self, channels: usize, resample: Resample, device: &Device) -> Resampler {
        match (self.resampling, resample) {
            (ResampleKind::Residual, _) => {
                Resampler::Residual(self.res_block([channels; 2], resample, device))
            }
            (ResampleKind::Convolution, Resample::Down) => Resampler::Halving(
                Conv2dConfig::new([channels; 2], [3, 3])
                    .with_stride([2, 2])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                    .init(device),
            ),
            (ResampleKind::Convolution, _) => {
                Resampler::Doubling(conv3x3(channels, channels, device))
            }
        }
    }

    fn attentions(&self, level: &Level, n: usize, device: &Device) -> Vec<UNetAttention> {
        let n = if level.attention { n } else { 0 };
        (0..n).map(|_| self.attention_block(level.channels, device)).collect()
    }
}

/// Names in files, where they are not those of the fields.
pub(super) const NAMES: &[(&str, &str)] = &[
    (".Added.", "."),
    (".Transformer.", "."),
    (".ff.c_fc.", ".ff.net.0.proj."),
    (".ff.c_proj.", ".ff.net.2."),
    (".Residual.", "."),
    (".Halving.", ".conv."),
    (".Doubling.", ".conv."),
];

/// Attention of either kind.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "all blocks of a network are of one kind")]
pub enum UNetAttention {
    /// Context and pixels together.
    Added(AttentionBlock),
    /// A transformer's block.
    Transformer(SpatialTransformer),
}

impl UNetAttention {
    /// Projects the context, once for all calls. `None` if the block has no context.
    pub(super) fn read(&self, context: &Context) -> Option<SeenContext> {
        match self {
            Self::Added(block) => block.read(context),
            Self::Transformer(block) => Some(block.read(context)),
        }
    }

    fn forward(&self, x: Tensor<4>, context: Option<&SeenContext>) -> Tensor<4> {
        match self {
            Self::Added(block) => block.forward(x, context),
            Self::Transformer(block) => block.forward(x, context),
        }
    }
}

/// What halves or doubles a picture.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "all blocks of a network are of one kind")]
pub enum Resampler {
    /// A residual block.
    Residual(ResBlock),
    /// A convolution that steps two pixels.
    Halving(Conv2d),
    /// A convolution of repeated pixels.
    Doubling(Conv2d),
}

impl Resampler {
    fn forward(&self, x: Tensor<4>, emb: Tensor<2>) -> Tensor<4> {
        match self {
            Self::Residual(block) => block.forward(x, emb),
            Self::Halving(layer) => conv(layer, x),
            Self::Doubling(layer) => conv(layer, upsample(x)),
        }
    }
}

/// One level on the way down.
#[derive(Module, Debug)]
pub struct DownBlock {
    resnets: Vec<ResBlock>,
    attentions: Vec<UNetAttention>,
    downsamplers: Vec<Resampler>,
}

impl DownBlock {
    pub(super) fn new(config: &UNetConfig, level: &Level, device: &Device) -> Self {
        let channels = level.channels;
        let block = |&c: &usize| config.res_block([c, channels], Resample::Keep, device);
        let down = || config.resampler(channels, Resample::Down, device);
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
    pub(super) fn attentions(&self) -> &[UNetAttention] {
        &self.attentions
    }
}

/// The innermost part.
#[derive(Module, Debug)]
pub struct MiddleBlock {
    resnets: [ResBlock; 2],
    attentions: Vec<UNetAttention>,
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
    pub(super) fn attentions(&self) -> &[UNetAttention] {
        &self.attentions
    }
}

/// One level on the way up.
#[derive(Module, Debug)]
pub struct UpBlock {
    resnets: Vec<ResBlock>,
    attentions: Vec<UNetAttention>,
    upsamplers: Vec<Resampler>,
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
        let up = || config.resampler(channels, Resample::Up, device);
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
    pub(super) fn attentions(&self) -> &[UNetAttention] {
        &self.attentions
    }
}

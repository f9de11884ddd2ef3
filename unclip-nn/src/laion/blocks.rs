//! What DALLE2-pytorch's U-Net is made of.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use super::{LaionRelease, LaionUNetConfig};
use crate::ops::{conv, derived, group_norm_silu, linear, silu, upsample, working};
use crate::patches::{channels_to_pixels, pixels_to_channels};
use crate::res_block::conv3x3;
use crate::{Comparison, NullAttention, NullAttentionConfig};

/// What is added to a kernel's variance.
const STANDARDIZED_EPS: f64 = 1e-5;

/// A convolution that keeps the picture's size.
pub(super) fn same_size(
    channels_in: usize,
    channels_out: usize,
    side: usize,
    device: &Device,
) -> Conv2d {
    let pad = side / 2;
    Conv2dConfig::new([channels_in, channels_out], [side, side])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .init(device)
}

/// The first convolutions: kernels of several sizes side by side.
#[derive(Module, Debug)]
pub(super) struct Stem {
    convs: Vec<Conv2d>,
}

impl Stem {
    pub(super) fn new(config: &LaionUNetConfig, device: &Device) -> Self {
        let sizes = config.kernels.iter().zip(config.shares());
        let conv = |(&side, channels)| same_size(config.in_channels, channels, side, device);
        Self { convs: sizes.map(conv).collect() }
    }

    pub(super) fn forward(&self, x: &Tensor<4>) -> Tensor<4> {
        Tensor::cat(self.convs.iter().map(|layer| conv(layer, x.clone())).collect(), 1)
    }
}

/// convolution, norm, SiLU.
#[derive(Module, Debug)]
struct Convolved {
    project: Conv2d,
    norm: GroupNorm,
    standardized: bool,
}

impl Convolved {
    fn new(config: &LaionUNetConfig, channels: [usize; 2], device: &Device) -> Self {
        Self {
            project: conv3x3(channels[0], channels[1], device),
            norm: GroupNormConfig::new(config.norm_groups, channels[1]).init(device),
            standardized: config.standardized,
        }
    }

    fn forward(&self, x: Tensor<4>, scale_shift: Option<(Tensor<2>, Tensor<2>)>) -> Tensor<4> {
        let h = if self.standardized {
            let own = &self.project.weight;
            let weight = derived(own, standardized(working(own)));
            conv(&Conv2d { weight, ..self.project.clone() }, x)
        } else {
            conv(&self.project, x)
        };
        group_norm_silu(&self.norm, h, scale_shift)
    }
}

/// Kernels with mean 0 and variance 1 for each output channel.
fn standardized(weight: Tensor<4>) -> Tensor<4> {
    let shape = weight.dims();
    let rows = weight.reshape([shape[0], shape[1] * shape[2] * shape[3]]);
    let rows = rows.clone() - rows.mean_dim(1);
    let variance = (rows.clone() * rows.clone()).mean_dim(1);
    (rows / (variance + STANDARDIZED_EPS).sqrt()).reshape(shape)
}

/// What all residual blocks read.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    /// The timestep embedding after its SiLU.
    pub(super) emb: Tensor<2>,
    /// Context tokens.
    pub(super) context: Tensor<3>,
}

/// convolution, norm with the timestep's scale and shift, SiLU; attention to the context; convolution,
/// norm, SiLU; plus the shortcut.
#[derive(Module, Debug)]
pub(super) struct Block {
    time_mlp: Linear,
    cross_attn: Option<NullAttention>,
    block1: Convolved,
    block2: Convolved,
    res_conv: Option<Conv2d>,
}

impl Block {
    /// A block with so many channels before and after it, that reads the context or not.
    pub(super) fn new(
        config: &LaionUNetConfig,
        [before, after]: [usize; 2],
        reads_context: bool,
        device: &Device,
    ) -> Self {
        let [n_heads, d_head] = LaionUNetConfig::CROSS;
        let cross = NullAttentionConfig {
            d_model: after,
            d_context: Some(config.d_context),
            n_heads,
            d_head,
            comparison: if config.cosine_cross { Comparison::Cosine } else { Comparison::Product },
        };
        let shortcut = || Conv2dConfig::new([before, after], [1, 1]).init(device);
        Self {
            time_mlp: LinearConfig::new(config.d_embedding(), 2 * after).init(device),
            cross_attn: reads_context.then(|| cross.init(device)),
            block1: Convolved::new(config, [before, after], device),
            block2: Convolved::new(config, [after, after], device),
            res_conv: (before != after).then(shortcut),
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>, conditions: &Conditions) -> Tensor<4> {
        let time = linear(&self.time_mlp, conditions.emb.clone());
        let channels = time.dims()[1] / 2;
        let scale = time.clone().narrow(1, 0, channels);
        let shift = time.narrow(1, channels, channels);
        let mut h = self.block1.forward(x.clone(), Some((scale, shift)));
        if let Some(attention) = &self.cross_attn {
            let context = Some(conditions.context.clone());
            h = as_tokens(h, |tokens| attention.forward(tokens, context));
        }
        let h = self.block2.forward(h, None);
        match &self.res_conv {
            Some(shortcut) => conv(shortcut, x) + h,
            None => x + h,
        }
    }
}

/// Adds to a picture what `f` makes of its pixels as tokens.
pub(super) fn as_tokens(x: Tensor<4>, f: impl FnOnce(Tensor<3>) -> Tensor<3>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let tokens = x.clone().reshape([batch, channels, height * width]).swap_dims(1, 2);
    let added = f(tokens).swap_dims(1, 2).reshape([batch, channels, height, width]);
    x.cast(added.dtype()) + added
}

/// A picture of half the size, by either release's convolution.
#[derive(Module, Debug)]
pub(super) struct Halving {
    conv: Conv2d,
    shuffles: bool,
}

impl Halving {
    pub(super) fn new(
        config: &LaionUNetConfig,
        [before, after]: [usize; 2],
        device: &Device,
    ) -> Self {
        let shuffles = config.release == LaionRelease::V1_15;
        let conv = if shuffles {
            Conv2dConfig::new([4 * before, after], [1, 1])
        } else {
            Conv2dConfig::new([before, after], [4, 4])
                .with_stride([2, 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        };
        Self { conv: conv.init(device), shuffles }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv(&self.conv, if self.shuffles { pixels_to_channels(x, 2) } else { x })
    }
}

/// A picture of twice the size.
#[derive(Module, Debug)]
pub(super) struct Doubling {
    conv: Conv2d,
    shuffles: bool,
}

impl Doubling {
    pub(super) fn new(
        config: &LaionUNetConfig,
        [before, after]: [usize; 2],
        device: &Device,
    ) -> Self {
        let shuffles = config.pixel_shuffle;
        let conv = if shuffles {
            Conv2dConfig::new([before, 4 * after], [1, 1]).init(device)
        } else {
            conv3x3(before, after, device)
        };
        Self { conv, shuffles }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if self.shuffles {
            channels_to_pixels(silu(conv(&self.conv, x)), 2)
        } else {
            conv(&self.conv, upsample(x))
        }
    }
}

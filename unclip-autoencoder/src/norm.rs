//! Norms, which in one kind of decoder know what lies where.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig};
use burn::tensor::{Device, Tensor};
use unclip_nn::ops::{conv, group_norm, group_norm_silu, silu};
use unclip_nn::upsample;

use crate::AutoencoderConfig;

/// What every norm adds to a variance.
const EPSILON: f64 = 1e-6;

/// A norm of an autoencoder.
pub(crate) trait Norm: Module {
    fn new(config: &AutoencoderConfig, channels: usize, device: &Device) -> Self;

    /// `[batch, channels, height, width]`; `latent` is `[batch, d_code, ..]`, smaller by a power
    /// of two.
    fn forward(&self, x: Tensor<4>, latent: &Tensor<4>) -> Tensor<4>;

    /// The same, then SiLU.
    fn forward_silu(&self, x: Tensor<4>, latent: &Tensor<4>) -> Tensor<4>;
}

pub(crate) fn plain(config: &AutoencoderConfig, channels: usize, device: &Device) -> GroupNorm {
    GroupNormConfig::new(config.norm_groups, channels).with_epsilon(EPSILON).init(device)
}

impl Norm for GroupNorm {
    fn new(config: &AutoencoderConfig, channels: usize, device: &Device) -> Self {
        plain(config, channels, device)
    }

    fn forward(&self, x: Tensor<4>, _: &Tensor<4>) -> Tensor<4> {
        group_norm(self, x)
    }

    fn forward_silu(&self, x: Tensor<4>, _: &Tensor<4>) -> Tensor<4> {
        group_norm_silu(self, x, None)
    }
}

/// A group norm that is scaled and shifted by the latent, place by place (MoVQ, Zheng et al. 2022,
/// section 3.2).
#[derive(Module, Debug)]
pub(crate) struct SpatialNorm {
    norm_layer: GroupNorm,
    conv_y: Conv2d,
    conv_b: Conv2d,
}

impl SpatialNorm {
    /// What a convolution of 1 x 1 makes of the latent, at the size of `x`: first the convolution,
    /// which is cheaper where there are fewer places, then repetition.
    fn at_size_of(layer: &Conv2d, latent: &Tensor<4>, x: &Tensor<4>) -> Tensor<4> {
        let mut y = conv(layer, latent.clone());
        while y.dims()[2] < x.dims()[2] {
            y = upsample(y);
        }
        y
    }
}

impl Norm for SpatialNorm {
    fn new(config: &AutoencoderConfig, channels: usize, device: &Device) -> Self {
        let from_latent =
            || Conv2dConfig::new([config.stored_channels(), channels], [1, 1]).init(device);
        Self {
            norm_layer: plain(config, channels, device),
            conv_y: from_latent(),
            conv_b: from_latent(),
        }
    }

    fn forward(&self, x: Tensor<4>, latent: &Tensor<4>) -> Tensor<4> {
        let scale = Self::at_size_of(&self.conv_y, latent, &x);
        let shift = Self::at_size_of(&self.conv_b, latent, &x);
        group_norm(&self.norm_layer, x) * scale + shift
    }

    fn forward_silu(&self, x: Tensor<4>, latent: &Tensor<4>) -> Tensor<4> {
        silu(self.forward(x, latent))
    }
}

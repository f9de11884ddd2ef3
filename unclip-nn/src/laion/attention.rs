//! The attention of a level of DALLE2-pytorch's U-Net.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Tensor};

use super::blocks::as_tokens;
use super::{LaionRelease, LaionUNetConfig, LevelAttention};
use crate::ops::{conv, gelu};
use crate::{GainNorm, NullAttention, NullAttentionConfig};

/// Attention between pixels, added to them.
#[derive(Module, Debug)]
pub(super) struct PixelAttention {
    linear: Option<LinearAttention>,
    full: Option<NullAttention>,
}

impl PixelAttention {
    pub(super) fn new(
        config: &LaionUNetConfig,
        kind: LevelAttention,
        channels: usize,
        device: &Device,
    ) -> Self {
        let linear = || LinearAttention::new(config, channels, device);
        let full = || NullAttentionConfig {
            d_model: channels,
            d_context: None,
            n_heads: config.n_heads,
            d_head: config.d_head,
            comparison: config.comparison(),
        };
        Self {
            linear: (kind == LevelAttention::Linear).then(linear),
            full: (kind == LevelAttention::Full).then(|| full().init(device)),
        }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match (&self.linear, &self.full) {
            (Some(linear), _) => x.clone() + linear.forward(x),
            (_, Some(full)) => as_tokens(x, |tokens| full.forward(tokens, None)),
            (None, None) => x,
        }
    }
}

/// Attention of linear cost (Shen et al. 2018): the softmax is taken of queries over their channels and
/// of keys over the pixels, so that keys and values can be multiplied first.
#[derive(Module, Debug)]
struct LinearAttention {
    norm: GainNorm,
    to_qkv: Conv2d,
    to_out: Conv2d,
    out_norm: GainNorm,
    n_heads: usize,
    d_head: usize,
    unit_values: bool,
}

impl LinearAttention {
    fn new(config: &LaionUNetConfig, channels: usize, device: &Device) -> Self {
        let LaionUNetConfig { n_heads, d_head, .. } = *config;
        let plain = |before, after| {
            Conv2dConfig::new([before, after], [1, 1]).with_bias(false).init(device)
        };
        Self {
            norm: GainNorm::new(channels, device),
            to_qkv: plain(channels, 3 * n_heads * d_head),
            to_out: plain(n_heads * d_head, channels),
            out_norm: GainNorm::new(channels, device),
            n_heads,
            d_head,
            unit_values: config.release == LaionRelease::V1_15,
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, _, height, width] = x.dims();
        let (pixels, inner) = (height * width, self.n_heads * self.d_head);
        let qkv = conv(&self.to_qkv, self.norm.forward_channels(x));
        let dtype = qkv.dtype();
        let part = |n: usize| -> Tensor<4> {
            let part = qkv.clone().narrow(1, n * inner, inner).cast(DType::F32);
            part.reshape([batch, self.n_heads, self.d_head, pixels])
        };
        // channels of a head are rows here, pixels are columns
        let queries = softmax(part(0), 2) * (self.d_head as f64).powf(-0.5);
        let keys = softmax(part(1), 3);
        let values = part(2);
        let values = if self.unit_values {
            let length = (values.clone() * values.clone()).sum_dim(2).sqrt().clamp_min(1e-12);
            values / length / pixels as f64
        } else {
            values
        };
        let context = values.matmul(keys.transpose());
        let out = context.matmul(queries).reshape([batch, inner, height, width]).cast(dtype);
        self.out_norm.forward_channels(conv(&self.to_out, gelu(out)))
    }
}

//! The U-Net's attention: pixels look at each other and at context tokens.

use burn::module::Module;
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Tensor};

use crate::attend;
use crate::ops::{group_norm, linear};

/// What a U-Net attends to beside its own pixels.
#[derive(Debug, Clone)]
pub struct Context {
    /// `[batch, seq, d_context]`.
    pub tokens: Tensor<3>,
    /// `[batch, seq]`, true for tokens that may be looked at; all of them without a mask.
    pub mask: Option<Tensor<2, Bool>>,
}

impl Context {
    /// Which keys are hidden from every pixel: `[batch, 1, 1, seq + pixels]`, true = hidden.
    fn hidden(&self, pixels: usize) -> Option<Tensor<4, Bool>> {
        let mask = self.mask.as_ref()?;
        let [batch, seq] = mask.dims();
        let context = mask.clone().bool_not().int();
        let pixels = Tensor::zeros([batch, pixels], &context.device());
        let hidden = Tensor::cat(vec![context, pixels], 1).equal_elem(1);
        let keys = hidden.dims()[1];
        debug_assert!(keys > seq);
        Some(hidden.reshape([batch, 1, 1, keys]))
    }
}

/// Sizes of an [`AttentionBlock`].
#[derive(Debug, Clone, Copy)]
pub struct AttentionBlockConfig {
    /// Channels of the picture.
    pub channels: usize,
    /// Channels of one head.
    pub d_head: usize,
    /// Groups of the norm.
    pub norm_groups: usize,
    /// Width of a context token, if there is context.
    pub d_context: Option<usize>,
}

/// Attention with "added" keys and values: those of the context come first, then the pixels' own.
///
/// Source: GLIDE (Nichol et al. 2021), Karlo; norm eps 1e-5.
#[derive(Module, Debug)]
pub struct AttentionBlock {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    add_k_proj: Option<Linear>,
    add_v_proj: Option<Linear>,
    to_out: [Linear; 1],
    n_heads: usize,
}

impl AttentionBlockConfig {
    /// The block, with fresh weights.
    pub fn init(&self, device: &Device) -> AttentionBlock {
        let linear = |d_in: usize| LinearConfig::new(d_in, self.channels).init(device);
        AttentionBlock {
            group_norm: GroupNormConfig::new(self.norm_groups, self.channels).init(device),
            to_q: linear(self.channels),
            to_k: linear(self.channels),
            to_v: linear(self.channels),
            add_k_proj: self.d_context.map(linear),
            add_v_proj: self.d_context.map(linear),
            to_out: [linear(self.channels)],
            n_heads: self.channels / self.d_head,
        }
    }
}

impl AttentionBlock {
    /// # Shapes
    /// - `x`, result: `[batch, channels, height, width]`
    pub fn forward(&self, x: Tensor<4>, context: Option<&Context>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let pixels = height * width;
        let tokens = group_norm(&self.group_norm, x.clone()).reshape([batch, channels, pixels]);
        let tokens = tokens.swap_dims(1, 2);
        let q = linear(&self.to_q, tokens.clone());
        let mut k = linear(&self.to_k, tokens.clone());
        let mut v = linear(&self.to_v, tokens);
        if let (Some(context), Some(add_k), Some(add_v)) =
            (context, &self.add_k_proj, &self.add_v_proj)
        {
            k = Tensor::cat(vec![linear(add_k, context.tokens.clone()), k], 1);
            v = Tensor::cat(vec![linear(add_v, context.tokens.clone()), v], 1);
        }
        let hidden = context.and_then(|context| context.hidden(pixels));
        let h = linear(&self.to_out[0], attend(q, k, v, self.n_heads, hidden));
        x + h.swap_dims(1, 2).reshape([batch, channels, height, width])
    }
}

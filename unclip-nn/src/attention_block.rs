//! The U-Net's attention: pixels look at each other and at context tokens.

use std::sync::OnceLock;

use burn::module::Module;
use burn::nn::{GroupNorm, GroupNormConfig, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Tensor};

use crate::ops::{group_norm, linear};
use crate::{KeysValues, attend};

/// What a U-Net attends to besides its own pixels.
#[derive(Debug, Clone)]
pub struct Context {
    /// `[batch, seq, d_context]`.
    pub tokens: Tensor<3>,
    /// `[batch, seq]`, true for tokens that may be attended to; all of them without a mask.
    pub mask: Option<Tensor<2, Bool>>,
}

/// A [`Context`] as one attention block sees it, independent of the picture and the timestep.
#[derive(Debug, Clone)]
pub struct SeenContext {
    seen: KeysValues,
    mask: Option<Tensor<2, Bool>>,
    /// What [`hidden`](Self::hidden) gave for the first picture: it is the same in every step.
    hidden: OnceLock<Tensor<4, Bool>>,
}

impl SeenContext {
    pub(crate) fn new(seen: KeysValues, mask: Option<Tensor<2, Bool>>) -> Self {
        Self { seen, mask, hidden: OnceLock::new() }
    }

    pub(crate) fn seen(&self) -> KeysValues {
        self.seen.clone()
    }

    /// Which keys are hidden from every pixel, if those of so many pixels follow the context's:
    /// `[batch, 1, 1, seq + pixels]`, true = hidden.
    pub(crate) fn hidden(&self, pixels: usize) -> Option<Tensor<4, Bool>> {
        let mask = self.mask.as_ref()?;
        let hidden = self.hidden.get_or_init(|| Self::hide(mask, pixels));
        if hidden.dims()[3] == mask.dims()[1] + pixels {
            return Some(hidden.clone());
        }
        Some(Self::hide(mask, pixels))
    }

    fn hide(mask: &Tensor<2, Bool>, pixels: usize) -> Tensor<4, Bool> {
        let [batch, seq] = mask.dims();
        let context = mask.clone().bool_not().int();
        let own = Tensor::zeros([batch, pixels], &context.device());
        let hidden = Tensor::cat(vec![context, own], 1).equal_elem(1);
        hidden.reshape([batch, 1, 1, seq + pixels])
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
    /// Projects the context, once for all calls. `None` if the block has no context.
    pub fn read(&self, context: &Context) -> Option<SeenContext> {
        let (add_k, add_v) = (self.add_k_proj.as_ref()?, self.add_v_proj.as_ref()?);
        let tokens = &context.tokens;
        let seen = KeysValues {
            keys: linear(add_k, tokens.clone()),
            values: linear(add_v, tokens.clone()),
        };
        Some(SeenContext::new(seen, context.mask.clone()))
    }

    /// Lets every pixel attend to the context and to all pixels, and adds the result.
    ///
    /// # Shapes
    /// - `x`, result: `[batch, channels, height, width]`
    /// - `context`: what [`read`](Self::read) gave
    pub fn forward(&self, x: Tensor<4>, context: Option<&SeenContext>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let pixels = height * width;
        let tokens = group_norm(&self.group_norm, x.clone()).reshape([batch, channels, pixels]);
        let tokens = tokens.swap_dims(1, 2);
        let q = linear(&self.to_q, tokens.clone());
        let own = KeysValues {
            keys: linear(&self.to_k, tokens.clone()),
            values: linear(&self.to_v, tokens),
        };
        let seen = match context {
            None => own,
            Some(context) => context.seen.followed_by(own),
        };
        let hidden = context.and_then(|context| context.hidden(pixels));
        let h = linear(&self.to_out[0], attend(q, seen.keys, seen.values, self.n_heads, hidden));
        x + h.swap_dims(1, 2).reshape([batch, channels, height, width])
    }
}

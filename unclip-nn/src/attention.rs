//! Multi-head attention over token sequences.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Bool, Device, Tensor};

use crate::ops::{attend, linear};

/// Self-attention with separate projections of queries, keys and values, all with bias.
#[derive(Module, Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    n_heads: usize,
}

impl Attention {
    /// Attention of `n_heads` heads over tokens of `d_model`.
    pub fn new(d_model: usize, n_heads: usize, device: &Device) -> Self {
        let linear = || LinearConfig::new(d_model, d_model).init(device);
        Self { to_q: linear(), to_k: linear(), to_v: linear(), to_out: linear(), n_heads }
    }

    /// Computes the keys and values of tokens.
    ///
    /// # Shapes
    /// - `x`: `[batch, seq, d_model]`
    pub fn keys_values(&self, x: Tensor<3>) -> KeysValues {
        KeysValues { keys: linear(&self.to_k, x.clone()), values: linear(&self.to_v, x) }
    }

    /// Attends from tokens to the keys and values of others, or their own.
    ///
    /// # Shapes
    /// - `x`, result: `[batch, seq, d_model]`
    /// - `hidden`: see [`attend`]
    pub fn forward(
        &self,
        x: Tensor<3>,
        seen: KeysValues,
        hidden: Option<Tensor<4, Bool>>,
    ) -> Tensor<3> {
        let q = linear(&self.to_q, x);
        linear(&self.to_out, attend(q, seen.keys, seen.values, self.n_heads, hidden))
    }
}

/// Keys and values of tokens, `[batch, seq, d_model]` each.
#[derive(Debug, Clone)]
pub struct KeysValues {
    /// What queries are compared with.
    pub keys: Tensor<3>,
    /// What is taken where queries and keys agree.
    pub values: Tensor<3>,
}

impl KeysValues {
    /// These, followed by those of later tokens.
    pub fn followed_by(&self, later: Self) -> Self {
        let join = |first: &Tensor<3>, second| Tensor::cat(vec![first.clone(), second], 1);
        Self { keys: join(&self.keys, later.keys), values: join(&self.values, later.values) }
    }
}

/// The mask that hides the future: `[1, 1, seq, seq]`, true above the diagonal.
pub fn causal_mask(seq: usize, device: &Device) -> Tensor<4, Bool> {
    Tensor::<2, Bool>::tril_mask([seq, seq], 0, device).unsqueeze()
}

//! Attention with a learned key and value that stand for nothing (DALLE2-pytorch).

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Tensor};

use crate::GainNorm;
use crate::ops::{attend, linear};

/// How queries and keys are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// By their product over √d_head.
    Product,
    /// By their product over d_head: DALLE2-pytorch, since 1.3, scales queries once before all else, and
    /// queries and keys once more.
    ProductTwice,
    /// By their cosine times 16.
    Cosine,
}

impl Comparison {
    /// What the product of queries and keys, or of their directions, is multiplied by.
    fn scale(self, d_head: usize) -> f64 {
        match self {
            Self::Product => (d_head as f64).powf(-0.5),
            Self::ProductTwice => 1.0 / d_head as f64,
            Self::Cosine => 16.0,
        }
    }
}

/// Sizes of a [`NullAttention`], and how it compares.
#[derive(Debug, Clone, Copy)]
pub struct NullAttentionConfig {
    /// Width of the tokens that attend.
    pub d_model: usize,
    /// Width of the tokens that they attend to, if these are others. If they attend to each other,
    /// all heads share one head of keys and values.
    pub d_context: Option<usize>,
    /// Heads of queries.
    pub n_heads: usize,
    /// Width of a head.
    pub d_head: usize,
    /// How queries and keys are compared.
    pub comparison: Comparison,
}

/// norm, attention to other tokens and to nothing, norm.
#[derive(Module, Debug)]
pub struct NullAttention {
    norm: GainNorm,
    null_kv: Param<Tensor<2>>,
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
    out_norm: GainNorm,
    n_heads: usize,
    d_head: usize,
    shares_keys: bool,
    #[module(skip)]
    comparison: Comparison,
}

/// Queries, keys and values, head by head.
#[derive(Debug, Clone)]
pub struct Projected {
    /// `[batch, seq, n_heads, d_head]`.
    pub queries: Tensor<4>,
    /// `[batch, seq of the others, n_heads or 1, d_head]`.
    pub keys: Tensor<4>,
    /// As the keys.
    pub values: Tensor<4>,
}

impl NullAttentionConfig {
    /// The layer, with fresh weights.
    pub fn init(&self, device: &Device) -> NullAttention {
        let Self { d_model, d_context, n_heads, d_head, comparison } = *self;
        let plain = |d_in, d_out| LinearConfig::new(d_in, d_out).with_bias(false).init(device);
        let shares_keys = d_context.is_none();
        let kv_heads = if shares_keys { 1 } else { n_heads };
        NullAttention {
            norm: GainNorm::new(d_model, device),
            null_kv: Initializer::Normal { mean: 0.0, std: 1.0 }.init([2, d_head], device),
            to_q: plain(d_model, n_heads * d_head),
            to_kv: plain(d_context.unwrap_or(d_model), 2 * kv_heads * d_head),
            to_out: plain(n_heads * d_head, d_model),
            out_norm: GainNorm::new(d_model, device),
            n_heads,
            d_head,
            shares_keys,
            comparison,
        }
    }
}

impl NullAttention {
    /// Attends from tokens to a context, or to each other.
    ///
    /// # Shapes
    /// - `x`, result: `[batch, seq, d_model]`
    /// - `context`: `[batch, seq of the others, d_context]`
    pub fn forward(&self, x: Tensor<3>, context: Option<Tensor<3>>) -> Tensor<3> {
        self.attend(self.project(x, context), None)
    }

    /// Normalizes tokens and projects them.
    ///
    /// # Shapes
    /// As [`forward`](Self::forward).
    pub fn project(&self, x: Tensor<3>, context: Option<Tensor<3>>) -> Projected {
        let x = self.norm.forward(x);
        let [batch, seq, _] = x.dims();
        let queries = linear(&self.to_q, x.clone());
        let kv = linear(&self.to_kv, context.unwrap_or(x));
        let others = kv.dims()[1];
        let kv_heads = if self.shares_keys { 1 } else { self.n_heads };
        let width = kv_heads * self.d_head;
        let heads = |x: Tensor<3>| x.reshape([batch, others, kv_heads, self.d_head]);
        Projected {
            queries: queries.reshape([batch, seq, self.n_heads, self.d_head]),
            keys: heads(kv.clone().narrow(2, 0, width)),
            values: heads(kv.narrow(2, width, width)),
        }
    }

    /// Attends to the given keys, and to nothing.
    ///
    /// # Shapes
    /// - `bias`: `[1, n_heads, seq, 1 + seq of the others]`, added to what the comparison gives;
    ///   nothing comes first
    /// - result: `[batch, seq, d_model]`
    pub fn attend(&self, projected: Projected, bias: Option<Tensor<4>>) -> Tensor<3> {
        let Projected { queries, keys, values } = projected;
        let null = self.null_kv.val().cast(keys.dtype());
        let keys = self.with_null(null.clone().narrow(0, 0, 1), keys);
        let values = self.with_null(null.narrow(0, 1, 1), values);
        let (queries, keys) = match self.comparison {
            Comparison::Cosine => (unit(queries), unit(keys)),
            Comparison::Product | Comparison::ProductTwice => (queries, keys),
        };
        // what follows divides by √d_head
        let scale = self.comparison.scale(self.d_head) * (self.d_head as f64).sqrt();
        let queries = queries * scale;
        let out = match bias {
            None => self.attend_plain(queries, keys, values),
            Some(bias) => self.attend_biased(queries, keys, values, bias),
        };
        self.out_norm.forward(linear(&self.to_out, out))
    }

    /// A learned key or value, `[1, d_head]`, before the others of every head.
    fn with_null(&self, null: Tensor<2>, others: Tensor<4>) -> Tensor<4> {
        let [batch, _, heads, d_head] = others.dims();
        let null = null.reshape([1, 1, 1, d_head]).expand([batch, 1, heads, d_head]);
        Tensor::cat(vec![null, others], 1)
    }

    fn attend_plain(&self, queries: Tensor<4>, keys: Tensor<4>, values: Tensor<4>) -> Tensor<3> {
        let [batch, seq, n_heads, d_head] = queries.dims();
        let others = keys.dims()[1];
        let rows = |x: Tensor<4>, seq: usize| x.reshape([batch, seq, n_heads * d_head]);
        let each = |x: Tensor<4>| rows(x.expand([batch, others, n_heads, d_head]), others);
        attend(rows(queries, seq), each(keys), each(values), n_heads, None)
    }

    fn attend_biased(
        &self,
        queries: Tensor<4>,
        keys: Tensor<4>,
        values: Tensor<4>,
        bias: Tensor<4>,
    ) -> Tensor<3> {
        let [batch, seq, n_heads, d_head] = queries.dims();
        let heads = |x: Tensor<4>| x.swap_dims(1, 2);
        let queries = heads(queries) * (d_head as f64).powf(-0.5);
        let scores = queries.matmul(heads(keys).transpose()).cast(DType::F32) + bias;
        let weights = softmax(scores, 3).cast(values.dtype());
        heads(weights.matmul(heads(values))).reshape([batch, seq, n_heads * d_head])
    }
}

/// Rows of length 1; a row of zeros stays zero.
fn unit(x: Tensor<4>) -> Tensor<4> {
    let dtype = x.dtype();
    let x = x.cast(DType::F32);
    let length = (x.clone() * x.clone()).sum_dim(3).sqrt();
    (x / length.clamp_min(1e-12)).cast(dtype)
}

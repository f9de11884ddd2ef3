//! The causal transformer of DALLE2-pytorch's prior.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use unclip_nn::ops::linear;
use unclip_nn::{
    Activation, Comparison, GainNorm, LaionRelease, NullAttention, NullAttentionConfig, Projected,
    TransformerConfig,
};

use crate::LaionPriorConfig;

/// Rows of the table of relative positions.
const BUCKETS: usize = 32;
/// From this distance on, all positions are as far.
const MAX_DISTANCE: usize = 128;
/// Most values of a head that are rotated.
const ROTATED: usize = 32;
/// Longest wavelength of the rotations.
const MAX_PERIOD: f64 = 10_000.0;
/// What the earlier releases multiply distances' scores by: they divide products of queries and keys by it,
/// add the distances, and multiply both ("PB-relax", Ding et al. 2021).
const RELAXED: f64 = 128.0;
/// The score of what comes later.
const HIDDEN: f32 = -1e30;

/// Blocks of [`NullAttention`] and a gated hidden layer.
#[derive(Module, Debug)]
pub(super) struct CosineTransformer {
    init_norm: Option<GainNorm>,
    distances: Param<Tensor<2>>,
    layers: Vec<Layer>,
    norm: Option<GainNorm>,
    project_out: Option<Linear>,
    rotates: bool,
    bias_scale: f64,
}

/// x + attention(x), then x + mlp(norm(x)).
#[derive(Module, Debug)]
struct Layer {
    attn: NullAttention,
    norm: GainNorm,
    c_fc: Linear,
    hidden_norm: Option<GainNorm>,
    c_proj: Linear,
}

/// Keys and values of the caption, block by block, and how many tokens it has.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    layers: Vec<[Tensor<4>; 2]>,
    seq: usize,
}

impl Layer {
    fn new(config: &TransformerConfig, own: &LaionPriorConfig, device: &Device) -> Self {
        let TransformerConfig { d_model, n_heads, d_hidden, activation, .. } = *config;
        let attention = NullAttentionConfig {
            d_model,
            d_context: None,
            n_heads,
            d_head: own.d_head,
            comparison: match own.release {
                LaionRelease::V1_0 => Comparison::Product,
                LaionRelease::V1_15 => Comparison::Cosine,
            },
        };
        let plain = |d_in, d_out| LinearConfig::new(d_in, d_out).with_bias(false).init(device);
        Self {
            attn: attention.init(device),
            norm: GainNorm::new(d_model, device),
            c_fc: plain(d_model, activation.inputs() * d_hidden),
            hidden_norm: own.normformer.then(|| GainNorm::new(d_hidden, device)),
            c_proj: plain(d_hidden, d_model),
        }
    }

    fn feed_forward(&self, x: Tensor<3>) -> Tensor<3> {
        let h = Activation::Swiglu.forward(linear(&self.c_fc, self.norm.forward(x.clone())));
        let h = match &self.hidden_norm {
            Some(norm) => norm.forward(h),
            None => h,
        };
        let h = linear(&self.c_proj, h);
        x.cast(h.dtype()) + h
    }
}

impl CosineTransformer {
    pub(super) fn new(config: &TransformerConfig, own: &LaionPriorConfig, device: &Device) -> Self {
        let width = config.d_model;
        let norm = || GainNorm::new(width, device);
        let table = Initializer::Normal { mean: 0.0, std: 1.0 };
        Self {
            init_norm: own.norm_in.then(norm),
            distances: table.init([BUCKETS, config.n_heads], device),
            layers: (0..config.n_layers).map(|_| Layer::new(config, own, device)).collect(),
            norm: own.norm_out.then(|| norm().stable()),
            project_out: own
                .projected
                .then(|| LinearConfig::new(width, width).with_bias(false).init(device)),
            rotates: own.rotary,
            bias_scale: match own.release {
                LaionRelease::V1_0 => RELAXED,
                LaionRelease::V1_15 => 1.0,
            },
        }
    }

    /// Reads the first tokens of a sequence, once for all that may follow: `[batch, first, width]`.
    pub(super) fn prefill(&self, x: Tensor<3>) -> Cache {
        let seq = x.dims()[1];
        let bias = self.bias(0, seq);
        let mut x = self.begin(x);
        let mut layers = Vec::with_capacity(self.layers.len());
        for (place, layer) in self.layers.iter().enumerate() {
            let projected = self.rotated(layer.attn.project(x.clone(), None), 0);
            layers.push([projected.keys.clone(), projected.values.clone()]);
            // nobody reads what the last block would give
            if place + 1 < self.layers.len() {
                let h = layer.attn.attend(projected, Some(bias.clone()));
                x = layer.feed_forward(x.cast(h.dtype()) + h);
            }
        }
        Cache { layers, seq }
    }

    /// The answer at the last of the tokens that follow those in `cache`: `[batch, later, width]` to
    /// `[batch, width]`.
    pub(super) fn answer(&self, cache: &Cache, x: Tensor<3>) -> Tensor<2> {
        let [batch, later, width] = x.dims();
        let bias = self.bias(cache.seq, later);
        let mut x = self.begin(x);
        for (layer, [keys, values]) in self.layers.iter().zip(&cache.layers) {
            let own = self.rotated(layer.attn.project(x.clone(), None), cache.seq);
            let join = |first: &Tensor<4>, own| Tensor::cat(vec![first.clone(), own], 1);
            let all = Projected {
                queries: own.queries,
                keys: join(keys, own.keys),
                values: join(values, own.values),
            };
            let h = layer.attn.attend(all, Some(bias.clone()));
            x = layer.feed_forward(x.cast(h.dtype()) + h);
        }
        let x = x.narrow(1, later - 1, 1).reshape([batch, width]);
        let x = match &self.norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        match &self.project_out {
            Some(layer) => linear(layer, x),
            None => x,
        }
    }

    fn begin(&self, x: Tensor<3>) -> Tensor<3> {
        match &self.init_norm {
            Some(norm) => norm.forward(x),
            None => x,
        }
    }

    fn rotated(&self, projected: Projected, first: usize) -> Projected {
        if !self.rotates {
            return projected;
        }
        let Projected { queries, keys, values } = projected;
        Projected { queries: rotated(queries, first), keys: rotated(keys, first), values }
    }

    /// What is added to the scores of tokens from place `first` on, by their distance to nothing and to
    /// all tokens up to the last of them: `[1, n_heads, seq, 1 + first + seq]`. Nothing has the first
    /// place there, so that a token is one further from itself than from the one before it.
    fn bias(&self, first: usize, seq: usize) -> Tensor<4> {
        let all = first + seq + 1;
        let table = self.distances.val();
        let device = table.device();
        let pairs = || (first..first + seq).flat_map(|query| (0..all).map(move |key| (query, key)));
        let buckets: Vec<i64> =
            pairs().map(|(query, key)| bucket(query.saturating_sub(key)) as i64).collect();
        let hidden: Vec<f32> =
            pairs().map(|(query, key)| if key > query + 1 { HIDDEN } else { 0.0 }).collect();
        let buckets = Tensor::<1, Int>::from_data(TensorData::new(buckets, [seq * all]), &device);
        let n_heads = table.dims()[1];
        let bias = table.select(0, buckets).reshape([1, seq, all, n_heads]).permute([0, 3, 1, 2]);
        let hidden = Tensor::<4>::from_data(TensorData::new(hidden, [1, 1, seq, all]), &device);
        bias * self.bias_scale + hidden
    }
}

/// The row of the table for a distance: exact for near ones, ever coarser beyond (T5, Raffel et al.
/// 2020).
fn bucket(distance: usize) -> usize {
    let exact = BUCKETS / 2;
    if distance < exact {
        return distance;
    }
    let share = (distance as f32 / exact as f32).ln() / ((MAX_DISTANCE / exact) as f32).ln();
    (exact + (share * (BUCKETS - exact) as f32) as usize).min(BUCKETS - 1)
}

/// Rotates the first pairs of each head's values by angles that grow with the position, of which
/// `first` is the first (Su et al. 2021): `[batch, seq, heads, d_head]`.
fn rotated(x: Tensor<4>, first: usize) -> Tensor<4> {
    let [batch, seq, heads, d_head] = x.dims();
    let pairs = ROTATED.min(d_head) / 2;
    let angle = |position: usize, pair: usize| {
        let frequency = (-MAX_PERIOD.ln() * pair as f64 / pairs as f64).exp() as f32;
        position as f32 * frequency
    };
    let angles: Vec<f32> = (first..first + seq)
        .flat_map(|position| (0..pairs).map(move |pair| angle(position, pair)))
        .collect();
    let shape = [1, seq, 1, pairs, 1];
    let angles = Tensor::<5>::from_data(TensorData::new(angles, shape), &x.device());
    let (cosine, sine) = (angles.clone().cos().cast(x.dtype()), angles.sin().cast(x.dtype()));
    let turned = x.clone().narrow(3, 0, 2 * pairs).reshape([batch, seq, heads, pairs, 2]);
    let (a, b) = (turned.clone().narrow(4, 0, 1), turned.narrow(4, 1, 1));
    let turned = Tensor::cat(
        vec![a.clone() * cosine.clone() - b.clone() * sine.clone(), b * cosine + a * sine],
        4,
    );
    let turned = turned.reshape([batch, seq, heads, 2 * pairs]);
    if 2 * pairs == d_head {
        return turned;
    }
    Tensor::cat(vec![turned, x.narrow(3, 2 * pairs, d_head - 2 * pairs)], 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_t5() {
        // RelPosBias._relative_position_bucket(-n)
        let found: Vec<usize> =
            [0, 1, 15, 16, 17, 31, 32, 63, 64, 100, 127, 128, 300].map(bucket).to_vec();
        assert_eq!(found, [0, 1, 15, 16, 16, 21, 21, 26, 26, 30, 31, 31, 31]);
    }
}

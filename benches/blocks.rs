//! Each block by size, forward and with its gradients: `cargo bench --features train --bench blocks`.
//!
//! The device is named by `UNCLIP_DEVICE` (default `flex`). Results are read back to the host by
//! their last value, so that a device that works on its own is waited for. Seconds are of one call.

mod setup;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNormConfig, PaddingConfig2d};
use burn::tensor::Tensor;
use divan::Bencher;
use unclip::unclip_nn::{
    Activation, Attention, AttentionBlockConfig, ResBlockConfig, Resample, TransformerConfig, ops,
};

use setup::{device, measure, random, wait};

fn main() {
    setup::main();
}

/// Batch, channels in, channels out, side: those of the small models, then of Karlo.
const CONVS: [[usize; 4]; 9] = [
    [32, 32, 32, 32],
    [32, 96, 32, 32],
    [32, 64, 64, 32],
    [32, 64, 64, 16],
    [32, 128, 64, 16],
    [1, 16, 16, 512],
    [2, 320, 320, 64],
    [2, 640, 640, 32],
    [2, 1280, 1280, 8],
];

/// Batch, channels, side.
const NORMS: [[usize; 3]; 4] = [[32, 32, 32], [32, 64, 16], [2, 320, 64], [2, 1280, 8]];

/// Batch, heads, queries, keys; heads are 64 wide.
const ATTENTIONS: [[usize; 4]; 4] =
    [[32, 2, 256, 284], [2, 32, 81, 81], [2, 10, 1024, 1105], [2, 20, 64, 145]];

/// Batch, tokens, width.
const TRANSFORMERS: [[usize; 3]; 3] = [[32, 28, 96], [2, 81, 512], [2, 81, 2048]];

#[divan::bench(args = CONVS)]
fn conv3x3(bencher: Bencher, [batch, channels_in, channels_out, side]: [usize; 4]) {
    let layer = conv(channels_in, channels_out, 3);
    let x = random([batch, channels_in, side, side]);
    measure(bencher, || wait(ops::conv(&layer, x.clone())));
}

#[divan::bench(args = CONVS)]
fn conv3x3_gradients(bencher: Bencher, [batch, channels_in, channels_out, side]: [usize; 4]) {
    let layer = conv(channels_in, channels_out, 3).train();
    let x = random([batch, channels_in, side, side]);
    measure(bencher, || gradients(&x, |x| ops::conv(&layer, x)));
}

#[divan::bench(args = [[32, 96, 32, 32], [32, 128, 64, 16], [2, 640, 320, 64]])]
fn conv1x1(bencher: Bencher, [batch, channels_in, channels_out, side]: [usize; 4]) {
    let layer = conv(channels_in, channels_out, 1);
    let x = random([batch, channels_in, side, side]);
    measure(bencher, || wait(ops::conv(&layer, x.clone())));
}

#[divan::bench(args = NORMS)]
fn group_norm_silu(bencher: Bencher, [batch, channels, side]: [usize; 3]) {
    let norm = GroupNormConfig::new(8, channels).init(&device());
    let x = random([batch, channels, side, side]);
    measure(bencher, || wait(ops::group_norm_silu(&norm, x.clone(), None)));
}

#[divan::bench(args = NORMS)]
fn group_norm_silu_gradients(bencher: Bencher, [batch, channels, side]: [usize; 3]) {
    let norm = GroupNormConfig::new(8, channels).init(&device()).train();
    let x = random([batch, channels, side, side]);
    measure(bencher, || gradients(&x, |x| ops::group_norm_silu(&norm, x, None)));
}

#[divan::bench(args = ATTENTIONS)]
fn attention(bencher: Bencher, [batch, heads, queries, keys]: [usize; 4]) {
    let [q, k, v] = [queries, keys, keys].map(|tokens| random([batch, tokens, heads * 64]));
    let attend = unclip::unclip_nn::attend;
    measure(bencher, || wait(attend(q.clone(), k.clone(), v.clone(), heads, None)));
}

#[divan::bench(args = ATTENTIONS)]
fn attention_gradients(bencher: Bencher, [batch, heads, queries, keys]: [usize; 4]) {
    let q = random([batch, queries, heads * 64]);
    let [k, v] = [keys, keys].map(|tokens| random([batch, tokens, heads * 64]));
    let [k, v] = [k, v].map(|x| x.autodiff().require_grad());
    let attend = unclip::unclip_nn::attend;
    measure(bencher, || gradients(&q, |q| attend(q, k.clone(), v.clone(), heads, None)));
}

#[divan::bench(args = TRANSFORMERS)]
fn transformer_block(bencher: Bencher, [batch, tokens, width]: [usize; 3]) {
    let block = transformer(width).init(&device());
    let x = random([batch, tokens, width]);
    measure(bencher, || wait(block.forward(x.clone(), None)));
}

#[divan::bench(args = TRANSFORMERS)]
fn transformer_block_gradients(bencher: Bencher, [batch, tokens, width]: [usize; 3]) {
    let block = transformer(width).init(&device()).train();
    let x = random([batch, tokens, width]);
    measure(bencher, || gradients(&x, |x| block.forward(x, None)));
}

#[divan::bench(args = TRANSFORMERS)]
fn self_attention(bencher: Bencher, [batch, tokens, width]: [usize; 3]) {
    let attention = Attention::new(width, width.div_ceil(64), &device());
    let x = random([batch, tokens, width]);
    measure(bencher, || {
        let seen = attention.keys_values(x.clone());
        wait(attention.forward(x.clone(), seen, None));
    });
}

#[divan::bench(args = [[32, 64, 16], [2, 640, 32]])]
fn attention_block(bencher: Bencher, [batch, channels, side]: [usize; 3]) {
    let config = AttentionBlockConfig { channels, d_head: 32, norm_groups: 8, d_context: None };
    let block = config.init(&device());
    let x = random([batch, channels, side, side]);
    measure(bencher, || wait(block.forward(x.clone(), None)));
}

#[divan::bench(args = CONVS)]
fn res_block(bencher: Bencher, size: [usize; 4]) {
    let [batch, channels_in, _, side] = size;
    let block = residual(size).init(&device());
    let (x, emb) = (random([batch, channels_in, side, side]), random([batch, 256]));
    measure(bencher, || wait(block.forward(x.clone(), emb.clone())));
}

#[divan::bench(args = CONVS)]
fn res_block_gradients(bencher: Bencher, size: [usize; 4]) {
    let [batch, channels_in, _, side] = size;
    let block = residual(size).init(&device()).train();
    let (x, emb) = (random([batch, channels_in, side, side]), random([batch, 256]));
    measure(bencher, || gradients(&x, |x| block.forward(x, emb.clone())));
}

fn conv(channels_in: usize, channels_out: usize, side: usize) -> Conv2d {
    let border = side / 2;
    Conv2dConfig::new([channels_in, channels_out], [side, side])
        .with_padding(PaddingConfig2d::Explicit(border, border, border, border))
        .init(&device())
}

fn transformer(d_model: usize) -> TransformerConfig {
    TransformerConfig {
        d_model,
        n_layers: 1,
        n_heads: d_model.div_ceil(64),
        d_hidden: 4 * d_model,
        activation: Activation::Gelu,
        norm_eps: 1e-5,
    }
}

fn residual([_, channels_in, channels_out, _]: [usize; 4]) -> ResBlockConfig {
    ResBlockConfig {
        channels_in,
        channels_out,
        d_embedding: 256,
        norm_groups: 8,
        norm_eps: 1e-5,
        scale_shift: true,
        resample: Resample::Keep,
    }
}

/// The gradients of the sum of an operation's values, for its input and all that it holds.
fn gradients<const D: usize, const E: usize>(
    x: &Tensor<D>,
    operation: impl FnOnce(Tensor<D>) -> Tensor<E>,
) -> f32 {
    let x = x.clone().autodiff().require_grad();
    let gradients = operation(x.clone()).sum().backward();
    x.grad(&gradients).map_or(f32::NAN, wait)
}

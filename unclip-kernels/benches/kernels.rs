//! Each kernel by size, without any tensor library: `cargo bench -p unclip-kernels`.
//!
//! Sizes are those of the small models, then of Karlo. Threads are those of the rayon pool
//! (`RAYON_NUM_THREADS`); seconds are of one call.

use divan::Bencher;
use unclip_kernels::{
    Affine, AttentionShape, ConvShape, GroupShape, attention, attention_backward, conv1x1, conv3x3,
    conv3x3_backward_input, conv3x3_backward_weight, gelu, group_norm, layer_norm, silu,
};

fn main() {
    divan::main();
}

/// Batch, channels in, channels out, side.
const CONVS: [[usize; 4]; 5] =
    [[32, 32, 32, 32], [32, 64, 64, 16], [1, 16, 16, 512], [2, 320, 320, 64], [2, 1280, 1280, 8]];

/// Batch, heads, queries, keys; heads are 64 wide.
const ATTENTIONS: [[usize; 4]; 3] = [[32, 2, 256, 284], [2, 10, 1024, 1105], [2, 20, 64, 145]];

/// Values that are neither all alike nor worth drawing.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect()
}

fn shape([batch, c_in, c_out, side]: [usize; 4]) -> ConvShape {
    ConvShape { batch, c_in, c_out, height: side, width: side }
}

#[divan::bench(args = CONVS)]
fn conv3x3_forward(bencher: Bencher, sizes: [usize; 4]) {
    let s = shape(sizes);
    let (x, w, b) = (values(s.input_len()), values(s.weight_len()), values(s.c_out));
    let mut y = vec![0.0; s.output_len()];
    bencher.bench_local(|| conv3x3(s, &x, &w, Some(&b), &mut y));
}

#[divan::bench(args = CONVS)]
fn conv3x3_gradients(bencher: Bencher, sizes: [usize; 4]) {
    let s = shape(sizes);
    let (x, w, dy) = (values(s.input_len()), values(s.weight_len()), values(s.output_len()));
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    bencher.bench_local(|| {
        conv3x3_backward_input(s, &dy, &w, &mut dx);
        conv3x3_backward_weight(s, &x, &dy, &mut dw);
    });
}

#[divan::bench(args = CONVS)]
fn conv1x1_forward(bencher: Bencher, sizes: [usize; 4]) {
    let s = shape(sizes);
    let (x, w, b) = (values(s.input_len()), values(s.c_in * s.c_out), values(s.c_out));
    let mut y = vec![0.0; s.output_len()];
    bencher.bench_local(|| conv1x1(s, &x, &w, Some(&b), &mut y));
}

#[divan::bench(args = ATTENTIONS)]
fn attention_forward(bencher: Bencher, sizes: [usize; 4]) {
    let (s, [q, k, v]) = heads(sizes);
    let mut y = vec![0.0; q.len()];
    bencher.bench_local(|| attention(s, &q, &k, &v, None, &mut y));
}

#[divan::bench(args = ATTENTIONS)]
fn attention_gradients(bencher: Bencher, sizes: [usize; 4]) {
    let (s, [q, k, v]) = heads(sizes);
    let dy = values(q.len());
    let mut grads = [&q, &k, &v].map(|x| vec![0.0; x.len()]);
    bencher.bench_local(|| {
        let of_inputs = grads.each_mut().map(Vec::as_mut_slice);
        attention_backward(s, [&q, &k, &v], None, &dy, of_inputs);
    });
}

fn heads([batch, heads, seq_q, seq_k]: [usize; 4]) -> (AttentionShape, [Vec<f32>; 3]) {
    let s = AttentionShape { batch, heads, seq_q, seq_k, d_head: 64 };
    (s, [seq_q, seq_k, seq_k].map(|rows| values(batch * rows * heads * s.d_head)))
}

/// Batch, channels, side.
#[divan::bench(args = [[32, 32, 32], [2, 320, 64], [2, 1280, 8]])]
fn group_norm_silu(bencher: Bencher, [batch, channels, side]: [usize; 3]) {
    let s = GroupShape { batch, channels, pixels: side * side, groups: 32 };
    let (x, gamma, beta) = (values(s.values()), values(channels), values(channels));
    let (mut y, mut mean, mut rstd) =
        (vec![0.0; x.len()], vec![0.0; s.statistics()], vec![0.0; s.statistics()]);
    let affine = Affine { gamma: &gamma, beta: &beta, modulation: None, silu: true };
    bencher.bench_local(|| group_norm(s, &x, affine, 1e-5, &mut y, &mut mean, &mut rstd));
}

/// Rows, width.
#[divan::bench(args = [[896, 96], [162, 2048]])]
fn layer_norm_forward(bencher: Bencher, [rows, width]: [usize; 2]) {
    let (x, gamma, beta) = (values(rows * width), values(width), values(width));
    let (mut y, mut mean, mut rstd) = (vec![0.0; x.len()], vec![0.0; rows], vec![0.0; rows]);
    bencher.bench_local(|| layer_norm(&x, &gamma, Some(&beta), 1e-5, &mut y, &mut mean, &mut rstd));
}

#[divan::bench(args = [1 << 20])]
fn silu_forward(bencher: Bencher, n: usize) {
    let (x, mut y) = (values(n), vec![0.0; n]);
    bencher.bench_local(|| silu(&x, &mut y));
}

#[divan::bench(args = [1 << 20])]
fn gelu_forward(bencher: Bencher, n: usize) {
    let (x, mut y) = (values(n), vec![0.0; n]);
    bencher.bench_local(|| gelu(&x, &mut y));
}

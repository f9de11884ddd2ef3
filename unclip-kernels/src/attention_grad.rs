//! The gradients of attention.

use super::attention::{AttentionShape, Mask, Pair, Rows, Softmax, chunk, hide, split, weight};
use super::conv_plan::SERIAL_WORK;
use super::gemm::{Dense, Left, Matrix, Product, Right, Start, pack, pack_transposed, padded};
use super::simd::{aligned, arch, copy_row};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Gradients of [`attention`](super::attention()) with respect to its queries, keys and values.
///
/// `dy` is the gradient of its output; `grads`, which are overwritten, are those of
/// `qkv`, in the same order and shapes. With the weights `p = softmax(s)` of
/// `s = q k^T / sqrt(d_head)` and `dp = dy v^T`: `dv = p^T dy`,
/// `ds = p (dp - sum over keys of p dp)`, `dq = ds k / sqrt(d_head)` and
/// `dk = ds^T q / sqrt(d_head)`. The weights are computed again, block by block.
///
/// A query from which all keys are hidden passes gradients to the values only: its weights
/// are equal, whatever it and the keys are. Other than that, nothing reaches a hidden key.
///
/// # Panics
/// If a slice does not have the length `shape` implies.
pub fn attention_backward(
    shape: AttentionShape,
    qkv: [&[f32]; 3],
    mask: Option<Mask<'_>>,
    dy: &[f32],
    grads: [&mut [f32]; 3],
) {
    let ([q, k, v], [dq, dk, dv]) = (qkv, grads);
    let (queries, keys) = (shape.query_len(), shape.key_len());
    assert!(q.len() == queries && k.len() == keys && v.len() == keys, "input length");
    assert_eq!(dy.len(), queries, "output length");
    assert!(dq.len() == queries && dk.len() == keys && dv.len() == keys, "gradient length");
    if let Some(mask) = mask {
        mask.check(shape);
    }
    if q.is_empty() || k.is_empty() {
        for gradient in [dq, dk, dv] {
            gradient.fill(0.0);
        }
        return;
    }
    let arch = arch();
    let compute = |pair: Pair, grads: [Rows<'_>; 3]| {
        SCRATCH.with_borrow_mut(|scratch| {
            arch.dispatch(Backward { shape, qkv, mask, dy, pair, grads, scratch });
        });
    };
    let (sequence_q, sequence_k) = (shape.seq_q * shape.width(), shape.seq_k * shape.width());
    let whole = |(batch, (dq, (dk, dv))): (usize, Sequence<'_>)| {
        for head in 0..shape.heads {
            let grads = [&mut *dq, &mut *dk, &mut *dv].map(|d| Rows::strided(d, shape, head));
            compute(Pair { batch, head }, grads);
        }
    };
    if shape.work() < SERIAL_WORK {
        let keys = dk.chunks_exact_mut(sequence_k).zip(dv.chunks_exact_mut(sequence_k));
        dq.chunks_exact_mut(sequence_q).zip(keys).enumerate().for_each(whole);
    } else if shape.batch >= 4 * rayon::current_num_threads() {
        let keys = dk.par_chunks_exact_mut(sequence_k).zip(dv.par_chunks_exact_mut(sequence_k));
        let sequences = dq.par_chunks_exact_mut(sequence_q).zip(keys);
        sequences.with_max_len(1).enumerate().for_each(whole);
    } else {
        let parts = |data, rows| split(shape, rows, rows, data);
        let keys = parts(dk, shape.seq_k).into_par_iter().zip(parts(dv, shape.seq_k));
        let pairs = parts(dq, shape.seq_q).into_par_iter().zip(keys);
        pairs.with_max_len(1).enumerate().for_each(|(i, (dq, (dk, dv)))| {
            let pair = Pair { batch: i / shape.heads, head: i % shape.heads };
            compute(pair, [dq, dk, dv].map(Rows::Separate));
        });
    }
}

/// The gradients of the queries, keys and values of one sequence.
type Sequence<'a> = (&'a mut [f32], (&'a mut [f32], &'a mut [f32]));

/// Scores that are kept at once, a quarter of a megabyte of them and as much of their
/// gradients.
const SCORES: usize = 1 << 16;

/// Queries whose scores are computed at once, at least and at most.
const QUERIES: [usize; 2] = [32, 64];

/// Buffers of a thread, kept between calls: fresh memory costs a page fault per 4 KiB.
#[derive(Default)]
struct Scratch {
    /// The keys, transposed and as they are, and the values transposed.
    packed: [Vec<f32>; 3],
    /// The queries and the gradients of the output of one block.
    block: [Vec<f32>; 2],
    weights: Vec<f32>,
    slopes: Vec<f32>,
    /// The gradients of the queries of one block and of all keys and values.
    sums: [Vec<f32>; 3],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// One head.
struct Backward<'a> {
    shape: AttentionShape,
    qkv: [&'a [f32]; 3],
    mask: Option<Mask<'a>>,
    dy: &'a [f32],
    pair: Pair,
    grads: [Rows<'a>; 3],
    scratch: &'a mut Scratch,
}

/// Keys and values of some positions.
struct Chunk<'a> {
    range: Range<usize>,
    /// The keys, transposed and scaled.
    keys: Right<'a>,
    /// The keys as they are.
    plain: Right<'a>,
    /// The values, transposed.
    values: Right<'a>,
}

impl Chunk<'_> {
    /// Its positions, rounded up to whole vectors.
    fn padded<S: Simd>(&self) -> usize {
        padded::<S>(self.range.len())
    }
}

/// Some queries.
struct Block<'a> {
    shape: AttentionShape,
    mask: Option<Mask<'a>>,
    batch: usize,
    first: usize,
    q: Matrix<'a>,
    dy: Matrix<'a>,
}

impl Block<'_> {
    /// The scores of a chunk of keys and the gradients of its weights.
    #[inline(always)]
    fn scores<S: Simd>(&self, simd: S, chunk: &Chunk<'_>, row: usize, out: [&mut [f32]; 2]) {
        let [scores, slopes] = out;
        let c = Dense { data: scores, stride: row };
        let (a, b) = (self.q.left(), chunk.keys);
        simd.vectorize(Product { a, b, start: Start::Zero, c, copy: None });
        let c = Dense { data: slopes, stride: row };
        let (a, b) = (self.dy.left(), chunk.values);
        simd.vectorize(Product { a, b, start: Start::Zero, c, copy: None });
        for (i, scores) in scores.chunks_exact_mut(row).take(self.q.rows).enumerate() {
            let hidden = self
                .mask
                .map(|mask| &mask.row(self.shape, self.batch, self.first + i)[chunk.range.clone()]);
            hide(&mut scores[..chunk.padded::<S>()], hidden, chunk.range.len());
        }
    }
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Self { shape, pair, qkv: [q, k, v], .. } = self;
        let Scratch { packed, block, weights, slopes, sums } = self.scratch;
        let (q, dy) = (shape.head(q, pair, shape.seq_q), shape.head(self.dy, pair, shape.seq_q));
        let (k, v) = (shape.head(k, pair, shape.seq_k), shape.head(v, pair, shape.seq_k));
        let chunk = chunk(shape.seq_k, SCORES / QUERIES[0]);
        let (row, wide) = (padded::<S>(chunk), padded::<S>(shape.d_head));
        let chunks = chunks(simd, shape.factor(), k, v, chunk, packed);
        let queries = (SCORES / row / 8 * 8).clamp(QUERIES[0], QUERIES[1]).min(shape.seq_q);
        let (weights, slopes) = (aligned(weights, queries * row), aligned(slopes, queries * row));
        let [packed_q, packed_dy] = block;
        let packed_q = aligned(packed_q, queries * wide);
        let packed_dy = aligned(packed_dy, queries * wide);
        let [dq, dk, dv] = sums;
        let dq = aligned(dq, queries * wide);
        let (dk, dv) = (aligned(dk, shape.seq_k * wide), aligned(dv, shape.seq_k * wide));
        for first in (0..shape.seq_q).step_by(queries) {
            let range = first..shape.seq_q.min(first + queries);
            let (q, dy) = (q.part(range.clone()), dy.part(range));
            let block = Block { shape, mask: self.mask, batch: pair.batch, first, q, dy };
            let (packed_q, packed_dy) =
                (pack(simd, q, &mut *packed_q), pack(simd, dy, &mut *packed_dy));
            let mut rows = [Row::NOTHING; QUERIES[1]];
            for chunk in &chunks {
                block.scores(simd, chunk, row, [&mut *weights, &mut *slopes]);
                let lines = weights.chunks_exact_mut(row).zip(slopes.chunks_exact(row));
                for ((weights, slopes), row) in lines.zip(&mut rows[..q.rows]) {
                    let used = chunk.padded::<S>();
                    row.add(simd, &mut weights[..used], &slopes[..used]);
                }
            }
            for chunk in &chunks {
                let again = chunks.len() > 1;
                if again {
                    block.scores(simd, chunk, row, [&mut *weights, &mut *slopes]);
                }
                let lines = weights.chunks_exact_mut(row).zip(slopes.chunks_exact_mut(row));
                for ((weights, slopes), row) in lines.zip(&rows[..q.rows]) {
                    let used = chunk.padded::<S>();
                    let (weights, slopes) = (&mut weights[..used], &mut slopes[..used]);
                    row.finish(simd, again, shape.factor(), weights, slopes);
                }
                let start = |first| if first { Start::Zero } else { Start::Target };
                let at = chunk.range.start * wide;
                let columns = |data| Left::<true> { data, stride: row, rows: chunk.range.len() };
                let (a, b) = (columns(&*weights), packed_dy);
                let c = Dense { data: &mut dv[at..], stride: wide };
                simd.vectorize(Product { a, b, start: start(first == 0), c, copy: None });
                let (a, b) = (columns(&*slopes), packed_q);
                let c = Dense { data: &mut dk[at..], stride: wide };
                simd.vectorize(Product { a, b, start: start(first == 0), c, copy: None });
                let a = Left::<false> { data: slopes, stride: row, rows: q.rows };
                let c = Dense { data: dq, stride: wide };
                let start = start(chunk.range.start == 0);
                simd.vectorize(Product { a, b: chunk.plain, start, c, copy: None });
            }
            for (i, dq) in dq.chunks_exact(wide).take(q.rows).enumerate() {
                copy_row(self.grads[0].row(first + i), &dq[..shape.d_head]);
            }
        }
        for (grads, sums) in self.grads[1..].iter_mut().zip([dk, dv]) {
            for (i, sum) in sums.chunks_exact(wide).enumerate() {
                copy_row(grads.row(i), &sum[..shape.d_head]);
            }
        }
    }
}

/// Packs all keys and values.
#[inline(always)]
fn chunks<'a, S: Simd>(
    simd: S,
    factor: f32,
    k: Matrix<'_>,
    v: Matrix<'_>,
    chunk: usize,
    packed: &'a mut [Vec<f32>; 3],
) -> Vec<Chunk<'a>> {
    let (row, wide) = (padded::<S>(chunk), padded::<S>(k.columns));
    let [keys, plain, values] = packed;
    let transposed = k.rows.next_multiple_of(row) * k.columns;
    let keys = aligned(keys, transposed).chunks_mut(row * k.columns);
    let values = aligned(values, transposed).chunks_mut(row * k.columns);
    let plain = aligned(plain, k.rows * wide).chunks_mut(chunk * wide);
    let mut chunks = Vec::with_capacity(k.rows.div_ceil(chunk));
    for (i, ((keys, values), plain)) in keys.zip(values).zip(plain).enumerate() {
        let range = i * chunk..k.rows.min((i + 1) * chunk);
        let (k, v) = (k.part(range.clone()), v.part(range.clone()));
        chunks.push(Chunk {
            range,
            keys: pack_transposed(simd, k, factor, keys),
            plain: pack(simd, k, plain),
            values: pack_transposed(simd, v, 1.0, values),
        });
    }
    chunks
}

/// What is known of the scores of a query.
#[derive(Clone, Copy)]
struct Row {
    softmax: Softmax,
    /// The sum of `exp(score - max) * slope`.
    product: f32,
}

impl Row {
    const NOTHING: Self = Self { softmax: Softmax::NOTHING, product: 0.0 };

    /// Adds a range of scores, which become `exp(score - max)`.
    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, scores: &mut [f32], slopes: &[f32]) {
        let shrink = self.softmax.add(simd, scores);
        let (weights, slopes) = (S::as_simd_f32s(scores).0, S::as_simd_f32s(slopes).0);
        let mut sum = simd.splat_f32s(0.0);
        for (weight, slope) in weights.iter().zip(slopes) {
            sum = simd.mul_add_e_f32s(*weight, *slope, sum);
        }
        self.product = self.product * shrink + simd.reduce_sum_f32s(sum);
    }

    /// Turns `exp(score - max)`, or scores, into weights, and the slopes of the weights
    /// into those of `q k^T`.
    #[inline(always)]
    fn finish<S: Simd>(
        &self,
        simd: S,
        scores: bool,
        factor: f32,
        weights: &mut [f32],
        slopes: &mut [f32],
    ) {
        let Softmax { max, sum } = self.softmax;
        // Scores of nothing but hidden keys are constants.
        let factor = if max == f32::MIN { 0.0 } else { factor };
        let (max, scale) = (simd.splat_f32s(max), simd.splat_f32s(1.0 / sum));
        let (mean, factor) = (simd.splat_f32s(self.product / sum), simd.splat_f32s(factor));
        let (weights, slopes) = (S::as_mut_simd_f32s(weights).0, S::as_mut_simd_f32s(slopes).0);
        for (w, slope) in weights.iter_mut().zip(slopes) {
            if scores {
                *w = weight(simd, simd.sub_f32s(*w, max));
            }
            *w = simd.mul_f32s(*w, scale);
            let centered = simd.sub_f32s(*slope, mean);
            *slope = simd.mul_f32s(simd.mul_f32s(*w, factor), centered);
        }
    }
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;

//! Attention: `softmax(q k^T / sqrt(d)) v`, head by head.
//!
//! Some queries at a time see some keys at a time, so that their scores stay in a core's
//! cache however long the sequences are. The softmax goes on from one range of keys to the
//! next: when a range raises the maximum of a row, what was summed before shrinks.

use super::conv_plan::SERIAL_WORK;
use super::gemm::{Dense, Left, Matrix, Product, Start, pack, pack_transposed, padded};
use super::simd::{aligned, arch};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

#[path = "attention_softmax.rs"]
mod softmax;
pub(super) use softmax::{Softmax, hide, weight};

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of independent sequences.
    pub batch: usize,
    /// Heads, each with its own slice of the channels.
    pub heads: usize,
    /// Queries per sequence.
    pub seq_q: usize,
    /// Keys, and values, per sequence.
    pub seq_k: usize,
    /// Channels per head.
    pub d_head: usize,
}

impl AttentionShape {
    /// Channels, `heads * d_head`.
    pub fn width(&self) -> usize {
        self.heads * self.d_head
    }

    /// Values of the queries and of the output, `[batch, seq_q, heads * d_head]`.
    pub fn query_len(&self) -> usize {
        self.batch * self.seq_q * self.width()
    }

    /// Values of the keys, and of the values, `[batch, seq_k, heads * d_head]`.
    pub fn key_len(&self) -> usize {
        self.batch * self.seq_k * self.width()
    }

    /// Multiply-adds of one of the matrix products.
    pub(super) fn work(&self) -> usize {
        self.query_len() * self.seq_k
    }

    /// What scores are multiplied with.
    pub(super) fn factor(&self) -> f32 {
        1.0 / (self.d_head as f32).sqrt()
    }

    /// The rows of one head in `data`, whose sequences have `rows` positions.
    pub(super) fn head<'a>(&self, data: &'a [f32], pair: Pair, rows: usize) -> Matrix<'a> {
        let at = pair.batch * rows * self.width() + pair.head * self.d_head;
        Matrix { data: &data[at..], stride: self.width(), rows, columns: self.d_head }
    }
}

/// Keys that queries must not look at.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// `[batch, seq_q, seq_k]`, true where a query must not look.
    pub hidden: &'a [bool],
    /// As in the shape, or 1 if all sequences share the mask.
    pub batch: usize,
    /// As in the shape, or 1 if all queries share the mask.
    pub seq_q: usize,
}

impl<'a> Mask<'a> {
    pub(super) fn check(&self, shape: AttentionShape) {
        assert!(self.batch == shape.batch || self.batch == 1, "mask batch");
        assert!(self.seq_q == shape.seq_q || self.seq_q == 1, "mask queries");
        assert_eq!(self.hidden.len(), self.batch * self.seq_q * shape.seq_k, "mask length");
    }

    /// The keys hidden from one query.
    #[inline(always)]
    pub(super) fn row(&self, shape: AttentionShape, batch: usize, query: usize) -> &'a [bool] {
        let batch = if self.batch == 1 { 0 } else { batch };
        let query = if self.seq_q == 1 { 0 } else { query };
        &self.hidden[(batch * self.seq_q + query) * shape.seq_k..][..shape.seq_k]
    }
}

/// One head of one sequence.
#[derive(Clone, Copy)]
pub(super) struct Pair {
    pub batch: usize,
    pub head: usize,
}

/// Multi-head attention, `y = softmax(q k^T / sqrt(d_head)) v` for every head.
///
/// `q` and `y`, which is overwritten, are `[batch, seq_q, heads * d_head]`, `k` and `v` are
/// `[batch, seq_k, heads * d_head]`; the channels of a head are next to each other.
///
/// A hidden key has the weight zero, and so has one whose score is more than 87 below the
/// largest. A query from which all keys are hidden gets the mean of all values, as if all
/// its scores were equal; it never gets not-a-number. Without any keys, `y` is zero.
///
/// # Panics
/// If a slice does not have the length `shape` implies.
pub fn attention(
    shape: AttentionShape,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    mask: Option<Mask<'_>>,
    y: &mut [f32],
) {
    assert!(q.len() == shape.query_len() && y.len() == q.len(), "query or output length");
    assert!(k.len() == shape.key_len() && v.len() == k.len(), "key or value length");
    if let Some(mask) = mask {
        mask.check(shape);
    }
    if k.is_empty() || y.is_empty() {
        return y.fill(0.0);
    }
    let arch = arch();
    let compute = |pair: Pair, queries: Range<usize>, y: Rows<'_>| {
        SCRATCH.with_borrow_mut(|scratch| {
            arch.dispatch(Forward { shape, q, k, v, mask, pair, queries, y, scratch });
        });
    };
    let sequence = shape.seq_q * shape.width();
    let whole = |(batch, y): (usize, &mut [f32])| {
        for head in 0..shape.heads {
            let y = Rows::strided(y, shape, head);
            compute(Pair { batch, head }, 0..shape.seq_q, y);
        }
    };
    // Several tasks per thread even out cores that are slowed by other work.
    let wanted = 4 * rayon::current_num_threads();
    if shape.work() < SERIAL_WORK {
        y.chunks_exact_mut(sequence).enumerate().for_each(whole);
    } else if shape.batch >= wanted {
        y.par_chunks_exact_mut(sequence).with_max_len(1).enumerate().for_each(whole);
    } else {
        // Every task packs the keys and values again, which fewer queries would not repay.
        const QUERIES: usize = 256;
        let parts = wanted.div_ceil(shape.batch * shape.heads);
        let queries = shape.seq_q.div_ceil(parts).next_multiple_of(BLOCK).max(QUERIES);
        let tasks = split(shape, shape.seq_q, queries, y);
        tasks.into_par_iter().with_max_len(1).enumerate().for_each(|(i, rows)| {
            let parts = shape.seq_q.div_ceil(queries);
            let (pair, from) = (i / parts, i % parts * queries);
            let pair = Pair { batch: pair / shape.heads, head: pair % shape.heads };
            compute(pair, from..shape.seq_q.min(from + queries), Rows::Separate(rows));
        });
    }
}

/// The rows that a task writes.
pub(super) enum Rows<'a> {
    /// `len` values each, `stride` values apart, from `at` on.
    Strided { data: &'a mut [f32], at: usize, len: usize, stride: usize },
    /// One slice each.
    Separate(Vec<&'a mut [f32]>),
}

impl<'a> Rows<'a> {
    /// The rows of one head of the sequence `data`.
    pub(super) fn strided(data: &'a mut [f32], shape: AttentionShape, head: usize) -> Self {
        let (len, stride) = (shape.d_head, shape.width());
        Self::Strided { data, at: head * len, len, stride }
    }

    #[inline(always)]
    pub(super) fn row(&mut self, i: usize) -> &mut [f32] {
        match self {
            Self::Strided { data, at, len, stride } => &mut data[*at + i * *stride..][..*len],
            Self::Separate(rows) => rows[i],
        }
    }
}

/// Cuts a tensor into the rows of every head, and those after each `part` of the `rows`
/// positions of a sequence.
pub(super) fn split(
    shape: AttentionShape,
    rows: usize,
    part: usize,
    data: &mut [f32],
) -> Vec<Vec<&mut [f32]>> {
    let parts = rows.div_ceil(part);
    let mut tasks: Vec<_> = (0..shape.batch * shape.heads * parts)
        .map(|_| Vec::with_capacity(part.min(rows)))
        .collect();
    for (i, row) in data.chunks_exact_mut(shape.d_head).enumerate() {
        let (head, row_index) = (i % shape.heads, i / shape.heads);
        let pair = row_index / rows * shape.heads + head;
        tasks[pair * parts + row_index % rows / part].push(row);
    }
    tasks
}

/// Queries whose scores are computed at once.
const BLOCK: usize = 64;

/// Keys whose scores are computed at once, at most.
const KEYS: usize = 384;

/// Buffers of a thread, kept between calls: fresh memory costs a page fault per 4 KiB.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    values: Vec<f32>,
    scores: Vec<f32>,
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Some queries of one head.
struct Forward<'a> {
    shape: AttentionShape,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    mask: Option<Mask<'a>>,
    pair: Pair,
    queries: Range<usize>,
    y: Rows<'a>,
    scratch: &'a mut Scratch,
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Self { shape, pair, .. } = self;
        let Scratch { keys, values, scores, sums } = self.scratch;
        let q = shape.head(self.q, pair, shape.seq_q);
        let chunk = chunk(shape.seq_k, KEYS);
        let (row, wide) = (padded::<S>(chunk), padded::<S>(shape.d_head));
        let keys = aligned(keys, shape.seq_k.next_multiple_of(row) * shape.d_head);
        let values = aligned(values, shape.seq_k * wide);
        let k = shape.head(self.k, pair, shape.seq_k);
        let v = shape.head(self.v, pair, shape.seq_k);
        let mut right = Vec::with_capacity(shape.seq_k.div_ceil(chunk));
        let packed = keys.chunks_mut(row * shape.d_head).zip(values.chunks_mut(chunk * wide));
        for (i, (keys, values)) in packed.enumerate() {
            let range = i * chunk..shape.seq_k.min((i + 1) * chunk);
            let keys = pack_transposed(simd, k.part(range.clone()), shape.factor(), keys);
            let values = pack(simd, v.part(range.clone()), values);
            right.push((range, keys, values));
        }
        let scores = aligned(scores, BLOCK * row);
        let sums = aligned(sums, BLOCK * wide);
        for from in self.queries.clone().step_by(BLOCK) {
            let q = q.part(from..self.queries.end.min(from + BLOCK));
            let mut softmax = [Softmax::NOTHING; BLOCK];
            for (range, keys, values) in &right {
                let c = Dense { data: scores, stride: row };
                let (a, b) = (q.left(), *keys);
                simd.vectorize(Product { a, b, start: Start::Zero, c, copy: None });
                let lines = scores.chunks_exact_mut(row).zip(sums.chunks_exact_mut(wide));
                for (i, (scores, sums)) in lines.take(q.rows).enumerate() {
                    let hidden =
                        self.mask.map(|mask| &mask.row(shape, pair.batch, from + i)[range.clone()]);
                    let scores = &mut scores[..padded::<S>(range.len())];
                    hide(scores, hidden, range.len());
                    let shrink = softmax[i].add(simd, scores);
                    if range.start > 0 {
                        scale(simd, shrink, sums);
                    }
                }
                let a = Left::<false> { data: scores, stride: row, rows: q.rows };
                let start = if range.start == 0 { Start::Zero } else { Start::Target };
                let c = Dense { data: sums, stride: wide };
                simd.vectorize(Product { a, b: *values, start, c, copy: None });
            }
            let lines = sums.chunks_exact(wide).zip(&softmax);
            for (i, (sums, softmax)) in lines.take(q.rows).enumerate() {
                let factor = 1.0 / softmax.sum;
                let y = self.y.row(from - self.queries.start + i);
                for (y, sum) in y.iter_mut().zip(sums) {
                    *y = sum * factor;
                }
            }
        }
    }
}

/// Keys whose scores are computed at once: about equally many each time, at most `most`.
pub(super) fn chunk(keys: usize, most: usize) -> usize {
    // Whole vectors of any number of lanes, unless there is only one chunk.
    keys.div_ceil(keys.div_ceil(most)).next_multiple_of(16).min(keys)
}

/// `values *= factor`, whole vectors.
#[inline(always)]
fn scale<S: Simd>(simd: S, factor: f32, values: &mut [f32]) {
    let factor = simd.splat_f32s(factor);
    for value in S::as_mut_simd_f32s(values).0 {
        *value = simd.mul_f32s(*value, factor);
    }
}

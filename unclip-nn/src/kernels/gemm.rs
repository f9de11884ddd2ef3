//! The register-blocked matrix product behind attention and the 1x1 convolutions.
//!
//! The right-hand matrix is packed into panels of at most [`NR`] vectors of columns, each
//! panel row after row, so that the inner loop reads it from one place and a block of it
//! stays in the first-level cache. The left-hand matrix is read where it is, one value at
//! a time. Every value of the result is one chain of multiply-adds in the order of the
//! inner dimension, so it depends neither on how the rows nor on how the columns are cut.

#![expect(clippy::needless_range_loop, reason = "counted loops unroll into registers")]

use super::simd::{load, store};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Vectors of a panel at most; with 8 rows (4 where there are 16 registers) they fill the
/// register file.
const NR: usize = 3;

/// Inner dimension covered at once: a panel of it is three quarters of a 48 KiB cache.
const DEPTH: usize = 192;

/// Vectors of the next panel when `left` are missing. Four are two pairs, because a single
/// vector cannot keep the multipliers busy.
const fn panel(left: usize) -> usize {
    match left {
        0..=2 => left,
        4 => 2,
        _ => NR,
    }
}

/// A left-hand matrix in place: rows `stride` values apart, or with `TRANSPOSED` columns.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, const TRANSPOSED: bool> {
    pub data: &'a [f32],
    pub stride: usize,
    pub rows: usize,
}

/// A packed right-hand matrix.
#[derive(Clone, Copy)]
pub(super) struct Right<'a> {
    /// `depth * padded(columns)` values.
    pub data: &'a [f32],
    pub depth: usize,
    pub columns: usize,
}

/// `columns` rounded up to whole vectors.
pub(super) const fn padded<S: Simd>(columns: usize) -> usize {
    columns.next_multiple_of(S::F32_LANES)
}

/// Where a product goes.
pub(super) trait Target {
    /// Row `m` of the result: its columns, or more.
    fn row(&mut self, m: usize) -> &mut [f32];
}

/// Rows of equal length one after the other.
pub(super) struct Dense<'a> {
    pub data: &'a mut [f32],
    pub stride: usize,
}

impl Target for Dense<'_> {
    #[inline(always)]
    fn row(&mut self, m: usize) -> &mut [f32] {
        &mut self.data[m * self.stride..][..self.stride]
    }
}

/// What the product is added to.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    Zero,
    /// What the target holds.
    Target,
    /// One value per row.
    Rows(&'a [f32]),
}

/// `c = start + a b`, for [`Simd::vectorize`].
pub(super) struct Product<'a, C, const TRANSPOSED: bool> {
    pub a: Left<'a, TRANSPOSED>,
    pub b: Right<'a>,
    pub start: Start<'a>,
    pub c: C,
}

impl<C: Target, const TRANSPOSED: bool> WithSimd for Product<'_, C, TRANSPOSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let vectors = self.b.columns.div_ceil(S::F32_LANES);
        // At least one round, so that an empty sum is written, too.
        for from in (0..self.b.depth.max(1)).step_by(DEPTH) {
            let to = self.b.depth.min(from + DEPTH);
            if from > 0 {
                self.start = Start::Target;
            }
            let mut done = 0;
            while done < vectors {
                let width = panel(vectors - done);
                let data = &self.b.data[done * S::F32_LANES * self.b.depth..];
                let data = &data[from * width * S::F32_LANES..to * width * S::F32_LANES];
                let data = S::as_simd_f32s(data).0;
                match width {
                    3 => self.rows(simd, from, data.as_chunks::<3>().0, done),
                    2 => self.rows(simd, from, data.as_chunks::<2>().0, done),
                    _ => self.rows(simd, from, data.as_chunks::<1>().0, done),
                }
                done += width;
            }
        }
    }
}

impl<C: Target, const TRANSPOSED: bool> Product<'_, C, TRANSPOSED> {
    /// All rows of one panel, of which `b` is the part from row `from` on.
    #[inline(always)]
    fn rows<S: Simd, const W: usize>(
        &mut self,
        simd: S,
        from: usize,
        b: &[[S::f32s; W]],
        vector: usize,
    ) {
        let mut m = 0;
        while m < self.a.rows {
            m += match self.a.rows - m {
                8.. if S::REGISTER_COUNT >= 32 => self.tile::<S, 8, W>(simd, m, from, b, vector),
                4.. => self.tile::<S, 4, W>(simd, m, from, b, vector),
                2..=3 => self.tile::<S, 2, W>(simd, m, from, b, vector),
                _ => self.tile::<S, 1, W>(simd, m, from, b, vector),
            };
        }
    }

    /// `MR` rows from `m` on; returns `MR`.
    #[inline(always)]
    fn tile<S: Simd, const MR: usize, const W: usize>(
        &mut self,
        simd: S,
        m: usize,
        from: usize,
        b: &[[S::f32s; W]],
        vector: usize,
    ) -> usize {
        let (start, column) = (self.start, vector * S::F32_LANES);
        let mut acc = [[simd.splat_f32s(0.0); W]; MR];
        match start {
            Start::Zero => {}
            Start::Target => {
                for i in 0..MR {
                    acc[i] = read::<S, W>(simd, self.c.row(m + i), column);
                }
            }
            Start::Rows(values) => {
                for i in 0..MR {
                    acc[i] = [simd.splat_f32s(values[m + i]); W];
                }
            }
        }
        let Left { data, stride, .. } = self.a;
        let acc = match TRANSPOSED {
            true => outer::<S, MR, W>(simd, &data[from * stride..], stride, m, b, acc),
            false => inner::<S, MR, W>(simd, &data[m * stride + from..], stride, b, acc),
        };
        for i in 0..MR {
            write(simd, self.c.row(m + i), column, acc[i]);
        }
        MR
    }
}

/// `acc += a b` with rows of `a` that are `stride` values apart.
#[inline(always)]
fn inner<S: Simd, const MR: usize, const W: usize>(
    simd: S,
    a: &[f32],
    stride: usize,
    b: &[[S::f32s; W]],
    mut acc: [[S::f32s; W]; MR],
) -> [[S::f32s; W]; MR] {
    let mut rows = [&a[..0]; MR];
    for m in 0..MR {
        rows[m] = &a[m * stride..][..b.len()];
    }
    for (k, b) in b.iter().enumerate() {
        for m in 0..MR {
            let a = simd.splat_f32s(rows[m][k]);
            for v in 0..W {
                acc[m][v] = simd.mul_add_e_f32s(a, b[v], acc[m][v]);
            }
        }
    }
    acc
}

/// `acc += a^T b` with columns `m..m + MR` of `a`, whose rows are `stride` values apart.
#[inline(always)]
fn outer<S: Simd, const MR: usize, const W: usize>(
    simd: S,
    a: &[f32],
    stride: usize,
    m: usize,
    b: &[[S::f32s; W]],
    mut acc: [[S::f32s; W]; MR],
) -> [[S::f32s; W]; MR] {
    for (k, b) in b.iter().enumerate() {
        let a = &a[k * stride + m..][..MR];
        for m in 0..MR {
            let a = simd.splat_f32s(a[m]);
            for v in 0..W {
                acc[m][v] = simd.mul_add_e_f32s(a, b[v], acc[m][v]);
            }
        }
    }
    acc
}

/// Vectors from `column` on; the last may be incomplete.
#[inline(always)]
fn read<S: Simd, const W: usize>(simd: S, row: &[f32], column: usize) -> [S::f32s; W] {
    let mut values = [simd.splat_f32s(0.0); W];
    let row = &row[column..];
    if row.len() >= W * S::F32_LANES {
        for v in 0..W {
            values[v] = load::<S>(&row[v * S::F32_LANES..]);
        }
    } else {
        for v in 0..W - 1 {
            values[v] = load::<S>(&row[v * S::F32_LANES..]);
        }
        values[W - 1] = simd.partial_load_f32s(&row[(W - 1) * S::F32_LANES..]);
    }
    values
}

/// The reverse of [`read`].
#[inline(always)]
fn write<S: Simd, const W: usize>(simd: S, row: &mut [f32], column: usize, values: [S::f32s; W]) {
    let row = &mut row[column..];
    if row.len() >= W * S::F32_LANES {
        for v in 0..W {
            store::<S>(&mut row[v * S::F32_LANES..], values[v]);
        }
    } else {
        for v in 0..W - 1 {
            store::<S>(&mut row[v * S::F32_LANES..], values[v]);
        }
        simd.partial_store_f32s(&mut row[(W - 1) * S::F32_LANES..], values[W - 1]);
    }
}

/// A matrix in place, whose rows are `stride` values apart.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
}

impl<'a> Matrix<'a> {
    /// Some of the rows.
    pub(super) fn part(self, rows: Range<usize>) -> Self {
        Self { data: &self.data[rows.start * self.stride..], rows: rows.len(), ..self }
    }

    /// The matrix as a left-hand one.
    pub(super) fn left(self) -> Left<'a, false> {
        Left { data: self.data, stride: self.stride, rows: self.rows }
    }
}

/// Packs a matrix, with zeros for what is missing of the last vector.
#[inline(always)]
pub(super) fn pack<'a, S: Simd>(simd: S, from: Matrix<'_>, packed: &'a mut [f32]) -> Right<'a> {
    let Matrix { data, stride, rows: depth, columns } = from;
    let packed = &mut packed[..depth * padded::<S>(columns)];
    let (lanes, mut done) = (S::F32_LANES, 0);
    while done < columns {
        let width = panel((columns - done).div_ceil(lanes)) * lanes;
        let panel = &mut packed[done * depth..][..width * depth];
        let count = width.min(columns - done);
        for (k, out) in panel.chunks_exact_mut(width).enumerate() {
            let row = &data[k * stride + done..][..count];
            for (out, row) in out.chunks_exact_mut(lanes).zip(row.chunks(lanes)) {
                store::<S>(out, load_or_less(simd, row));
            }
        }
        done += width;
    }
    Right { data: packed, depth, columns }
}

/// Packs the transpose of `factor` times a matrix.
#[inline(always)]
pub(super) fn pack_transposed<'a, S: Simd>(
    simd: S,
    from: Matrix<'_>,
    factor: f32,
    packed: &'a mut [f32],
) -> Right<'a> {
    let Matrix { data, stride, rows: columns, columns: depth } = from;
    let packed = &mut packed[..depth * padded::<S>(columns)];
    let (lanes, factor) = (S::F32_LANES, simd.splat_f32s(factor));
    let mut done = 0;
    while done < columns {
        let width = panel((columns - done).div_ceil(lanes)) * lanes;
        let panel = &mut packed[done * depth..][..width * depth];
        for first in (0..width).step_by(lanes) {
            let count = lanes.min(columns.saturating_sub(done + first));
            for k in (0..depth).step_by(lanes) {
                let mut square = [simd.splat_f32s(0.0); SQUARE];
                for i in 0..lanes {
                    if i < count {
                        let row = &data[(done + first + i) * stride..][k..depth];
                        square[i] = simd.mul_f32s(load_or_less(simd, row), factor);
                    }
                }
                transpose(simd, &mut square);
                for i in 0..lanes {
                    if k + i < depth {
                        store::<S>(&mut panel[(k + i) * width + first..], square[i]);
                    }
                }
            }
        }
        done += width;
    }
    Right { data: packed, depth, columns }
}

/// The first vector of `slice`, with zeros for what is missing.
#[inline(always)]
fn load_or_less<S: Simd>(simd: S, slice: &[f32]) -> S::f32s {
    if slice.len() >= S::F32_LANES { load::<S>(slice) } else { simd.partial_load_f32s(slice) }
}

/// Lanes of the widest vector.
const SQUARE: usize = 16;

/// Transposes the square of as many vectors as one has lanes: in each round the blocks off
/// the diagonal change places, of one lane first, then two and so on.
#[inline(always)]
fn transpose<S: Simd>(simd: S, square: &mut [S::f32s; SQUARE]) {
    const { assert!(S::F32_LANES <= SQUARE && S::F32_LANES.is_power_of_two()) };
    let mut step = 1;
    while step < S::F32_LANES {
        let mut bits = [0.0; SQUARE];
        for i in 0..SQUARE {
            bits[i] = (i & step) as f32;
        }
        let odd = simd.less_than_f32s(simd.splat_f32s(0.0), load::<S>(&bits));
        for i in 0..S::F32_LANES {
            if i & step == 0 {
                let (a, b) = (square[i], square[i + step]);
                square[i] = simd.select_f32s(odd, simd.rotate_right_f32s(b, step), a);
                square[i + step] = simd.select_f32s(odd, b, simd.rotate_left_f32s(a, step));
            }
        }
        step *= 2;
    }
}

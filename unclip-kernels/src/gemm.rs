//! The register-blocked matrix product behind attention and the 1x1 convolutions.
//!
//! The right-hand matrix is packed into panels, so that the inner loop reads it from one
//! place and a block of it stays in the first-level cache; the left-hand matrix is read
//! where it is, one value at a time. Each value of the result is a sum of chains of
//! [`DEPTH`] multiply-adds in the order of the inner dimension, so that it depends neither
//! on how the rows nor on how the columns are cut.

#![expect(clippy::needless_range_loop, reason = "counted loops unroll into registers")]

use super::simd::{aligned, load, store};
use pulp::{Simd, WithSimd};
use std::ops::Range;

#[path = "gemm_pack.rs"]
mod packing;
use packing::NR;
pub(super) use packing::{
    LARGEST_VECTOR, Matrix, Right, pack, pack_transposed, padded, panel, transpose,
};

/// Inner dimension covered at once: a panel of it is three quarters of a 48 KiB cache.
const DEPTH: usize = 192;

/// Rows of the left-hand matrix that are copied at once, for the second-level cache.
const ROWS: usize = 256;

/// A left-hand matrix in place: rows `stride` values apart, or with `TRANSPOSED` columns.
#[derive(Clone, Copy)]
pub(super) struct Left<'a, const TRANSPOSED: bool> {
    pub data: &'a [f32],
    pub stride: usize,
    pub rows: usize,
}

impl<const TRANSPOSED: bool> Left<'_, TRANSPOSED> {
    /// Some rows and part of the inner dimension.
    #[inline(always)]
    fn part(self, rows: Range<usize>, depth: Range<usize>) -> Self {
        let (lines, at) =
            if TRANSPOSED { (depth.start, rows.start) } else { (rows.start, depth.start) };
        // An empty matrix has no place for its rows to start.
        let data = self.data.get(lines * self.stride + at..).unwrap_or_default();
        Self { data, stride: self.stride, rows: rows.len() }
    }

    /// A copy with lines next to each other. Lines that are a power of two apart compete
    /// for the same few places in a cache, and each lies on a page of its own.
    #[inline(always)]
    fn copy(self, depth: usize, buffer: &mut Vec<f32>) -> Left<'_, TRANSPOSED> {
        let (lines, len) = if TRANSPOSED { (depth, self.rows) } else { (self.rows, depth) };
        // An odd number of cache lines.
        let stride = (len.div_ceil(16) | 1) * 16;
        let copy = aligned(buffer, lines * stride);
        for (to, from) in copy.chunks_exact_mut(stride).zip(self.data.chunks(self.stride.max(1))) {
            to[..len].copy_from_slice(&from[..len]);
        }
        Left { data: copy, stride, rows: self.rows }
    }
}

impl<'a> Matrix<'a> {
    /// The matrix as a left-hand one.
    pub fn left(self) -> Left<'a, false> {
        Left { data: self.data, stride: self.stride, rows: self.rows }
    }
}

/// Where a product goes.
pub(super) trait Target {
    /// The values of row `m`. A row may end within a vector: then only its own values are read and
    /// written.
    fn row(&mut self, m: usize) -> &mut [f32];

    /// `W` vectors from `column` on of `MR` rows from `m` on.
    #[inline(always)]
    fn get<S: Simd, const MR: usize, const W: usize>(
        &mut self,
        simd: S,
        m: usize,
        column: usize,
    ) -> [[S::f32s; W]; MR] {
        let width = W * S::F32_LANES;
        let mut values = [[simd.splat_f32s(0.0); W]; MR];
        for i in 0..MR {
            let row = &self.row(m + i)[column..];
            let mut whole;
            let row = match row.get(..width) {
                Some(row) => row,
                None => {
                    whole = [0.0; NR * LARGEST_VECTOR];
                    whole[..row.len()].copy_from_slice(row);
                    &whole[..width]
                }
            };
            for v in 0..W {
                values[i][v] = load::<S>(&row[v * S::F32_LANES..]);
            }
        }
        values
    }

    /// Overwrites the same.
    #[inline(always)]
    fn put<S: Simd, const MR: usize, const W: usize>(
        &mut self,
        m: usize,
        column: usize,
        values: [[S::f32s; W]; MR],
    ) {
        let width = W * S::F32_LANES;
        for i in 0..MR {
            let row = &mut self.row(m + i)[column..];
            if let Some(row) = row.get_mut(..width) {
                for v in 0..W {
                    store::<S>(&mut row[v * S::F32_LANES..], values[i][v]);
                }
            } else {
                let mut whole = [0.0; NR * LARGEST_VECTOR];
                for v in 0..W {
                    store::<S>(&mut whole[v * S::F32_LANES..], values[i][v]);
                }
                row.copy_from_slice(&whole[..row.len()]);
            }
        }
    }
}

/// Rows one after the other, with room for whole vectors at the end of each.
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
    /// Where to copy the left-hand matrix to, block by block, if many columns repay it.
    pub copy: Option<&'a mut Vec<f32>>,
}

impl<C: Target, const TRANSPOSED: bool> WithSimd for Product<'_, C, TRANSPOSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { a, b, mut start, mut c, mut copy } = self;
        let rows = if copy.is_some() { ROWS } else { a.rows.max(1) };
        // At least one round, so that an empty sum is written, too.
        for from in (0..b.depth.max(1)).step_by(DEPTH) {
            let to = b.depth.min(from + DEPTH);
            for first in (0..a.rows).step_by(rows) {
                let a = a.part(first..a.rows.min(first + rows), from..to);
                let a = match &mut copy {
                    Some(copy) => a.copy(to - from, copy),
                    None => a,
                };
                Block { a, first, from, to, start }.columns(simd, b, &mut c);
            }
            start = Start::Target;
        }
    }
}

/// Some rows of the result and part of the inner dimension.
struct Block<'a, const TRANSPOSED: bool> {
    a: Left<'a, TRANSPOSED>,
    /// The first row.
    first: usize,
    from: usize,
    to: usize,
    start: Start<'a>,
}

impl<const TRANSPOSED: bool> Block<'_, TRANSPOSED> {
    /// All columns.
    #[inline(always)]
    fn columns<S: Simd>(&self, simd: S, b: Right<'_>, c: &mut impl Target) {
        let (vectors, mut done) = (b.columns.div_ceil(S::F32_LANES), 0);
        while done < vectors {
            let width = panel(vectors - done);
            let data = &b.data[done * S::F32_LANES * b.depth..];
            let data = &data[self.from * width * S::F32_LANES..self.to * width * S::F32_LANES];
            let data = S::as_simd_f32s(data).0;
            match width {
                3 => self.rows(simd, data.as_chunks::<3>().0, done, c),
                2 => self.rows(simd, data.as_chunks::<2>().0, done, c),
                _ => self.rows(simd, data.as_chunks::<1>().0, done, c),
            }
            done += width;
        }
    }

    /// All rows of one panel.
    #[inline(always)]
    fn rows<S: Simd, const W: usize>(
        &self,
        simd: S,
        b: &[[S::f32s; W]],
        vector: usize,
        c: &mut impl Target,
    ) {
        let mut m = 0;
        while m < self.a.rows {
            m += match self.a.rows - m {
                8.. if S::REGISTER_COUNT >= 32 => self.tile::<S, 8, W>(simd, m, b, vector, c),
                4.. => self.tile::<S, 4, W>(simd, m, b, vector, c),
                2..=3 => self.tile::<S, 2, W>(simd, m, b, vector, c),
                _ => self.tile::<S, 1, W>(simd, m, b, vector, c),
            };
        }
    }

    /// `MR` rows from `m` on; returns `MR`.
    #[inline(always)]
    fn tile<S: Simd, const MR: usize, const W: usize>(
        &self,
        simd: S,
        m: usize,
        b: &[[S::f32s; W]],
        vector: usize,
        c: &mut impl Target,
    ) -> usize {
        let (row, column) = (self.first + m, vector * S::F32_LANES);
        let mut acc = [[simd.splat_f32s(0.0); W]; MR];
        if let Start::Rows(values) = self.start {
            for i in 0..MR {
                acc[i] = [simd.splat_f32s(values[row + i]); W];
            }
        }
        let Left { data, stride, .. } = self.a;
        let mut acc = if TRANSPOSED {
            outer::<S, MR, W>(simd, data, stride, m, b, acc)
        } else {
            inner::<S, MR, W>(simd, &data[m * stride..], stride, b, acc)
        };
        if let Start::Target = self.start {
            // Not before: the multiplications would wait for memory.
            let old = c.get::<S, MR, W>(simd, row, column);
            for i in 0..MR {
                for v in 0..W {
                    acc[i][v] = simd.add_f32s(acc[i][v], old[i][v]);
                }
            }
        }
        c.put::<S, MR, W>(row, column, acc);
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
    for k in 0..b.len() {
        let b = b[k];
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

//! The right-hand matrices of a product, as its inner loop wants them.
//!
//! They are cut into panels of at most [`NR`] vectors of columns, which lie one after the
//! other, each of them row after row.

#![expect(clippy::needless_range_loop, reason = "counted loops unroll into registers")]

use super::super::simd::{load, store};
use pulp::Simd;
use std::ops::Range;

/// Vectors of a panel at most; with 8 rows (4 where there are 16 registers) they fill the
/// register file.
pub const NR: usize = 3;

/// Lanes of the largest vector.
pub const LARGEST_VECTOR: usize = 16;

/// Vectors of the next panel when `left` are missing. Four are two pairs, because a single
/// vector cannot keep the multipliers busy.
pub const fn panel(left: usize) -> usize {
    match left {
        0..=2 => left,
        4 => 2,
        _ => NR,
    }
}

/// A packed right-hand matrix.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    /// `depth * padded(columns)` values.
    pub data: &'a [f32],
    pub depth: usize,
    pub columns: usize,
}

/// `columns` rounded up to whole vectors.
pub const fn padded<S: Simd>(columns: usize) -> usize {
    columns.next_multiple_of(S::F32_LANES)
}

/// A matrix in place, whose rows are `stride` values apart.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    pub data: &'a [f32],
    pub stride: usize,
    pub rows: usize,
    pub columns: usize,
}

impl<'a> Matrix<'a> {
    /// Some of the rows.
    pub fn part(self, rows: Range<usize>) -> Self {
        Self { data: &self.data[rows.start * self.stride..], rows: rows.len(), ..self }
    }
}

/// Packs a matrix, with zeros for what is missing of the last vector.
#[inline(always)]
pub fn pack<'a, S: Simd>(simd: S, from: Matrix<'_>, packed: &'a mut [f32]) -> Right<'a> {
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
pub fn pack_transposed<'a, S: Simd>(
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
                let mut square = [simd.splat_f32s(0.0); LARGEST_VECTOR];
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

/// Transposes the square of as many vectors as one has lanes: in each round the blocks off
/// the diagonal change places, of one lane first, then two and so on.
#[inline(always)]
pub fn transpose<S: Simd>(simd: S, square: &mut [S::f32s; LARGEST_VECTOR]) {
    const { assert!(S::F32_LANES <= LARGEST_VECTOR && S::F32_LANES.is_power_of_two()) };
    exchange::<S, 1>(simd, square);
    exchange::<S, 2>(simd, square);
    exchange::<S, 4>(simd, square);
    exchange::<S, 8>(simd, square);
}

/// A round of [`transpose`], with the size of the blocks known to the compiler: only then
/// does the square stay in registers.
#[inline(always)]
fn exchange<S: Simd, const STEP: usize>(simd: S, square: &mut [S::f32s; LARGEST_VECTOR]) {
    if STEP >= S::F32_LANES {
        return;
    }
    let mut bits = [0.0; LARGEST_VECTOR];
    for i in 0..LARGEST_VECTOR {
        bits[i] = (i & STEP) as f32;
    }
    let odd = simd.less_than_f32s(simd.splat_f32s(0.0), load::<S>(&bits));
    for pair in 0..S::F32_LANES / 2 {
        let i = pair / STEP * 2 * STEP + pair % STEP;
        let (a, b) = (square[i], square[i + STEP]);
        square[i] = simd.select_f32s(odd, simd.rotate_right_f32s(b, STEP), a);
        square[i + STEP] = simd.select_f32s(odd, b, simd.rotate_left_f32s(a, STEP));
    }
}

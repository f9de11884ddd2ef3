//! The transforms of `F(4x4, 3x3)`, one channel per lane.
//!
//! A 1D filter of three taps is a polynomial product modulo `p (p^2 - 1/2) (p^2 - 2)` and the
//! point at infinity: evaluate (`B^T`, `G`), multiply, interpolate (`A^T`). The points `0`,
//! `±sqrt(1/2)` and `±sqrt(2)` lose the least precision of those tried: with 1280 channels the
//! largest error is `2e-6` of the largest output, against `8e-6` with the usual `±1` and `±2`.
//! All factors but the square roots are exact.

use super::simd::load;
use super::winograd_product::BLOCK;
use pulp::Simd;
use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};

/// Rows and columns of the outputs of a tile.
pub(super) const OUT: usize = 4;

/// Rows and columns of the inputs of a tile, and of its points.
pub(super) const IN: usize = OUT + 2;

/// Points of a tile, at each of which channels are multiplied.
pub(super) const POINTS: usize = IN * IN;

/// `a x`.
#[inline(always)]
fn times<S: Simd>(simd: S, a: f32, x: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(a), x)
}

/// `a x + y`.
#[inline(always)]
fn times_add<S: Simd>(simd: S, a: f32, x: S::f32s, y: S::f32s) -> S::f32s {
    simd.mul_add_e_f32s(simd.splat_f32s(a), x, y)
}

/// `B^T x`: the odd and even powers of two opposite points differ in sign only.
#[inline(always)]
fn input<S: Simd>(simd: S, x: [S::f32s; IN]) -> [S::f32s; IN] {
    let (odd_a, odd_b) = (times_add(simd, -2.0, x[1], x[3]), times_add(simd, -0.5, x[1], x[3]));
    let (even_a, even_b) = (times_add(simd, -2.0, x[2], x[4]), times_add(simd, -0.5, x[2], x[4]));
    [
        simd.add_f32s(times_add(simd, -2.5, x[2], x[0]), x[4]),
        times_add(simd, FRAC_1_SQRT_2, odd_a, even_a),
        times_add(simd, -FRAC_1_SQRT_2, odd_a, even_a),
        times_add(simd, SQRT_2, odd_b, even_b),
        times_add(simd, -SQRT_2, odd_b, even_b),
        simd.add_f32s(times_add(simd, -2.5, x[3], x[1]), x[5]),
    ]
}

/// `G w`.
#[inline(always)]
fn weight<S: Simd>(simd: S, w: [S::f32s; 3]) -> [S::f32s; IN] {
    const A: f32 = -2.0 / 3.0;
    const B: f32 = 1.0 / 6.0;
    let even_a = times(simd, A, times_add(simd, 0.5, w[2], w[0]));
    let even_b = times(simd, B, times_add(simd, 2.0, w[2], w[0]));
    [
        w[0],
        times_add(simd, A * FRAC_1_SQRT_2, w[1], even_a),
        times_add(simd, -A * FRAC_1_SQRT_2, w[1], even_a),
        times_add(simd, B * SQRT_2, w[1], even_b),
        times_add(simd, -B * SQRT_2, w[1], even_b),
        w[2],
    ]
}

/// `A^T m`.
#[inline(always)]
fn output<S: Simd>(simd: S, m: [S::f32s; IN]) -> [S::f32s; OUT] {
    let (even_a, odd_a) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    let (even_b, odd_b) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
    [
        simd.add_f32s(m[0], simd.add_f32s(even_a, even_b)),
        times_add(simd, SQRT_2, odd_b, times(simd, FRAC_1_SQRT_2, odd_a)),
        times_add(simd, 2.0, even_b, times(simd, 0.5, even_a)),
        times_add(simd, 2.0 * SQRT_2, odd_b, times_add(simd, 0.5 * FRAC_1_SQRT_2, odd_a, m[5])),
    ]
}

/// `B^T x B` for one tile: `rows` are its inputs, of which `lane` is the first channel.
#[inline(always)]
pub(super) fn inputs<S: Simd>(
    simd: S,
    rows: &[&[[f32; BLOCK]; IN]; IN],
    lane: usize,
) -> [[S::f32s; IN]; IN] {
    let mut columns = [[simd.splat_f32s(0.0); IN]; IN];
    for c in 0..IN {
        let mut x = [simd.splat_f32s(0.0); IN];
        for r in 0..IN {
            x[r] = load::<S>(&rows[r][c][lane..]);
        }
        columns[c] = input(simd, x);
    }
    let mut points = [[simd.splat_f32s(0.0); IN]; IN];
    for r in 0..IN {
        let mut x = [simd.splat_f32s(0.0); IN];
        for c in 0..IN {
            x[c] = columns[c][r];
        }
        points[r] = input(simd, x);
    }
    points
}

/// `G w G^T` for the filters `taps` of one input channel, of which `lane` is the first output.
#[inline(always)]
pub(super) fn weights<S: Simd>(
    simd: S,
    taps: &[[f32; BLOCK]; 9],
    lane: usize,
) -> [[S::f32s; IN]; IN] {
    let mut columns = [[simd.splat_f32s(0.0); IN]; 3];
    for c in 0..3 {
        let mut w = [simd.splat_f32s(0.0); 3];
        for r in 0..3 {
            w[r] = load::<S>(&taps[3 * r + c][lane..]);
        }
        columns[c] = weight(simd, w);
    }
    let mut points = [[simd.splat_f32s(0.0); IN]; IN];
    for r in 0..IN {
        points[r] = weight(simd, [columns[0][r], columns[1][r], columns[2][r]]);
    }
    points
}

/// `A^T m A` for one tile.
#[inline(always)]
pub(super) fn outputs<S: Simd>(simd: S, m: &[[S::f32s; IN]; IN]) -> [[S::f32s; OUT]; OUT] {
    let mut rows = [[simd.splat_f32s(0.0); IN]; OUT];
    for c in 0..IN {
        let column = output(simd, [m[0][c], m[1][c], m[2][c], m[3][c], m[4][c], m[5][c]]);
        for r in 0..OUT {
            rows[r][c] = column[r];
        }
    }
    let mut y = [[simd.splat_f32s(0.0); OUT]; OUT];
    for r in 0..OUT {
        y[r] = output(simd, rows[r]);
    }
    y
}

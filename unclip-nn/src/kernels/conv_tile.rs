//! The register-blocked inner loop of the 3x3 convolutions.
//!
//! An image with its zero border stored line after line, `w + 1` values per line
//! (the zero right of one line is the zero left of the next), turns a 3x3
//! convolution into a matrix product whose right-hand rows are nine shifted views
//! of the same contiguous plane:
//! `y[m, p] = sum over c, ky, kx of taps[m, c, ky, kx] * plane[c, p + ky * (w + 1) + kx]`.
//! Nothing like an im2col matrix is ever written. The price is one meaningless
//! value per line of `y`, which the caller skips.

use super::simd::{load, store};
use pulp::Simd;

/// The 3x3 filters of a convolution, read in place from a contiguous weight.
#[derive(Clone, Copy)]
pub(super) struct Filters<'a> {
    /// One entry per (output, input) pair, in whatever order the strides say.
    pub taps: &'a [[f32; 9]],
    /// Distance, in entries, between consecutive output channels.
    pub out_stride: usize,
    /// Distance, in entries, between consecutive input channels.
    pub in_stride: usize,
}

/// Padded input planes of one task.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a> {
    /// `count` planes of `stride` values each.
    pub data: &'a [f32],
    /// Distance between the starts of two planes.
    pub stride: usize,
    /// Values per padded line, `w + 1`.
    pub line: usize,
    /// Values to compute per plane, meaningless ones included.
    pub positions: usize,
}

/// Output channels computed together; with [`NR`] vectors each they fill the
/// register file (24 of 32 accumulators with AVX-512 or NEON, 12 of 16 with AVX2).
pub(super) const fn channel_block<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 8 } else { 4 }
}

/// Vectors of consecutive positions computed together.
pub(super) const NR: usize = 3;

/// Computes `MR` output channels from `first` on, into rows of `out` that are as far
/// apart as the planes. Positions are rounded up to whole vectors, so planes and
/// rows must have [`NR`] vectors of slack.
#[inline(always)]
pub(super) fn channels<S: Simd, const MR: usize, const FLIP: bool>(
    simd: S,
    filters: Filters<'_>,
    first: usize,
    planes: Planes<'_>,
    out: &mut [f32],
) {
    let mut p = 0;
    while p < planes.positions {
        let out = &mut out[p..];
        let vectors = (planes.positions - p).div_ceil(S::F32_LANES).min(NR);
        match vectors {
            3 => tile::<S, MR, 3, FLIP>(simd, filters, first, planes, p, out),
            2 => tile::<S, MR, 2, FLIP>(simd, filters, first, planes, p, out),
            _ => tile::<S, MR, 1, FLIP>(simd, filters, first, planes, p, out),
        }
        p += vectors * S::F32_LANES;
    }
}

/// `MR` channels by `VECS` vectors of positions, accumulated in registers.
#[inline(always)]
fn tile<S: Simd, const MR: usize, const VECS: usize, const FLIP: bool>(
    simd: S,
    filters: Filters<'_>,
    first: usize,
    planes: Planes<'_>,
    p: usize,
    out: &mut [f32],
) {
    let span = VECS * S::F32_LANES + 2;
    let mut acc = [[simd.splat_f32s(0.0); VECS]; MR];
    for (c, plane) in planes.data.chunks_exact(planes.stride).enumerate() {
        let mut taps = [&[0.0; 9]; MR];
        for m in 0..MR {
            taps[m] = &filters.taps[(first + m) * filters.out_stride + c * filters.in_stride];
        }
        for ky in 0..3 {
            let line = &plane[p + ky * planes.line..][..span];
            for kx in 0..3 {
                let k = if FLIP { 8 - ky * 3 - kx } else { ky * 3 + kx };
                let mut x = [simd.splat_f32s(0.0); VECS];
                for v in 0..VECS {
                    x[v] = load::<S>(&line[kx + v * S::F32_LANES..]);
                }
                for m in 0..MR {
                    let t = simd.splat_f32s(taps[m][k]);
                    for v in 0..VECS {
                        acc[m][v] = simd.mul_add_e_f32s(t, x[v], acc[m][v]);
                    }
                }
            }
        }
    }
    for m in 0..MR {
        for v in 0..VECS {
            store::<S>(&mut out[m * planes.stride + v * S::F32_LANES..], acc[m][v]);
        }
    }
}

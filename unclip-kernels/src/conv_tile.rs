//! The register-blocked inner loop of the 3x3 convolutions.
//!
//! An image with its zero border stored line after line, `w + 1` values per line
//! (the zero right of one line is the zero left of the next), turns a 3x3
//! convolution into a matrix product whose right-hand rows are nine shifted views
//! of the same contiguous plane:
//! `y[m, p] = sum over c, ky, kx of taps[m, c, ky, kx] * plane[c, p + ky * (w + 1) + kx]`.
//! Nothing like an im2col matrix is ever written. Where a row is not a whole number of
//! vectors, the price is one meaningless value per line of `y`, which the caller skips.

#![expect(clippy::needless_range_loop, reason = "counted loops unroll into registers")]

use super::simd::{load, store};
use pulp::Simd;

/// Padded input planes of one task.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a> {
    /// Planes of `stride` values each.
    pub data: &'a [f32],
    /// Distance between the starts of two planes.
    pub stride: usize,
    /// Distance between two lines.
    pub line: usize,
    /// Distance between two columns.
    pub step: usize,
    /// Where the vectors to compute start.
    pub starts: &'a [usize],
}

/// Where a block of output channels goes.
pub(super) struct Sink<'a, 'b> {
    /// Room for the whole block, channel by channel, or (if there is an output) for what
    /// is computed at once.
    pub buffer: &'a mut [f32],
    /// The place in the output, if all vectors are meaningful and in its order. Writing
    /// it piece by piece hides the time that memory takes.
    pub output: Option<Output<'a, 'b>>,
}

/// The part of the output that a block of channels covers.
pub(super) struct Output<'a, 'b> {
    /// `channels` row ranges per image.
    pub planes: &'a mut [&'b mut [f32]],
    pub channels: usize,
    /// The first of the block among them.
    pub first: usize,
    /// One value per channel of the block, or none.
    pub bias: Option<&'a [f32]>,
}

impl Sink<'_, '_> {
    /// Stores vectors `t..t + VECS` of `count` of every channel.
    #[inline(always)]
    fn put<S: Simd, const MR: usize, const VECS: usize>(
        &mut self,
        simd: S,
        t: usize,
        count: usize,
        acc: &[[S::f32s; VECS]; MR],
    ) {
        let (start, row) = if self.output.is_some() { (0, VECS) } else { (t, count) };
        for m in 0..MR {
            for v in 0..VECS {
                store::<S>(&mut self.buffer[(m * row + start + v) * S::F32_LANES..], acc[m][v]);
            }
        }
        // Not straight from `acc`: indexed at run time, it would no longer live in
        // registers, not even while it is computed.
        if let Some(output) = &mut self.output {
            output.copy(simd, t, MR, VECS, self.buffer);
        }
    }
}

impl Output<'_, '_> {
    /// Copies `vectors` vectors per channel, of which the first is number `t` of its
    /// channel's, adding the bias.
    #[inline(always)]
    fn copy<S: Simd>(&mut self, simd: S, t: usize, channels: usize, vectors: usize, from: &[f32]) {
        let per_plane = self.planes[0].len() / S::F32_LANES;
        for v in 0..vectors {
            let (image, at) = ((t + v) / per_plane, (t + v) % per_plane);
            let planes = &mut self.planes[image * self.channels + self.first..][..channels];
            for (m, plane) in planes.iter_mut().enumerate() {
                let bias = simd.splat_f32s(self.bias.map_or(0.0, |bias| bias[m]));
                let y = load::<S>(&from[(m * vectors + v) * S::F32_LANES..]);
                store::<S>(&mut plane[at * S::F32_LANES..], simd.add_f32s(y, bias));
            }
        }
    }
}

/// Output channels computed together; with [`NR`] vectors each they fill the
/// register file (24 of 32 accumulators with AVX-512 or NEON, 12 of 16 with AVX2).
pub(super) const fn channel_block<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 8 } else { 4 }
}

/// Vectors of consecutive positions computed together.
pub(super) const NR: usize = 3;

/// Computes `MR` output channels, one vector per start.
///
/// `taps` are their filters, input channel by input channel: in this order the inner
/// loop reads them from one place, whatever the weight looks like.
#[inline(always)]
pub(super) fn channels<S: Simd, const MR: usize, const FLIP: bool>(
    simd: S,
    taps: &[[f32; 9]],
    planes: Planes<'_>,
    mut sink: Sink<'_, '_>,
) {
    match planes.step {
        1 => tiles::<S, MR, 1, FLIP>(simd, taps, planes, &mut sink),
        2 => tiles::<S, MR, 2, FLIP>(simd, taps, planes, &mut sink),
        4 => tiles::<S, MR, 4, FLIP>(simd, taps, planes, &mut sink),
        step => unreachable!("images are never interleaved by {step}"),
    }
}

/// As [`channels`], with the distance between columns known to the compiler.
#[inline(always)]
fn tiles<S: Simd, const MR: usize, const STEP: usize, const FLIP: bool>(
    simd: S,
    taps: &[[f32; 9]],
    planes: Planes<'_>,
    sink: &mut Sink<'_, '_>,
) {
    let (starts, rest) = planes.starts.as_chunks::<NR>();
    let count = planes.starts.len();
    for (i, starts) in starts.iter().enumerate() {
        let acc = tile::<S, MR, NR, STEP, FLIP>(simd, taps, planes, starts);
        sink.put(simd, i * NR, count, &acc);
    }
    let t = count - rest.len();
    match *rest {
        [a, b] => {
            let acc = tile::<S, MR, 2, STEP, FLIP>(simd, taps, planes, &[a, b]);
            sink.put(simd, t, count, &acc);
        }
        [a] => {
            let acc = tile::<S, MR, 1, STEP, FLIP>(simd, taps, planes, &[a]);
            sink.put(simd, t, count, &acc);
        }
        _ => {}
    }
}

/// `MR` channels by `VECS` vectors of positions, accumulated in registers.
#[inline(always)]
fn tile<S: Simd, const MR: usize, const VECS: usize, const STEP: usize, const FLIP: bool>(
    simd: S,
    taps: &[[f32; 9]],
    planes: Planes<'_>,
    starts: &[usize; VECS],
) -> [[S::f32s; VECS]; MR] {
    let mut acc = [[simd.splat_f32s(0.0); VECS]; MR];
    let data = planes.data.chunks_exact(planes.stride);
    for (plane, taps) in data.zip(taps.as_chunks::<MR>().0) {
        for ky in 0..3 {
            // One check of bounds per vector here, none in the loop below.
            let mut lines = [&plane[..0]; VECS];
            for v in 0..VECS {
                lines[v] = &plane[starts[v] + ky * planes.line..][..S::F32_LANES + 2 * STEP];
            }
            for kx in 0..3 {
                let k = if FLIP { 8 - ky * 3 - kx } else { ky * 3 + kx };
                let mut x = [simd.splat_f32s(0.0); VECS];
                for v in 0..VECS {
                    x[v] = load::<S>(&lines[v][kx * STEP..]);
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
    acc
}

//! The gradients of a convolution's weight and bias.

use super::conv_pack::{Layout, Span};
use super::conv_plan::SERIAL_WORK;
use super::conv_shape::ConvShape;
use super::conv_tile::channel_block;
use super::simd::{First, JOB_VALUES, aligned, arch, copy_row, sum2};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;

/// Gradient of the bias of a convolution of any kernel size.
///
/// `dy` is `[n, c_out, h, w]` and `db`, which is overwritten, is `[c_out]`:
/// `db[o] = sum over n, r, s of dy[n, o, r, s]`. The input channels of `shape` are ignored.
///
/// # Panics
/// If a slice does not have the length `shape` implies.
pub fn conv_backward_bias(shape: ConvShape, dy: &[f32], db: &mut [f32]) {
    assert_eq!(dy.len(), shape.output_len(), "output length");
    assert_eq!(db.len(), shape.c_out, "bias length");
    let (arch, pixels) = (arch(), shape.pixels().max(1));
    let min = (JOB_VALUES / (shape.batch * pixels).max(1)).max(1);
    db.par_iter_mut().with_min_len(min).enumerate().for_each(|(channel, db)| {
        *db = arch.dispatch(ChannelSum { dy, pixels, channel, channels: shape.c_out });
    });
}

/// The sum of one channel over all images.
struct ChannelSum<'a> {
    dy: &'a [f32],
    pixels: usize,
    channel: usize,
    channels: usize,
}

impl WithSimd for ChannelSum<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let planes = self.dy.chunks_exact(self.pixels).skip(self.channel);
        let mut sum = 0.0;
        for plane in planes.step_by(self.channels) {
            sum += sum2(simd, First, plane, plane);
        }
        sum as f32
    }
}

/// Gradient of the weight of [`conv3x3`](super::conv3x3).
///
/// `x` is `[n, c_in, h, w]`, `dy` is `[n, c_out, h, w]` and `dw`, which is overwritten,
/// is `[c_out, c_in, 3, 3]`: `dw[o, i, ky, kx] = sum over n, r, s of
/// dy[n, o, r, s] * x[n, i, r + ky - 1, s + kx - 1]`.
///
/// # Panics
/// If a slice does not have the length `shape` implies.
pub fn conv3x3_backward_weight(shape: ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    assert_eq!(x.len(), shape.input_len(), "input length");
    assert_eq!(dy.len(), shape.output_len(), "output length");
    assert_eq!(dw.len(), shape.weight_len(), "weight length");
    if dw.is_empty() || dy.is_empty() {
        return dw.fill(0.0);
    }
    // Taken, not borrowed: while this thread waits for others it may run another
    // convolution.
    let mut packed = PACKED.take();
    let problem = Problem::pack(shape, x, dy, &mut packed);
    let lines = problem.lines();
    // Too few blocks of output channels for the threads: also cut the sum into parts.
    let wanted = if shape.work() < SERIAL_WORK { 1 } else { 4 * rayon::current_num_threads() };
    let parts = wanted.div_ceil(shape.c_out.div_ceil(BLOCK)).min(lines);
    let part = lines.div_ceil(parts);
    if parts == 1 {
        problem.sum(dw, 0, lines);
    } else {
        let mut sums = vec![0.0; dw.len() * lines.div_ceil(part)];
        sums.par_chunks_exact_mut(dw.len())
            .enumerate()
            .for_each(|(i, dw)| problem.sum(dw, i * part, lines.min((i + 1) * part)));
        dw.fill(0.0);
        for sum in sums.chunks_exact(dw.len()) {
            dw.iter_mut().zip(sum).for_each(|(dw, sum)| *dw += sum);
        }
    }
    if packed.len() <= KEPT_VALUES {
        PACKED.set(packed);
    }
}

/// Output channels of one task, a multiple of what [`channel_block`] can return.
const BLOCK: usize = 8;

/// Positions whose gradients and inputs are multiplied while they are in the
/// first-level cache: 8 channels of 768 positions are half of it.
const PIECE: usize = 768;

/// Largest buffer to keep between calls, 64 MiB.
const KEPT_VALUES: usize = 1 << 24;

thread_local! {
    /// The padded input, kept because fresh memory costs a page fault per 4 KiB.
    static PACKED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// Gradients of one piece and running sums of one task.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// The whole batch as one tall image per channel, with a border line between images.
#[derive(Clone, Copy)]
struct Problem<'a> {
    shape: ConvShape,
    x: &'a [f32],
    stride: usize,
    dy: &'a [f32],
}

impl<'a> Problem<'a> {
    fn pack(shape: ConvShape, x: &[f32], dy: &'a [f32], packed: &'a mut Vec<f32>) -> Self {
        const LARGEST_VECTOR: usize = 16;
        let span = Span { first_image: 0, images: shape.batch, first_row: 0, rows: shape.height };
        let layout = Layout { span, step: 1, line: shape.width + 1, exact: false };
        let stride = layout.stride(1, LARGEST_VECTOR);
        let packed = aligned(packed, stride * shape.c_in);
        packed
            .par_chunks_exact_mut(stride)
            .with_min_len((JOB_VALUES / stride).max(1))
            .enumerate()
            .for_each(|(c, plane)| layout.pack(shape, x, c, plane));
        Self { shape, x: packed, stride, dy }
    }

    /// Lines of the tall output.
    fn lines(&self) -> usize {
        self.shape.batch * (self.shape.height + 1) - 1
    }

    /// The part of the gradient that output lines `from..to` contribute.
    fn sum(self, dw: &mut [f32], from: usize, to: usize) {
        let arch = arch();
        let compute = |(i, dw): (usize, &mut [f32])| {
            let (dy, sums) = &mut SCRATCH.take();
            arch.dispatch(Block { problem: self, first: i * BLOCK, from, to, dw, dy, sums });
            SCRATCH.set((std::mem::take(dy), std::mem::take(sums)));
        };
        let size = BLOCK * self.shape.c_in * 9;
        if self.shape.work() < SERIAL_WORK {
            dw.chunks_mut(size).enumerate().for_each(compute);
        } else {
            dw.par_chunks_mut(size).enumerate().with_max_len(1).for_each(compute);
        }
    }

    /// Copies lines `from..to` of an output channel, with zeros for its border, so that
    /// these positions contribute nothing.
    #[inline(always)]
    fn pack_gradient(&self, channel: usize, from: usize, to: usize, out: &mut [f32]) {
        let (w, h) = (self.shape.width, self.shape.height);
        let (head, slack) = out.split_at_mut((to - from) * (w + 1));
        slack.fill(0.0);
        for (line, dst) in (from..to).zip(head.chunks_exact_mut(w + 1)) {
            let (image, row) = (line / (h + 1), line % (h + 1));
            if row == h || channel >= self.shape.c_out {
                dst.fill(0.0);
                continue;
            }
            let at = ((image * self.shape.c_out + channel) * h + row) * w;
            copy_row(&mut dst[..w], &self.dy[at..at + w]);
            dst[w] = 0.0;
        }
    }
}

/// [`BLOCK`] output channels from `first` on (fewer at the end).
struct Block<'a> {
    problem: Problem<'a>,
    first: usize,
    from: usize,
    to: usize,
    /// Their gradients, `[count, c_in, 9]`.
    dw: &'a mut [f32],
    dy: &'a mut Vec<f32>,
    sums: &'a mut Vec<f32>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match const { channel_block::<S>() } {
            8 => self.run::<S, 8>(simd),
            _ => self.run::<S, 4>(simd),
        }
    }
}

impl Block<'_> {
    #[inline(always)]
    fn run<S: Simd, const MR: usize>(self, simd: S) {
        let Self { problem, from, to, .. } = self;
        let c_in = problem.shape.c_in;
        let step = (PIECE / (problem.shape.width + 1)).max(1);
        // If one piece is all there is, each sum is complete at once.
        let kept = if to - from <= step { 1 } else { c_in };
        let sums = aligned(self.sums, kept * MR * 9 * S::F32_LANES);
        let sums = S::as_mut_simd_f32s(sums).0.as_chunks_mut::<3>().0.as_chunks_mut::<MR>().0;
        for (i, dw) in self.dw.chunks_mut(MR * c_in * 9).enumerate() {
            sums.fill([[simd.splat_f32s(0.0); 3]; MR]);
            let mut at = from;
            while at < to {
                let lines = at..to.min(at + step);
                at = lines.end;
                let piece =
                    Piece::pack(problem, self.first + i * MR, MR, lines, S::F32_LANES, self.dy);
                for c in 0..c_in {
                    let sums = &mut sums[c % kept * 3..][..3];
                    piece.correlate(simd, c, sums);
                    if at == to {
                        finish(simd, sums, c, c_in, dw);
                    }
                }
            }
        }
    }
}

/// Adds up the lanes of the finished sums of input channel `c` and clears them.
#[inline(always)]
fn finish<S: Simd, const MR: usize>(
    simd: S,
    sums: &mut [[[S::f32s; 3]; MR]],
    c: usize,
    c_in: usize,
    dw: &mut [f32],
) {
    for (m, dw) in dw.chunks_exact_mut(c_in * 9).enumerate() {
        for (ky, sums) in sums.iter().enumerate() {
            for kx in 0..3 {
                dw[c * 9 + ky * 3 + kx] = simd.reduce_sum_f32s(sums[m][kx]);
            }
        }
    }
    sums.fill([[simd.splat_f32s(0.0); 3]; MR]);
}

/// The gradients of some output channels for some lines.
struct Piece<'a> {
    problem: Problem<'a>,
    dy: &'a [f32],
    /// Values per channel.
    stride: usize,
    /// The first line.
    from: usize,
}

impl<'a> Piece<'a> {
    #[inline(always)]
    fn pack(
        problem: Problem<'a>,
        first: usize,
        channels: usize,
        lines: std::ops::Range<usize>,
        lanes: usize,
        dy: &'a mut Vec<f32>,
    ) -> Self {
        let stride = (lines.len() * (problem.shape.width + 1)).next_multiple_of(lanes);
        let dy = aligned(dy, channels * stride);
        for (m, dy) in dy.chunks_exact_mut(stride).enumerate() {
            problem.pack_gradient(first + m, lines.start, lines.end, dy);
        }
        Self { problem, dy, stride, from: lines.start }
    }

    /// Adds what input channel `c` contributes to `sums`, by `ky`, output and `kx`. They
    /// are sums per vector lane.
    #[inline(always)]
    fn correlate<S: Simd, const MR: usize>(
        &self,
        simd: S,
        c: usize,
        sums: &mut [[[S::f32s; 3]; MR]],
    ) {
        let plane = &self.problem.x[c * self.problem.stride..][..self.problem.stride];
        for (ky, sums) in sums.iter_mut().enumerate() {
            let line = (self.from + ky) * (self.problem.shape.width + 1);
            correlate(simd, &plane[line..][..self.stride + 2], self.dy, sums);
        }
    }
}

/// `sums[m][k] += sum over p of dy[m, p] * x[p + k]`, lane by lane.
#[inline(always)]
fn correlate<S: Simd, const MR: usize>(
    simd: S,
    x: &[f32],
    dy: &[f32],
    sums: &mut [[S::f32s; 3]; MR],
) {
    let (len, mut acc) = (x.len() - 2, *sums);
    let x0 = S::as_simd_f32s(&x[..len]).0;
    let x1 = S::as_simd_f32s(&x[1..len + 1]).0;
    let x2 = S::as_simd_f32s(&x[2..len + 2]).0;
    let mut rows: [&[S::f32s]; MR] = [&[]; MR];
    for m in 0..MR {
        rows[m] = &S::as_simd_f32s(&dy[m * len..][..len]).0[..x0.len()];
    }
    for (p, ((x0, x1), x2)) in x0.iter().zip(x1).zip(x2).enumerate() {
        for m in 0..MR {
            let dy = rows[m][p];
            acc[m][0] = simd.mul_add_e_f32s(dy, *x0, acc[m][0]);
            acc[m][1] = simd.mul_add_e_f32s(dy, *x1, acc[m][1]);
            acc[m][2] = simd.mul_add_e_f32s(dy, *x2, acc[m][2]);
        }
    }
    *sums = acc;
}

#[cfg(test)]
mod tests {
    use super::super::conv::shapes;
    use super::super::test_util::{assert_close, random};
    use super::*;

    /// The definition, in double precision.
    fn naive(s: ConvShape, x: &[f32], dy: &[f32]) -> Vec<f64> {
        let (h, w) = (s.height as isize, s.width as isize);
        let mut dw = vec![0.0; s.weight_len()];
        for (i, dw) in dw.iter_mut().enumerate() {
            let (k, c, o) = ((i % 9) as isize, i / 9 % s.c_in, i / 9 / s.c_in);
            for n in 0..s.batch {
                for (row, q) in (0..h).flat_map(|r| (0..w).map(move |q| (r, q))) {
                    let (r, t) = (row + k / 3 - 1, q + k % 3 - 1);
                    if (0..h).contains(&r) && (0..w).contains(&t) {
                        let x = x[(n * s.c_in + c) * s.pixels() + (r * w + t) as usize];
                        let dy = dy[(n * s.c_out + o) * s.pixels() + (row * w + q) as usize];
                        *dw += f64::from(x) * f64::from(dy);
                    }
                }
            }
        }
        dw
    }

    #[test]
    fn weight_gradient_matches_the_definition() {
        for s in shapes() {
            let (x, dy) = (random(s.input_len(), 1), random(s.output_len(), 2));
            let mut dw = vec![f32::NAN; s.weight_len()];
            conv3x3_backward_weight(s, &x, &dy, &mut dw);
            assert_close(&dw, &naive(s, &x, &dy), 2e-5, &format!("{s:?}"));
        }
    }

    #[test]
    fn bias_gradient_sums_each_channel() {
        for s in shapes() {
            let dy = random(s.output_len(), 3);
            let mut db = vec![f32::NAN; s.c_out];
            conv_backward_bias(s, &dy, &mut db);
            let mut want = vec![0.0; s.c_out];
            for (i, dy) in dy.iter().enumerate() {
                want[i / s.pixels() % s.c_out] += f64::from(*dy);
            }
            assert_close(&db, &want, 1e-6, &format!("{s:?}"));
        }
    }
}

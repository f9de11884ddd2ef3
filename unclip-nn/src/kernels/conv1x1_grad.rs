//! The gradient of a 1x1 convolution's weight.

#![expect(clippy::needless_range_loop, reason = "counted loops unroll into registers")]

use super::conv::ConvShape;
use super::conv_plan::SERIAL_WORK;
use super::simd::{aligned, arch, load};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;

/// Gradient of the weight of [`conv1x1`](super::conv1x1()).
///
/// `x` is `[n, c_in, h, w]`, `dy` is `[n, c_out, h, w]` and `dw`, which is overwritten, is
/// `[c_out, c_in]`: `dw[o, i] = sum over n, r, s of dy[n, o, r, s] * x[n, i, r, s]`.
///
/// # Panics
/// If a slice does not have the length `shape` implies.
pub fn conv1x1_backward_weight(shape: ConvShape, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    assert_eq!(x.len(), shape.input_len(), "input length");
    assert_eq!(dy.len(), shape.output_len(), "output length");
    assert_eq!(dw.len(), shape.c_out * shape.c_in, "weight length");
    if dw.is_empty() || dy.is_empty() {
        return dw.fill(0.0);
    }
    // Taken, not borrowed: while this thread waits for others it may run another
    // convolution.
    let (mut packed_x, mut packed_dy) = PACKED.take();
    let x = Pieces::new(shape, shape.c_in, x, &mut packed_x);
    let dy = Pieces::new(shape, shape.c_out, dy, &mut packed_dy);
    let blocks = shape.c_out.div_ceil(BLOCK);
    let parts = if work(shape) < SERIAL_WORK { 1 } else { TASKS.div_ceil(blocks).min(x.count) };
    let part = x.count.div_ceil(parts);
    let arch = arch();
    let compute = |from: usize, first: usize, dw: &mut [f32]| {
        SUMS.with_borrow_mut(|sums| {
            let to = x.count.min(from + part);
            arch.dispatch(Block { x, dy, first, pieces: (from, to), dw, sums });
        });
    };
    let block = BLOCK * shape.c_in;
    if work(shape) < SERIAL_WORK {
        dw.chunks_mut(block).enumerate().for_each(|(i, dw)| compute(0, i * BLOCK, dw));
    } else if parts == 1 {
        let blocks = dw.par_chunks_mut(block).with_max_len(1).enumerate();
        blocks.for_each(|(i, dw)| compute(0, i * BLOCK, dw));
    } else {
        let mut sums = vec![0.0; dw.len() * x.count.div_ceil(part)];
        sums.par_chunks_exact_mut(dw.len()).enumerate().for_each(|(p, dw)| {
            let blocks = dw.par_chunks_mut(block).with_max_len(1).enumerate();
            blocks.for_each(|(i, dw)| compute(p * part, i * BLOCK, dw));
        });
        dw.fill(0.0);
        for sums in sums.chunks_exact(dw.len()) {
            dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += sum);
        }
    }
    if packed_x.len() + packed_dy.len() <= KEPT_VALUES {
        PACKED.set((packed_x, packed_dy));
    }
}

/// Multiply-adds.
fn work(shape: ConvShape) -> usize {
    shape.output_len() * shape.c_in
}

/// Output channels of one task.
const BLOCK: usize = 8;

/// Tasks that are enough for many threads. A fixed number, because the sum depends on it.
const TASKS: usize = 32;

/// Positions that are multiplied while they are in the first-level cache: 8 channels of
/// 768 positions are half of it.
const PIECE: usize = 768;

/// Largest buffers to keep between calls, 64 MiB.
const KEPT_VALUES: usize = 1 << 24;

thread_local! {
    /// The packed input and gradient, kept because fresh memory costs a page fault per 4 KiB.
    static PACKED: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
    /// Running sums of one task.
    static SUMS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A tensor, cut into pieces of at most [`PIECE`] positions.
#[derive(Clone, Copy)]
struct Pieces<'a> {
    /// `[groups, channels, len]`.
    data: &'a [f32],
    channels: usize,
    /// Positions of a channel in a row, whole vectors.
    len: usize,
    /// Pieces of a group.
    split: usize,
    count: usize,
}

impl<'a> Pieces<'a> {
    /// In place if images are large and whole vectors; otherwise copied, several small
    /// images side by side and with zeros behind.
    fn new(shape: ConvShape, channels: usize, tensor: &'a [f32], packed: &'a mut Vec<f32>) -> Self {
        const SMALL: usize = 256;
        const LANES: usize = 16;
        let pixels = shape.pixels();
        if pixels >= SMALL && pixels.is_multiple_of(LANES) {
            let split = pixels.div_ceil(PIECE);
            return Self { data: tensor, channels, len: pixels, split, count: shape.batch * split };
        }
        let images = (PIECE / pixels).clamp(1, shape.batch);
        let len = (images * pixels).next_multiple_of(LANES);
        let groups = shape.batch.div_ceil(images);
        let data = aligned(packed, groups * channels * len);
        let image = channels * pixels;
        data.par_chunks_exact_mut(channels * len).zip(tensor.par_chunks(images * image)).for_each(
            |(data, tensor)| {
                for (c, row) in data.chunks_exact_mut(len).enumerate() {
                    let planes = tensor.chunks_exact(pixels).skip(c).step_by(channels);
                    let mut end = 0;
                    for (row, plane) in row.chunks_exact_mut(pixels).zip(planes) {
                        row.copy_from_slice(plane);
                        end += pixels;
                    }
                    row[end..].fill(0.0);
                }
            },
        );
        let split = len.div_ceil(PIECE);
        Self { data, channels, len, split, count: groups * split }
    }

    /// Channel `c` of a piece.
    #[inline(always)]
    fn row(&self, piece: usize, c: usize) -> &'a [f32] {
        let row = &self.data[(piece / self.split * self.channels + c) * self.len..][..self.len];
        let at = piece % self.split * PIECE;
        &row[at..self.len.min(at + PIECE)]
    }
}

/// Up to [`BLOCK`] output channels from `first` on.
struct Block<'a> {
    x: Pieces<'a>,
    dy: Pieces<'a>,
    first: usize,
    /// The first piece, and the one behind the last.
    pieces: (usize, usize),
    /// Their gradients, `[count, c_in]`.
    dw: &'a mut [f32],
    sums: &'a mut Vec<f32>,
}

impl WithSimd for Block<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (c_in, mut m) = (self.x.channels, 0);
        let count = self.dw.len() / c_in;
        while m < count {
            m += match count - m {
                8.. if S::REGISTER_COUNT >= 32 => self.channels::<S, 8>(simd, m),
                4.. => self.channels::<S, 4>(simd, m),
                2..=3 => self.channels::<S, 2>(simd, m),
                _ => self.channels::<S, 1>(simd, m),
            };
        }
    }
}

impl Block<'_> {
    /// `MR` output channels from number `m` of the block on; returns `MR`.
    #[inline(always)]
    fn channels<S: Simd, const MR: usize>(&mut self, simd: S, m: usize) -> usize {
        let c_in = self.x.channels;
        let sums = aligned(self.sums, c_in * MR * S::F32_LANES);
        let sums = S::as_mut_simd_f32s(sums).0.as_chunks_mut::<MR>().0;
        sums.fill([simd.splat_f32s(0.0); MR]);
        for piece in self.pieces.0..self.pieces.1 {
            let mut dy = [&self.dy.data[..0]; MR];
            for i in 0..MR {
                dy[i] = self.dy.row(piece, self.first + m + i);
            }
            let (threes, rest) = sums.as_chunks_mut::<3>();
            for (i, sums) in threes.iter_mut().enumerate() {
                correlate(simd, self.x, piece, i * 3, dy, sums);
            }
            for (i, sums) in rest.iter_mut().enumerate() {
                let c = c_in / 3 * 3 + i;
                correlate(simd, self.x, piece, c, dy, std::array::from_mut(sums));
            }
        }
        for (c, sums) in sums.iter().enumerate() {
            for i in 0..MR {
                self.dw[(m + i) * c_in + c] = simd.reduce_sum_f32s(sums[i]);
            }
        }
        MR
    }
}

/// Adds what `N` input channels from `c` on contribute, lane by lane.
#[inline(always)]
fn correlate<S: Simd, const MR: usize, const N: usize>(
    simd: S,
    x: Pieces<'_>,
    piece: usize,
    c: usize,
    dy: [&[f32]; MR],
    sums: &mut [[S::f32s; MR]; N],
) {
    let mut inputs = [&x.data[..0]; N];
    for n in 0..N {
        inputs[n] = x.row(piece, c + n);
    }
    let mut acc = *sums;
    let len = inputs[0].len();
    let mut p = 0;
    while p + S::F32_LANES <= len {
        let mut x = [simd.splat_f32s(0.0); N];
        for n in 0..N {
            x[n] = load::<S>(&inputs[n][p..]);
        }
        for m in 0..MR {
            let dy = load::<S>(&dy[m][p..]);
            for n in 0..N {
                acc[n][m] = simd.mul_add_e_f32s(dy, x[n], acc[n][m]);
            }
        }
        p += S::F32_LANES;
    }
    *sums = acc;
}

#[cfg(test)]
mod tests {
    use super::super::conv1x1::shapes;
    use super::super::test_util::{assert_close, random};
    use super::*;

    #[test]
    fn weight_gradient_matches_the_definition() {
        for s in shapes() {
            let (x, dy) = (random(s.input_len(), 1), random(s.output_len(), 2));
            let mut want = vec![0.0; s.c_out * s.c_in];
            for (i, want) in want.iter_mut().enumerate() {
                let (o, c) = (i / s.c_in, i % s.c_in);
                for n in 0..s.batch {
                    for p in 0..s.pixels() {
                        let dy = dy[(n * s.c_out + o) * s.pixels() + p];
                        *want += f64::from(dy) * f64::from(x[(n * s.c_in + c) * s.pixels() + p]);
                    }
                }
            }
            let mut dw = vec![f32::NAN; want.len()];
            conv1x1_backward_weight(s, &x, &dy, &mut dw);
            assert_close(&dw, &want, 1e-5, &format!("{s:?}"));
        }
    }
}

//! The gradient of a 1x1 convolution's weight.

#![expect(clippy::needless_range_loop, reason = "counted loops unroll into registers")]

use super::conv_plan::SERIAL_WORK;
use super::conv_shape::ConvShape;
use super::gemm::{Dense, Left, Matrix, Product, Start, pack_transposed, padded};
use super::simd::{aligned, arch, copy_row, load};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

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
    let arch = arch();
    let compute = |pieces: Range<usize>, first: usize, dw: &mut [f32]| {
        SCRATCH.with_borrow_mut(|scratch| {
            arch.dispatch(Part { shape, x, dy, pieces, first, dw, scratch });
        });
    };
    let count = shape.batch * shape.pixels().div_ceil(PIECE);
    if shape.output_len() * shape.c_in < SERIAL_WORK {
        return compute(0..count, 0, dw);
    }
    // The same cuts for any number of threads, because the sum depends on them.
    let blocks = shape.c_out.div_ceil(CHANNELS).min(TASKS);
    let channels = shape.c_out.div_ceil(blocks).next_multiple_of(8);
    let part = count.div_ceil(TASKS.div_ceil(blocks));
    let mut sums = vec![0.0; dw.len() * count.div_ceil(part)];
    sums.par_chunks_exact_mut(dw.len()).enumerate().for_each(|(p, sums)| {
        let pieces = p * part..count.min((p + 1) * part);
        let blocks = sums.par_chunks_mut(channels * shape.c_in).with_max_len(1).enumerate();
        blocks.for_each(|(i, sums)| compute(pieces.clone(), i * channels, sums));
    });
    dw.fill(0.0);
    for sums in sums.chunks_exact(dw.len()) {
        dw.iter_mut().zip(sums).for_each(|(dw, sum)| *dw += sum);
    }
}

/// Positions of an image that are packed at once.
const PIECE: usize = 256;

/// Input or output channels below which the sums are computed without transposing.
const FEW_CHANNELS: usize = 32;

/// Input channels that repay a copy of the gradient.
const COPIED_CHANNELS: usize = 256;

/// Output channels that repay packing the input once more for another thread.
const CHANNELS: usize = 320;

/// Tasks that are enough for many threads.
const TASKS: usize = 16;

thread_local! {
    /// Packed input, sums and a copy of the gradient, kept between calls: fresh memory
    /// costs a page fault per 4 KiB.
    static SCRATCH: RefCell<[Vec<f32>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) };
}

/// What some positions contribute to some output channels.
struct Part<'a> {
    shape: ConvShape,
    x: &'a [f32],
    dy: &'a [f32],
    /// Pieces of [`PIECE`] positions (fewer at the end of an image), image by image.
    pieces: Range<usize>,
    /// The first output channel.
    first: usize,
    /// Overwritten: `[count, c_in]`.
    dw: &'a mut [f32],
    scratch: &'a mut [Vec<f32>; 3],
}

impl WithSimd for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if self.shape.c_in.min(self.shape.c_out) < FEW_CHANNELS {
            self.few(simd);
        } else {
            self.many(simd);
        }
    }
}

impl Part<'_> {
    /// A matrix product with the transposed input.
    #[inline(always)]
    fn many<S: Simd>(self, simd: S) {
        let ConvShape { c_in, c_out, .. } = self.shape;
        let (pixels, wide, rows) = (self.shape.pixels(), padded::<S>(c_in), self.dw.len() / c_in);
        let [packed, sums, copy] = self.scratch;
        let packed = aligned(packed, wide * PIECE.min(pixels));
        let sums = aligned(sums, wide * rows);
        let mut start = Start::Zero;
        for piece in self.pieces {
            let Piece { image, at, len } = Piece::new(piece, pixels);
            let x = &self.x[image * c_in * pixels + at..];
            let x = Matrix { data: x, stride: pixels, rows: c_in, columns: len };
            let b = pack_transposed(simd, x, 1.0, packed);
            let dy = &self.dy[(image * c_out + self.first) * pixels + at..];
            let a = Left::<false> { data: dy, stride: pixels, rows };
            let c = Dense { data: sums, stride: wide };
            let copy = (c_in >= COPIED_CHANNELS).then_some(&mut *copy);
            simd.vectorize(Product { a, b, start, c, copy });
            start = Start::Target;
        }
        for (dw, sums) in self.dw.chunks_exact_mut(c_in).zip(sums.chunks_exact(wide)) {
            copy_row(dw, &sums[..c_in]);
        }
    }

    /// Products position by position: one vector of sums per pair of channels, whose lanes
    /// are added at the end. For few channels, transposing the input would take longer.
    #[inline(always)]
    fn few<S: Simd>(mut self, simd: S) {
        let (mut m, count) = (0, self.dw.len() / self.shape.c_in);
        while m < count {
            m += match count - m {
                8.. if S::REGISTER_COUNT >= 32 => self.channels::<S, 8>(simd, m),
                4.. => self.channels::<S, 4>(simd, m),
                2..=3 => self.channels::<S, 2>(simd, m),
                _ => self.channels::<S, 1>(simd, m),
            };
        }
    }

    /// `MR` output channels from number `m` of the part on; returns `MR`.
    #[inline(always)]
    fn channels<S: Simd, const MR: usize>(&mut self, simd: S, m: usize) -> usize {
        let ConvShape { c_in, c_out, .. } = self.shape;
        let sums = aligned(&mut self.scratch[0], c_in * MR * S::F32_LANES);
        let sums = S::as_mut_simd_f32s(sums).0.as_chunks_mut::<MR>().0;
        sums.fill([simd.splat_f32s(0.0); MR]);
        let pixels = self.shape.pixels();
        for piece in self.pieces.clone() {
            let Piece { image, at, len } = Piece::new(piece, pixels);
            let dy = &self.dy[(image * c_out + self.first + m) * pixels + at..];
            let x = &self.x[image * c_in * pixels + at..];
            let (dy, x) = (Planes { data: dy, pixels, len }, Planes { data: x, pixels, len });
            let (threes, rest) = sums.as_chunks_mut::<3>();
            let single = threes.len() * 3;
            for (i, sums) in threes.iter_mut().enumerate() {
                correlate(simd, dy, x, i * 3, sums);
            }
            for (i, sums) in rest.iter_mut().enumerate() {
                correlate(simd, dy, x, single + i, std::array::from_mut(sums));
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

/// Positions `at..at + len` of an image.
struct Piece {
    image: usize,
    at: usize,
    len: usize,
}

impl Piece {
    #[inline(always)]
    fn new(index: usize, pixels: usize) -> Self {
        let per_image = pixels.div_ceil(PIECE);
        let (image, at) = (index / per_image, index % per_image * PIECE);
        Self { image, at, len: PIECE.min(pixels - at) }
    }
}

/// `len` values each of some channels, which are `pixels` values apart.
#[derive(Clone, Copy)]
struct Planes<'a> {
    data: &'a [f32],
    pixels: usize,
    len: usize,
}

impl<'a> Planes<'a> {
    /// `N` channels from `first` on.
    #[inline(always)]
    fn rows<const N: usize>(self, first: usize) -> [&'a [f32]; N] {
        let mut rows = [self.data; N];
        for n in 0..N {
            rows[n] = &self.data[(first + n) * self.pixels..][..self.len];
        }
        rows
    }
}

/// Adds the products of the first `MR` channels of `dy` and `N` channels of `x` from `c`
/// on, lane by lane.
#[inline(always)]
fn correlate<S: Simd, const MR: usize, const N: usize>(
    simd: S,
    dy: Planes<'_>,
    x: Planes<'_>,
    c: usize,
    sums: &mut [[S::f32s; MR]; N],
) {
    let (dy, x, len) = (dy.rows::<MR>(0), x.rows::<N>(c), x.len);
    let (mut p, mut acc) = (0, *sums);
    while p + S::F32_LANES <= len {
        let mut values = [simd.splat_f32s(0.0); N];
        for n in 0..N {
            values[n] = load::<S>(&x[n][p..]);
        }
        for m in 0..MR {
            let dy = load::<S>(&dy[m][p..]);
            for n in 0..N {
                acc[n][m] = simd.mul_add_e_f32s(dy, values[n], acc[n][m]);
            }
        }
        p += S::F32_LANES;
    }
    *sums = acc;
    if p < len {
        for m in 0..MR {
            let dy = simd.partial_load_f32s(&dy[m][p..]);
            for n in 0..N {
                let x = simd.partial_load_f32s(&x[n][p..]);
                sums[n][m] = simd.mul_add_e_f32s(dy, x, sums[n][m]);
            }
        }
    }
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

//! 1x1 convolution: the forward pass and the gradient of its input.

use super::conv_plan::SERIAL_WORK;
use super::conv_shape::ConvShape;
use super::gemm::{Left, Matrix, Product, Start, Target, pack};
use super::simd::{aligned, arch};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;

/// 1x1 convolution.
///
/// `x` is `[n, c_in, h, w]`, `weight` is `[c_out, c_in]`, `bias` is `[c_out]` and `y`, which
/// is overwritten, is `[n, c_out, h, w]`:
/// `y[n, o, r, s] = bias[o] + sum over i of weight[o, i] * x[n, i, r, s]`.
///
/// # Panics
/// If a slice does not have the length `shape` implies.
pub fn conv1x1(shape: ConvShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    assert!(bias.is_none_or(|b| b.len() == shape.c_out), "bias length");
    run::<false>(shape, x, weight, bias, y);
}

/// Gradient of [`conv1x1`] with respect to its input.
///
/// `dy` is `[n, c_out, h, w]`, `weight` is `[c_out, c_in]` and `dx`, which is overwritten,
/// is `[n, c_in, h, w]`: `dx[n, i, r, s] = sum over o of weight[o, i] * dy[n, o, r, s]`.
///
/// # Panics
/// If a slice does not have the length `shape` implies.
pub fn conv1x1_backward_input(shape: ConvShape, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    // The product with the transposed weight, which only is another way to read it.
    let shape = ConvShape { c_in: shape.c_out, c_out: shape.c_in, ..shape };
    run::<true>(shape, dy, weight, None, dx);
}

/// Packed input values of one product: one megabyte, so that they stay in a core's
/// second-level cache while every output channel reads them.
const PACKED_VALUES: usize = 1 << 18;

/// Values of the weight from which on a copy of it pays off.
const COPIED_WEIGHTS: usize = 1 << 16;

/// Output channels from which on a task of its own repays that it packs its input again.
const TASK_CHANNELS: usize = 64;

/// Pixels of a range are a multiple of this, whole panels for any number of lanes.
const TASK_PIXELS: usize = 48;

/// Splits the output over the threads and computes every part.
fn run<const TRANSPOSED: bool>(
    shape: ConvShape,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    assert_eq!(x.len(), shape.input_len(), "input length");
    assert_eq!(y.len(), shape.output_len(), "output length");
    assert_eq!(weight.len(), shape.c_in * shape.c_out, "weight length");
    if y.is_empty() {
        return;
    }
    let (arch, pixels) = (arch(), shape.pixels());
    let (input, output) = (shape.c_in * pixels, shape.c_out * pixels);
    let compute = |x: &[f32], channel: usize, count: usize, pixel: usize, y: Planes<'_>| {
        let stride = if TRANSPOSED { shape.c_out } else { shape.c_in };
        let at = if TRANSPOSED { channel } else { channel * stride };
        let weight = Left::<TRANSPOSED> { data: &weight[at..], stride, rows: count };
        let bias = bias.map(|bias| &bias[channel..channel + count]);
        SCRATCH.with_borrow_mut(|scratch| {
            arch.dispatch(Run { shape, x, weight, bias, pixel, y, scratch });
        });
    };
    let image = |(n, y): (usize, &mut [f32])| {
        compute(&x[n * input..][..input], 0, shape.c_out, 0, Planes::whole(y, pixels));
    };
    // Several tasks per thread even out cores that are slowed by other work.
    let wanted = 4 * rayon::current_num_threads();
    let parts = wanted.div_ceil(shape.batch);
    if shape.output_len() * shape.c_in < SERIAL_WORK {
        y.chunks_exact_mut(output).enumerate().for_each(image);
    } else if parts == 1 {
        let images = y.par_chunks_exact_mut(output).enumerate();
        images.with_min_len(shape.batch / wanted).for_each(image);
    } else if shape.c_out >= parts * TASK_CHANNELS {
        let channels = shape.c_out.div_ceil(parts).next_multiple_of(8);
        y.par_chunks_exact_mut(output).zip(x.par_chunks_exact(input.max(1))).for_each(|(y, x)| {
            y.par_chunks_mut(channels * pixels).with_max_len(1).enumerate().for_each(|(i, y)| {
                let count = y.len() / pixels;
                compute(x, i * channels, count, 0, Planes::whole(y, pixels));
            });
        });
    } else {
        let range = pixels.div_ceil(parts).next_multiple_of(TASK_PIXELS);
        let ranges = pixels.div_ceil(range);
        let mut tasks: Vec<Vec<&mut [f32]>> =
            (0..shape.batch * ranges).map(|_| Vec::with_capacity(shape.c_out)).collect();
        for (i, plane) in y.chunks_exact_mut(pixels).enumerate() {
            for (part, plane) in plane.chunks_mut(range).enumerate() {
                tasks[i / shape.c_out * ranges + part].push(plane);
            }
        }
        tasks.into_par_iter().with_max_len(1).enumerate().for_each(|(i, planes)| {
            let x = &x[i / ranges * input..][..input];
            let len = planes[0].len();
            let y = Planes { data: Data::Separate(planes), len, at: 0, count: 0 };
            compute(x, 0, shape.c_out, i % ranges * range, y);
        });
    }
}

/// The part of an image that a task writes.
struct Planes<'a> {
    data: Data<'a>,
    /// Pixels of each plane.
    len: usize,
    /// The pixels that are computed next.
    at: usize,
    count: usize,
}

enum Data<'a> {
    Whole(&'a mut [f32]),
    /// A range of each plane.
    Separate(Vec<&'a mut [f32]>),
}

impl<'a> Planes<'a> {
    fn whole(data: &'a mut [f32], pixels: usize) -> Self {
        Self { data: Data::Whole(data), len: pixels, at: 0, count: 0 }
    }
}

impl Target for &mut Planes<'_> {
    #[inline(always)]
    fn row(&mut self, m: usize) -> &mut [f32] {
        let plane = match &mut self.data {
            Data::Whole(data) => &mut data[m * self.len..][..self.len],
            Data::Separate(planes) => &mut *planes[m],
        };
        &mut plane[self.at..][..self.count]
    }
}

thread_local! {
    /// Packed input and weight, kept between calls: fresh memory costs a page fault per 4 KiB.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Some channels of some pixels of an image.
struct Run<'a, const TRANSPOSED: bool> {
    shape: ConvShape,
    /// The image.
    x: &'a [f32],
    weight: Left<'a, TRANSPOSED>,
    bias: Option<&'a [f32]>,
    /// The first pixel.
    pixel: usize,
    y: Planes<'a>,
    scratch: &'a mut [Vec<f32>; 2],
}

impl<const TRANSPOSED: bool> WithSimd for Run<'_, TRANSPOSED> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (rows, stride) = (self.shape.c_in, self.shape.pixels());
        let most = PACKED_VALUES / rows.max(1) / TASK_PIXELS * TASK_PIXELS;
        let step = most.max(TASK_PIXELS).min(self.y.len.next_multiple_of(16));
        let [packed, copy] = self.scratch;
        let packed = aligned(packed, rows * step);
        for at in (0..self.y.len).step_by(step) {
            let columns = step.min(self.y.len - at);
            let data = if rows == 0 { &[] } else { &self.x[self.pixel + at..] };
            let b = pack(simd, Matrix { data, stride, rows, columns }, packed);
            (self.y.at, self.y.count) = (at, columns);
            let start = self.bias.map_or(Start::Zero, Start::Rows);
            let copy = (self.weight.rows * rows >= COPIED_WEIGHTS).then_some(&mut *copy);
            simd.vectorize(Product { a: self.weight, b, start, c: &mut self.y, copy });
        }
    }
}

/// Shapes that hit every edge of the blocking.
#[cfg(test)]
pub(super) fn shapes() -> Vec<ConvShape> {
    [
        [1, 1, 1, 1, 1],
        [2, 3, 5, 1, 1],
        [1, 1, 1, 7, 5],
        [3, 2, 9, 4, 4],
        [1, 8, 8, 33, 47],
        [2, 13, 31, 9, 17],
        [64, 16, 24, 8, 8],
        [11, 40, 7, 16, 16],
        [2, 200, 520, 8, 8],
        [1, 700, 70, 5, 11],
        [1, 8, 17, 130, 130],
        [1, 70, 515, 1, 1],
        [5, 0, 3, 4, 4],
        [4, 3, 0, 4, 4],
        [0, 2, 3, 4, 4],
        [2, 2, 3, 0, 4],
    ]
    .map(|[batch, c_in, c_out, height, width]| ConvShape { batch, c_in, c_out, height, width })
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::test_util::{assert_close, random};
    use super::*;

    /// `sum over i of weight(o, i) x[n, i, p]`, in double precision.
    fn naive(
        s: ConvShape,
        x: &[f32],
        weight: impl Fn(usize, usize) -> f32,
        bias: Option<&[f32]>,
    ) -> Vec<f64> {
        let mut y = Vec::with_capacity(s.output_len());
        for i in 0..s.output_len() {
            let (n, o, p) = (i / s.pixels() / s.c_out, i / s.pixels() % s.c_out, i % s.pixels());
            let terms = (0..s.c_in)
                .map(|c| f64::from(weight(o, c)) * f64::from(x[(n * s.c_in + c) * s.pixels() + p]));
            y.push(bias.map_or(0.0, |b| f64::from(b[o])) + terms.sum::<f64>());
        }
        y
    }

    #[test]
    fn forward_matches_the_definition() {
        for s in shapes() {
            let (x, w) = (random(s.input_len(), 1), random(s.c_out * s.c_in, 2));
            let b = random(s.c_out, 3);
            for bias in [None, Some(&b[..])] {
                let mut y = vec![f32::NAN; s.output_len()];
                conv1x1(s, &x, &w, bias, &mut y);
                let want = naive(s, &x, |o, i| w[o * s.c_in + i], bias);
                assert_close(&y, &want, 1e-5, &format!("{s:?}"));
            }
        }
    }

    #[test]
    fn backward_input_is_the_adjoint_of_forward() {
        for s in shapes() {
            let (dy, w) = (random(s.output_len(), 4), random(s.c_out * s.c_in, 5));
            let mut dx = vec![f32::NAN; s.input_len()];
            conv1x1_backward_input(s, &dy, &w, &mut dx);
            let t = ConvShape { c_in: s.c_out, c_out: s.c_in, ..s };
            let want = naive(t, &dy, |i, o| w[o * s.c_in + i], None);
            assert_close(&dx, &want, 1e-5, &format!("{s:?}"));
        }
    }

    /// Whatever else is computed and by how many threads, the bits of an image are the same.
    #[test]
    fn results_depend_on_neither_batch_nor_threads() {
        for [batch, c_in, c_out, side] in
            [[40, 24, 40, 16], [2, 9, 12, 101], [2, 300, 520, 9], [9, 7, 13, 9]]
        {
            let s = ConvShape { batch, c_in, c_out, height: side, width: side };
            let (x, w) = (random(s.input_len(), 1), random(c_in * c_out, 2));
            let (b, dy) = (random(c_out, 3), random(s.output_len(), 4));
            let run = |threads, s: ConvShape, x: &[f32], dy: &[f32]| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let [mut y, mut dx] = [s.output_len(), s.input_len()].map(|n| vec![0.0; n]);
                pool.install(|| {
                    conv1x1(s, x, &w, Some(&b), &mut y);
                    conv1x1_backward_input(s, dy, &w, &mut dx);
                });
                (y, dx)
            };
            let (y, dx) = run(1, s, &x, &dy);
            for threads in [2, 7] {
                assert!(run(threads, s, &x, &dy) == (y.clone(), dx.clone()), "{s:?}");
            }
            let last = ConvShape { batch: 1, ..s };
            let [x, dy, y, dx] = [&x, &dy, &y, &dx].map(|v| &v[v.len() / batch * (batch - 1)..]);
            assert!(run(2, last, x, dy) == (y.to_vec(), dx.to_vec()), "{s:?}");
        }
    }
}

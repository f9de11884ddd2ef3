//! 3x3 convolution, stride 1, padding 1: the forward pass and the gradient of its input.

use super::conv_pack::Layout;
use super::conv_plan::{Plan, SERIAL_WORK, Task, split};
use super::conv_shape::{ConvShape, Filters};
use super::conv_tile::{Output, Planes, Sink, channel_block, channels};
use super::simd::{aligned, arch};
use super::winograd;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;

/// 3x3 convolution, stride 1, zero padding 1.
///
/// `x` is `[n, c_in, h, w]`, `weight` is `[c_out, c_in, 3, 3]`, `bias` is `[c_out]`
/// and `y`, which is overwritten, is `[n, c_out, h, w]`:
/// `y[n, o, r, s] = bias[o] + sum over i, ky, kx of
/// weight[o, i, ky, kx] * x[n, i, r + ky - 1, s + kx - 1]`.
///
/// # Panics
/// If a slice does not have the length `shape` implies.
pub fn conv3x3(shape: ConvShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    assert_eq!(weight.len(), shape.weight_len(), "weight length");
    assert!(bias.is_none_or(|b| b.len() == shape.c_out), "bias length");
    let filters = Filters { taps: weight.as_chunks().0, out_stride: shape.c_in, in_stride: 1 };
    run::<false>(shape, x, filters, bias, y);
}

/// Gradient of [`conv3x3`] with respect to its input.
///
/// `dy` is `[n, c_out, h, w]`, `weight` is `[c_out, c_in, 3, 3]` and `dx`, which is
/// overwritten, is `[n, c_in, h, w]`:
/// `dx[n, i, r, s] = sum over o, ky, kx of
/// weight[o, i, ky, kx] * dy[n, o, r + 1 - ky, s + 1 - kx]`.
///
/// # Panics
/// If a slice does not have the length `shape` implies.
pub fn conv3x3_backward_input(shape: ConvShape, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    assert_eq!(weight.len(), shape.weight_len(), "weight length");
    // The same convolution with the two channel axes swapped and the taps turned by
    // 180 degrees; both are only another way to walk the weight, so nothing is copied.
    let filters = Filters { taps: weight.as_chunks().0, out_stride: 1, in_stride: shape.c_in };
    run::<true>(shape.transposed(), dy, filters, None, dx);
}

/// Chooses the kernel, splits the output over the threads and computes every part.
fn run<const FLIP: bool>(
    shape: ConvShape,
    x: &[f32],
    filters: Filters<'_>,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    assert_eq!(x.len(), shape.input_len(), "input length");
    assert_eq!(y.len(), shape.output_len(), "output length");
    if y.is_empty() {
        return;
    }
    if winograd::suits(shape) {
        return winograd::convolve::<FLIP>(shape, x, filters, bias, y);
    }
    let arch = arch();
    let compute = |task: Task<'_>| {
        SCRATCH.with_borrow_mut(|scratch| {
            arch.dispatch(Run::<FLIP> { shape, x, filters, bias, task, scratch });
        });
    };
    let tasks = split(shape, Plan::new(shape), y);
    if shape.work() < SERIAL_WORK {
        tasks.into_iter().for_each(compute);
    } else {
        tasks.into_par_iter().with_max_len(1).for_each(compute);
    }
}

/// One task with everything it needs, for [`pulp::Arch::dispatch`].
struct Run<'a, const FLIP: bool> {
    shape: ConvShape,
    x: &'a [f32],
    filters: Filters<'a>,
    bias: Option<&'a [f32]>,
    task: Task<'a>,
    scratch: &'a mut Scratch,
}

/// Buffers of a thread, kept between calls: a fresh allocation of this size costs a
/// page fault per 4 KiB.
#[derive(Default)]
struct Scratch {
    /// Padded input planes of a task.
    planes: Vec<f32>,
    /// Computed channels of one block, still with their meaningless values.
    out: Vec<f32>,
    /// Where the vectors to compute start.
    starts: Vec<usize>,
    /// Filters of one block.
    taps: Vec<[f32; 9]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<const FLIP: bool> WithSimd for Run<'_, FLIP> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Self { shape, filters, scratch, .. } = self;
        let layout = Layout::new(shape, self.task.span, S::F32_LANES);
        layout.starts(S::F32_LANES, &mut scratch.starts);
        let (stride, row) = (layout.stride(1, S::F32_LANES), scratch.starts.len() * S::F32_LANES);
        let planes = aligned(&mut scratch.planes, stride * shape.c_in);
        for (c, plane) in planes.chunks_exact_mut(stride).enumerate() {
            layout.pack(shape, self.x, c, plane);
        }
        let Layout { line, step, .. } = layout;
        let planes = Planes { data: planes, stride, line, step, starts: &scratch.starts };
        let out = aligned(&mut scratch.out, channel_block::<S>() * row);
        let mut done = 0;
        while done < self.task.channels {
            let first = self.task.first_channel + done;
            let count = block_size::<S>(self.task.channels - done);
            filters.gather(first, count, shape.c_in, &mut scratch.taps);
            let taps = &scratch.taps;
            let bias = self.bias.map(|bias| &bias[first..first + count]);
            let direct = layout.exact && step == 1;
            let output = direct.then(|| Output {
                planes: &mut self.task.out,
                channels: self.task.channels,
                first: done,
                bias,
            });
            let sink = Sink { buffer: out, output };
            match count {
                8 => channels::<S, 8, FLIP>(simd, taps, planes, sink),
                4 => channels::<S, 4, FLIP>(simd, taps, planes, sink),
                2 => channels::<S, 2, FLIP>(simd, taps, planes, sink),
                _ => channels::<S, 1, FLIP>(simd, taps, planes, sink),
            }
            if !direct {
                for (m, computed) in out.chunks_exact(row).take(count).enumerate() {
                    let bias = bias.map_or(0.0, |b| b[m]);
                    let planes =
                        self.task.out.iter_mut().skip(done + m).step_by(self.task.channels);
                    for (image, out) in planes.enumerate() {
                        layout.unpack(shape.width, image, computed, bias, out);
                    }
                }
            }
            done += count;
        }
    }
}

/// Channels to compute next when `left` of them are missing.
const fn block_size<S: Simd>(left: usize) -> usize {
    match left {
        1 => 1,
        2..=3 => 2,
        4..=7 => 4,
        _ => channel_block::<S>(),
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
        [17, 5, 6, 8, 8],
        [64, 16, 24, 8, 8],
        [1, 3, 7, 1, 40],
        [1, 3, 7, 40, 1],
        [2, 40, 3, 64, 64],
        [1, 130, 17, 8, 8],
        [1, 130, 70, 8, 8],
        [1, 8, 8, 130, 257],
        [5, 0, 3, 4, 4],
        [0, 2, 3, 4, 4],
        [4, 3, 5, 4, 4],
        [12, 20, 9, 5, 12],
        [2, 9, 8, 7, 24],
        [26, 19, 11, 8, 8],
        [40, 24, 17, 6, 4],
        [9, 33, 17, 16, 16],
    ]
    .map(|[batch, c_in, c_out, height, width]| ConvShape { batch, c_in, c_out, height, width })
    .to_vec()
}

/// The definition, in double precision.
#[cfg(test)]
pub(super) fn naive(s: ConvShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
    let (h, w) = (s.height as isize, s.width as isize);
    let mut y = Vec::with_capacity(s.output_len());
    for i in 0..s.output_len() as isize {
        let (col, row) = (i % w, i / w % h);
        let plane = (i / (w * h)) as usize;
        let (n, o) = (plane / s.c_out, plane % s.c_out);
        let mut sum = bias.map_or(0.0, |b| f64::from(b[o]));
        for c in 0..s.c_in {
            for k in 0..9 {
                let (r, q) = (row + k / 3 - 1, col + k % 3 - 1);
                if (0..h).contains(&r) && (0..w).contains(&q) {
                    let x = x[((n * s.c_in + c) as isize * h * w + r * w + q) as usize];
                    sum += f64::from(x) * f64::from(weight[(o * s.c_in + c) * 9 + k as usize]);
                }
            }
        }
        y.push(sum);
    }
    y
}

#[cfg(test)]
mod tests {
    use super::super::test_util::{assert_close, random};
    use super::*;

    #[test]
    fn forward_matches_the_definition() {
        for s in shapes() {
            let (x, w) = (random(s.input_len(), 1), random(s.weight_len(), 2));
            let b = random(s.c_out, 3);
            for bias in [None, Some(&b[..])] {
                let mut y = vec![f32::NAN; s.output_len()];
                conv3x3(s, &x, &w, bias, &mut y);
                assert_close(&y, &naive(s, &x, &w, bias), 1e-5, &format!("{s:?}"));
            }
        }
    }

    #[test]
    fn backward_input_is_the_adjoint_of_forward() {
        for s in shapes() {
            let (dy, w) = (random(s.output_len(), 4), random(s.weight_len(), 5));
            // Turn and swap the weight by hand, so that the oracle shares no code.
            let turned: Vec<f32> = (0..s.weight_len())
                .map(|i| {
                    let (k, o, c) = (i % 9, i / 9 % s.c_out, i / 9 / s.c_out);
                    w[(o * s.c_in + c) * 9 + 8 - k]
                })
                .collect();
            let mut dx = vec![f32::NAN; s.input_len()];
            conv3x3_backward_input(s, &dy, &w, &mut dx);
            let want = naive(s.transposed(), &dy, &turned, None);
            assert_close(&dx, &want, 1e-5, &format!("{s:?}"));
        }
    }
}

//! 3x3 convolution, stride 1, padding 1: the forward pass and the gradient of its input.

use super::conv_tile::{Filters, NR, Planes, channel_block, channels};
use super::conv_pack::{Span, pack_plane, plane_stride};
use super::simd::{arch, grow};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;

/// Sizes of a convolution that keeps the height and width of its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Number of images, `n`.
    pub batch: usize,
    /// Channels of the input.
    pub c_in: usize,
    /// Channels of the output.
    pub c_out: usize,
    /// Rows of an image, `h`.
    pub height: usize,
    /// Columns of an image, `w`.
    pub width: usize,
}

impl ConvShape {
    /// Pixels of one plane, `h * w`.
    pub fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Values of the input, `[n, c_in, h, w]`.
    pub fn input_len(&self) -> usize {
        self.batch * self.c_in * self.pixels()
    }

    /// Values of the output, `[n, c_out, h, w]`.
    pub fn output_len(&self) -> usize {
        self.batch * self.c_out * self.pixels()
    }

    /// Values of a 3x3 weight, `[c_out, c_in, 3, 3]`.
    pub fn weight_len(&self) -> usize {
        self.c_out * self.c_in * 9
    }

    /// Multiply-adds of a 3x3 convolution of this shape.
    pub(super) fn work(&self) -> usize {
        self.output_len() * self.c_in * 9
    }

    /// The shape of the convolution that carries gradients back.
    fn transposed(self) -> Self {
        Self { c_in: self.c_out, c_out: self.c_in, ..self }
    }
}

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

/// Splits the output over the threads and computes every part.
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

/// Multiply-adds below which waking other threads costs more than it gains (about
/// 20 microseconds of one core).
pub(super) const SERIAL_WORK: usize = 1 << 20;

/// Padded input values one task may hold: half a megabyte, so that they stay in a
/// core's second-level cache while every output channel reads them.
const TASK_VALUES: usize = 1 << 17;

/// How the output is cut into tasks.
#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Whole images per task; more than one only if `rows` is the full height.
    images: usize,
    /// Rows per task.
    rows: usize,
    /// Output channels per task.
    channels: usize,
}

impl Plan {
    fn new(shape: ConvShape) -> Self {
        // Several tasks per thread even out cores that are slowed by other work.
        let wanted = match shape.work() < SERIAL_WORK {
            true => 1,
            false => 4 * rayon::current_num_threads(),
        };
        let line = shape.width + 1;
        let lines = (TASK_VALUES / (shape.c_in.max(1) * line)).max(4);
        let images = (lines / (shape.height + 1)).min(shape.batch / wanted).max(1);
        let pieces = wanted.div_ceil(shape.batch);
        // Fewer positions than this would waste registers and copy mostly borders.
        let floor = 96_usize.div_ceil(line).max(2);
        let rows = match images {
            1 => shape.height.div_ceil(pieces).max(floor).min(lines).min(shape.height),
            _ => shape.height,
        };
        let tasks = shape.batch.div_ceil(images) * shape.height.div_ceil(rows);
        let channels = match tasks < wanted / 2 {
            true => (shape.c_out * tasks).div_ceil(wanted).next_multiple_of(8).min(shape.c_out),
            false => shape.c_out,
        };
        Self { images, rows, channels }
    }
}

/// One part of the output: some rows of some images, for a range of channels.
struct Task<'a> {
    span: Span,
    first_channel: usize,
    /// Row ranges of the output, image by image and, within, channel by channel.
    out: Vec<&'a mut [f32]>,
    channels: usize,
}

/// Hands every task the parts of `y` it is going to write.
fn split(shape: ConvShape, plan: Plan, y: &mut [f32]) -> Vec<Task<'_>> {
    let (row_blocks, channel_blocks) =
        (shape.height.div_ceil(plan.rows), shape.c_out.div_ceil(plan.channels));
    let mut tasks: Vec<Task<'_>> = (0..shape.batch.div_ceil(plan.images) * row_blocks * channel_blocks)
        .map(|i| {
            let first_channel = i % channel_blocks * plan.channels;
            let first_row = i / channel_blocks % row_blocks * plan.rows;
            Task {
                span: Span {
                    first_image: i / channel_blocks / row_blocks * plan.images,
                    first_row,
                    rows: plan.rows.min(shape.height - first_row),
                },
                first_channel,
                out: Vec::with_capacity(plan.images * plan.channels),
                channels: plan.channels.min(shape.c_out - first_channel),
            }
        })
        .collect();
    for (i, plane) in y.chunks_exact_mut(shape.pixels()).enumerate() {
        let (image, channel) = (i / shape.c_out, i % shape.c_out);
        for (block, rows) in plane.chunks_mut(plan.rows * shape.width).enumerate() {
            let group = image / plan.images * row_blocks + block;
            tasks[group * channel_blocks + channel / plan.channels].out.push(rows);
        }
    }
    tasks
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
    /// Filters of one block, where reading them in place would be slow.
    taps: Vec<[f32; 9]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

impl<const FLIP: bool> WithSimd for Run<'_, FLIP> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let line = self.shape.width + 1;
        let lines = self.task.out.len() / self.task.channels * (self.task.span.rows + 1) + 1;
        let stride = plane_stride(lines * line + NR * S::F32_LANES);
        let Scratch { planes, out, taps } = self.scratch;
        grow(planes, stride * self.shape.c_in);
        grow(out, channel_block::<S>() * stride);
        let planes = &mut planes[..stride * self.shape.c_in];
        for (c, plane) in planes.chunks_exact_mut(stride).enumerate() {
            pack_plane(self.shape, self.x, self.task.span, c, lines, plane);
        }
        let planes = Planes { data: planes, stride, line, positions: (lines - 2) * line };
        let mut done = 0;
        while done < self.task.channels {
            let first = self.task.first_channel + done;
            let count = block_size::<S>(self.task.channels - done);
            let (filters, at) = gather::<FLIP>(self.filters, first, count, self.shape.c_in, taps);
            match count {
                8 => channels::<S, 8, FLIP>(simd, filters, at, planes, out),
                4 => channels::<S, 4, FLIP>(simd, filters, at, planes, out),
                2 => channels::<S, 2, FLIP>(simd, filters, at, planes, out),
                _ => channels::<S, 1, FLIP>(simd, filters, at, planes, out),
            }
            for (m, computed) in out.chunks_exact(stride).take(count).enumerate() {
                let bias = self.bias.map_or(0.0, |b| b[first + m]);
                unpack(&mut self.task, self.shape.width, done + m, computed, bias);
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

/// The filters of `count` outputs from `first` on, and where the first of them is.
///
/// Walking a wide transposed weight jumps to another page for every input channel,
/// so its filters are brought together once instead of once per tile.
#[inline(always)]
fn gather<'a, const FLIP: bool>(
    filters: Filters<'a>,
    first: usize,
    count: usize,
    c_in: usize,
    taps: &'a mut Vec<[f32; 9]>,
) -> (Filters<'a>, usize) {
    if !FLIP || filters.in_stride < 48 {
        return (filters, first);
    }
    taps.clear();
    for c in 0..c_in {
        taps.extend_from_slice(&filters.taps[c * filters.in_stride + first..][..count]);
    }
    (Filters { taps, out_stride: 1, in_stride: count }, 0)
}

/// Copies one computed channel without the meaningless values, adding the bias.
#[inline(always)]
fn unpack(task: &mut Task<'_>, width: usize, channel: usize, computed: &[f32], bias: f32) {
    let (rows, channels) = (task.span.rows, task.channels);
    for (image, out) in task.out.iter_mut().skip(channel).step_by(channels).enumerate() {
        let computed = &computed[image * (rows + 1) * (width + 1)..];
        for (dst, src) in out.chunks_exact_mut(width).zip(computed.chunks(width + 1)) {
            for (d, s) in dst.iter_mut().zip(&src[..width]) {
                *d = s + bias;
            }
        }
    }
}

/// Shapes that hit every edge of the blocking.
#[cfg(test)]
pub(super) fn shapes() -> Vec<ConvShape> {
    [
        [1, 1, 1, 1, 1], [2, 3, 5, 1, 1], [1, 1, 1, 7, 5], [3, 2, 9, 4, 4],
        [1, 8, 8, 33, 47], [2, 13, 31, 9, 17], [17, 5, 6, 8, 8], [64, 16, 24, 8, 8],
        [1, 3, 7, 1, 40], [1, 3, 7, 40, 1], [2, 40, 3, 64, 64], [1, 130, 70, 8, 8],
        [1, 8, 8, 130, 257], [5, 0, 3, 4, 4], [0, 2, 3, 4, 4], [9, 33, 17, 16, 16],
    ]
    .map(|[batch, c_in, c_out, height, width]| ConvShape { batch, c_in, c_out, height, width })
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::test_util::{assert_close, random};
    use super::*;

    /// The definition, in double precision.
    fn naive(s: ConvShape, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
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

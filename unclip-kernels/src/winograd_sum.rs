//! From transformed inputs to outputs: the weight is transformed, multiplied with them and the
//! sums are transformed back.

#![expect(clippy::needless_range_loop, reason = "counted loops unroll into registers")]

use super::conv_plan::Task;
use super::conv_shape::Filters;
use super::gemm::panel;
use super::simd::{aligned, load, store};
use super::winograd_pack::{gather, scatter};
use super::winograd_product::{BLOCK, GROUP, OUTPUTS, multiply};
use super::winograd_tiles::{Run, Tiles};
use super::winograd_transform::{IN, OUT, POINTS, outputs, weights};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Blocks of input channels covered at once: their weight for three vectors of outputs takes
/// three quarters of a 48 KiB cache, that of all points half of a 2 MiB cache.
const DEPTH: usize = 12;

/// Buffers of a thread, kept between calls.
#[derive(Default)]
pub(super) struct Scratch {
    /// Inputs or outputs of a row of tiles, pixel by pixel.
    pub pixels: Vec<f32>,
    /// Filters of a block of outputs, as they lie in the weight.
    rows: Vec<f32>,
    /// The transformed weight: point by point, input by input.
    weights: Vec<f32>,
    /// Sums: point by point, tile by tile.
    sums: Vec<f32>,
}

/// Computes the outputs of a task.
pub(super) struct Sum<'a, 'b, const FLIP: bool> {
    pub tiles: Tiles,
    pub transformed: &'a [[f32; BLOCK]],
    pub filters: Filters<'a>,
    pub bias: Option<&'a [f32]>,
    pub task: &'a mut Task<'b>,
    pub scratch: &'a mut Scratch,
}

impl<const FLIP: bool> WithSimd for Sum<'_, '_, FLIP> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut done = 0;
        while done < self.task.channels {
            let left = self.task.channels - done;
            let count = left.min(panel(left.div_ceil(BLOCK)) * BLOCK);
            self.accumulate(simd, done..done + count);
            self.finish(simd, done..done + count);
            done += count;
        }
    }
}

impl<const FLIP: bool> Sum<'_, '_, FLIP> {
    /// Distance between the sums of two points; odd, see [`Tiles`].
    fn sums_len(&self) -> usize {
        self.tiles.count().next_multiple_of(GROUP) + 1
    }

    /// The sums of some channels of the task.
    #[inline(always)]
    fn accumulate<S: Simd>(&mut self, simd: S, channels: Range<usize>) {
        let (tiles, blocks) = (self.tiles, self.tiles.blocks());
        let groups = tiles.count().div_ceil(GROUP);
        let depth = blocks.div_ceil(blocks.div_ceil(DEPTH));
        let (sums_len, weights_len) = (self.sums_len(), depth * BLOCK + 1);
        let Scratch { rows, weights, sums, .. } = &mut *self.scratch;
        let sums = aligned(sums, POINTS * sums_len * OUTPUTS).as_chunks_mut::<OUTPUTS>().0;
        let weights = aligned(weights, POINTS * weights_len * OUTPUTS).as_chunks_mut().0;
        let first = self.task.first_channel + channels.start;
        let padded = channels.len().next_multiple_of(BLOCK);
        for from in (0..blocks).step_by(depth) {
            let to = blocks.min(from + depth);
            let inputs = from * BLOCK..tiles.shape.c_in.min(to * BLOCK);
            let part = Part::<FLIP> { filters: self.filters, inputs, weights_len };
            for at in (0..channels.len()).step_by(BLOCK) {
                let outputs = first + at..first + channels.len().min(at + BLOCK);
                part.transform(simd, outputs, rows, weights, at);
            }
            for point in 0..POINTS {
                let weights = weights[point * weights_len..].as_chunks().0;
                for group in 0..groups {
                    let inputs = tiles.inputs(self.transformed, [group, point], from..to);
                    let sums = sums[point * sums_len + group * GROUP..].first_chunk_mut();
                    let sums = sums.expect("whole groups");
                    let count = GROUP.min(tiles.count() - group * GROUP);
                    multiply(simd, inputs, weights, sums, [count, padded], from == 0);
                }
            }
        }
    }

    /// Outputs of some channels of the task, from their sums.
    #[inline(always)]
    fn finish<S: Simd>(&mut self, simd: S, channels: Range<usize>) {
        let mut from = 0;
        while from < self.tiles.count() {
            let run = self.tiles.run(from, self.tiles.count());
            for at in (0..channels.len()).step_by(BLOCK) {
                let end = channels.end.min(channels.start + at + BLOCK);
                self.pixels(simd, &run, from, at, channels.start + at..end);
                self.write(simd, &run, channels.start + at..end);
            }
            from += run.count;
        }
    }

    /// The outputs of a run, pixel by pixel: `at` is the place of the channels in the sums,
    /// `from` that of the tiles.
    #[inline(always)]
    fn pixels<S: Simd>(
        &mut self,
        simd: S,
        run: &Run,
        from: usize,
        at: usize,
        channels: Range<usize>,
    ) {
        let (line, sums_len) = (run.count * OUT, self.sums_len());
        let Scratch { pixels, sums, .. } = &mut *self.scratch;
        let sums = aligned(sums, POINTS * sums_len * OUTPUTS).as_chunks::<OUTPUTS>().0;
        let pixels = aligned(pixels, (OUT * line + BLOCK) * BLOCK).as_chunks_mut::<BLOCK>().0;
        let mut bias = [0.0; BLOCK];
        if let Some(values) = self.bias {
            let first = self.task.first_channel + channels.start;
            bias[..channels.len()].copy_from_slice(&values[first..][..channels.len()]);
        }
        for i in 0..run.count {
            for lane in (0..BLOCK).step_by(S::F32_LANES) {
                let mut points = [[simd.splat_f32s(0.0); IN]; IN];
                for r in 0..IN {
                    for c in 0..IN {
                        let sum = &sums[(r * IN + c) * sums_len + from + i];
                        points[r][c] = load::<S>(&sum[at + lane..]);
                    }
                }
                let y = outputs(simd, &points);
                let bias = load::<S>(&bias[lane..]);
                for r in 0..OUT {
                    for c in 0..OUT {
                        let pixel = &mut pixels[r * line + i * OUT + c];
                        store::<S>(&mut pixel[lane..], simd.add_f32s(y[r][c], bias));
                    }
                }
            }
        }
    }

    /// Writes what [`Self::pixels`] computed.
    #[inline(always)]
    fn write<S: Simd>(&mut self, simd: S, run: &Run, channels: Range<usize>) {
        let (width, span, line) = (self.tiles.shape.width, self.tiles.span, run.count * OUT);
        let row = run.row - span.first_row;
        let rows = OUT.min(span.rows - row);
        // Narrow images are written four rows at once, to fill vectors.
        let (rows, len) =
            if line == width { (1, rows * line) } else { (rows, line.min(width - run.column)) };
        let pixels =
            aligned(&mut self.scratch.pixels, (OUT * line + BLOCK) * BLOCK).as_chunks::<BLOCK>().0;
        let first = run.image * self.task.channels + channels.start;
        for r in 0..rows {
            let at = (row + r) * width + run.column;
            let mut to: [&mut [f32]; BLOCK] = Default::default();
            let planes = &mut self.task.out[first..][..channels.len()];
            for (to, plane) in to.iter_mut().zip(planes) {
                *to = &mut plane[at..at + len];
            }
            scatter(simd, &pixels[r * line..], &mut to[..channels.len()]);
        }
    }
}

/// Some input channels of a weight.
struct Part<'a, const FLIP: bool> {
    filters: Filters<'a>,
    inputs: Range<usize>,
    /// Distance between the transformed weights of two points; odd, see [`Tiles`].
    weights_len: usize,
}

impl<const FLIP: bool> Part<'_, FLIP> {
    /// Transforms the filters of at most [`BLOCK`] output channels, which become channel `at`
    /// and those that follow.
    #[inline(always)]
    fn transform<S: Simd>(
        &self,
        simd: S,
        outputs: Range<usize>,
        rows: &mut Vec<f32>,
        to: &mut [[f32; OUTPUTS]],
        at: usize,
    ) {
        // An odd number of cache lines.
        let line = ((self.inputs.len() * 9).div_ceil(BLOCK) | 1) * BLOCK;
        let rows = aligned(rows, BLOCK * line);
        self.copy(outputs.clone(), rows, line);
        let mut taps = [[[0.0; BLOCK]; 9]; BLOCK];
        for (block, first) in (0..self.inputs.len()).step_by(BLOCK).enumerate() {
            let values = first * 9..self.inputs.len().min(first + BLOCK) * 9;
            let mut filters: [&[f32]; BLOCK] = [&[]; BLOCK];
            for (filters, row) in
                filters.iter_mut().zip(rows.chunks_exact(line)).take(outputs.len())
            {
                *filters = &row[values.clone()];
            }
            gather(simd, &filters, taps.as_flattened_mut());
            for k in 0..BLOCK {
                for lane in (0..BLOCK).step_by(S::F32_LANES) {
                    let points = weights(simd, &taps[k], lane);
                    for r in 0..IN {
                        for c in 0..IN {
                            let p = r * IN + c;
                            let to = &mut to[p * self.weights_len + block * BLOCK + k];
                            store::<S>(&mut to[at + lane..], points[r][c]);
                        }
                    }
                }
            }
        }
    }

    /// Copies the filters, output by output. Read where they are, so many places at once
    /// would be too many for the hardware to fetch ahead.
    #[inline(always)]
    fn copy(&self, outputs: Range<usize>, rows: &mut [f32], line: usize) {
        let Filters { taps, out_stride, in_stride } = self.filters;
        for (row, o) in rows.chunks_exact_mut(line).zip(outputs) {
            let row = &mut row.as_chunks_mut::<9>().0[..self.inputs.len()];
            let from = o * out_stride + self.inputs.start * in_stride;
            if !FLIP && in_stride == 1 {
                row.copy_from_slice(&taps[from..from + row.len()]);
                continue;
            }
            for (to, from) in row.iter_mut().zip(taps[from..].iter().step_by(in_stride)) {
                *to = *from;
                if FLIP {
                    to.reverse();
                }
            }
        }
    }
}

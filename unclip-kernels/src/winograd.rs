//! 3x3 convolution of many channels by minimal filtering.
//!
//! Winograd's `F(4x4, 3x3)` computes a tile of 4x4 outputs from 6x6 inputs as
//! `A^T ((G w G^T) * (B^T x B)) A` with products at 36 points, where the definition takes 144
//! (Lavin & Gray 2015, <https://arxiv.org/abs/1509.09308>). Summed over the input channels
//! before they are transformed back, the products at one point are a matrix product of
//! weight and inputs, and the transforms are repaid if there are many channels.
//!
//! The weight is transformed block by block while it is used: transformed, all of it would
//! take four times the memory. Each output is one sum in one order, whatever the batch, the
//! threads and the tasks. An input that is not finite spoils all the tiles that read it.

use super::conv_plan::{Plan, Task, split};
use super::conv_shape::{ConvShape, Filters};
use super::simd::{aligned, arch};
use super::winograd_product::{BLOCK, GROUP, OUTPUTS};
use super::winograd_sum::{Scratch, Sum};
use super::winograd_tiles::{Tiles, Transform};
use super::winograd_transform::{OUT, POINTS};
use rayon::prelude::*;
use std::cell::RefCell;

/// Channels from which on the transforms are repaid, as half the harmonic mean of those of
/// inputs and outputs: 32 to 32 gain a third of the time, 64 to 64 half of it.
const CHANNELS: usize = 16;

/// Tiles of an image from which on the transform of the weight is repaid.
const IMAGE_TILES: usize = 4;

/// Transformed inputs of a thread: 12 MiB. They are read from the third-level cache, in the
/// order in which they lie there.
const VALUES: usize = 3 << 20;

/// Tiles computed at once: at least so many that the transform of the weight does not take
/// much of the time, at most so many that their sums stay in the second-level cache.
const TILES: [usize; 2] = [64, 256];

/// Input channels up to which the transformed inputs of the fewest tiles stay in the
/// second-level cache, which gains more than transforming the weight more often costs.
const CACHED: usize = 96;

/// Whether this is the fastest way to compute such a convolution.
///
/// It must not depend on the batch: the outputs of an image would.
pub fn suits(shape: ConvShape) -> bool {
    let tiles = shape.height.div_ceil(OUT) * shape.width.div_ceil(OUT);
    let wasted = tiles * OUT * OUT - shape.pixels();
    shape.c_in * shape.c_out >= CHANNELS * (shape.c_in + shape.c_out)
        && tiles >= IMAGE_TILES
        && wasted * 2 <= shape.pixels()
}

/// Who computes what.
#[derive(Clone, Copy)]
struct Work {
    plan: Plan,
    /// Whether threads share transformed inputs and divide the output channels among them, so
    /// that the weight is transformed less often; otherwise they divide the tiles.
    shared: bool,
}

impl Work {
    fn new(shape: ConvShape, threads: usize) -> Self {
        let (across, down) = (shape.width.div_ceil(OUT), shape.height.div_ceil(OUT));
        let all = shape.batch * across * down;
        let room = VALUES / (POINTS * shape.c_in.next_multiple_of(BLOCK).max(1));
        let most = room.min(TILES[1]);
        let few_channels = shape.c_out < 2 * threads * OUTPUTS - BLOCK;
        let shared = all < 4 * threads * most && (!few_channels || all < threads * TILES[0]);
        let tiles = match shared {
            true => (2 * room).min(TILES[1]),
            false if shape.c_in <= CACHED => TILES[0],
            false => all.div_ceil(2 * threads).max(TILES[0]).min(most),
        };
        let images = (tiles / (across * down)).clamp(1, shape.batch);
        let images = shape.batch.div_ceil(shape.batch.div_ceil(images));
        let rows = down.div_ceil(down.div_ceil((tiles / across).max(1)));
        let rows = if images > 1 { down } else { rows };
        let share = shape.c_out.div_ceil(threads).next_multiple_of(BLOCK).min(OUTPUTS);
        let channels = if shared { share } else { shape.c_out };
        Self { plan: Plan { images, rows: rows * OUT, channels }, shared }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
    /// Transformed inputs.
    static INPUTS: RefCell<Vec<f32>> = RefCell::default();
}

/// A convolution of this shape, with its filters turned by 180 degrees if `FLIP`.
pub fn convolve<const FLIP: bool>(
    shape: ConvShape,
    x: &[f32],
    filters: Filters<'_>,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    let work = Work::new(shape, rayon::current_num_threads());
    let tasks = split(shape, work.plan, y);
    let call = Call::<FLIP> { shape, x, filters, bias };
    if !work.shared {
        return tasks.into_par_iter().with_max_len(1).for_each(|task| call.alone(task));
    }
    // Taken, not borrowed: while this thread waits for others, it may begin another call.
    let mut buffer = INPUTS.take();
    let mut tasks = tasks;
    for tasks in tasks.chunks_mut(shape.c_out.div_ceil(work.plan.channels)) {
        call.together(tasks, &mut buffer);
    }
    INPUTS.set(buffer);
}

/// What is to be computed.
#[derive(Clone, Copy)]
struct Call<'a, const FLIP: bool> {
    shape: ConvShape,
    x: &'a [f32],
    filters: Filters<'a>,
    bias: Option<&'a [f32]>,
}

impl<const FLIP: bool> Call<'_, FLIP> {
    /// One task from beginning to end.
    fn alone(&self, mut task: Task<'_>) {
        let tiles = Tiles::new(self.shape, task.span);
        let mut buffer = INPUTS.take();
        let transformed = room(tiles, &mut buffer);
        self.transform(tiles, 0, transformed);
        self.sum(tiles, transformed, &mut task);
        INPUTS.set(buffer);
    }

    /// All channels of the same tiles.
    fn together(&self, tasks: &mut [Task<'_>], buffer: &mut Vec<f32>) {
        let tiles = Tiles::new(self.shape, tasks[0].span);
        let transformed = room(tiles, buffer);
        // Several parts per thread even out cores that are slowed by other work.
        let groups = tiles.count().div_ceil(GROUP).div_ceil(4 * rayon::current_num_threads());
        transformed
            .par_chunks_mut(groups * tiles.group_len())
            .with_max_len(1)
            .enumerate()
            .for_each(|(i, part)| self.transform(tiles, i * groups * GROUP, part));
        let transformed = &*transformed;
        tasks.par_iter_mut().with_max_len(1).for_each(|task| self.sum(tiles, transformed, task));
    }

    fn transform(&self, tiles: Tiles, first: usize, transformed: &mut [[f32; BLOCK]]) {
        SCRATCH.with_borrow_mut(|scratch| {
            let pixels = &mut scratch.pixels;
            arch().dispatch(Transform { tiles, x: self.x, first, transformed, pixels });
        });
    }

    fn sum(&self, tiles: Tiles, transformed: &[[f32; BLOCK]], task: &mut Task<'_>) {
        let Self { filters, bias, .. } = *self;
        SCRATCH.with_borrow_mut(|scratch| {
            arch().dispatch(Sum::<FLIP> { tiles, transformed, filters, bias, task, scratch });
        });
    }
}

/// Room for the transformed inputs of all tiles.
fn room(tiles: Tiles, buffer: &mut Vec<f32>) -> &mut [[f32; BLOCK]] {
    let groups = tiles.count().div_ceil(GROUP);
    aligned(buffer, groups * tiles.group_len() * BLOCK).as_chunks_mut().0
}

#[cfg(test)]
#[path = "winograd_tests.rs"]
mod tests;

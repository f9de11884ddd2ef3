//! How a 3x3 convolution is cut into tasks for the threads.

use super::conv_pack::Span;
use super::conv_shape::ConvShape;

/// Multiply-adds below which waking other threads costs more than it gains (about
/// 20 microseconds of one core).
pub(super) const SERIAL_WORK: usize = 1 << 20;

/// Padded input values one task may hold: half a megabyte, so that they stay in a
/// core's second-level cache while every output channel reads them.
const TASK_VALUES: usize = 1 << 17;

/// How the output is cut into tasks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Whole images per task; more than one only if `rows` is the full height.
    pub images: usize,
    /// Rows per task.
    pub rows: usize,
    /// Output channels per task.
    pub channels: usize,
}

impl Plan {
    pub(super) fn new(shape: ConvShape) -> Self {
        // Several tasks per thread even out cores that are slowed by other work.
        let wanted = if shape.work() < SERIAL_WORK { 1 } else { 4 * rayon::current_num_threads() };
        let line = shape.width + 1;
        let lines = (TASK_VALUES / (shape.c_in.max(1) * line)).max(4);
        // Narrow images are interleaved to fill vectors; see `Layout`.
        let mix = match shape.width {
            w if w % 16 == 8 => 2,
            w if w % 8 == 4 => 4,
            _ => 1,
        };
        let mix = if shape.batch < mix { 1 } else { mix };
        let images = (lines / (shape.height + 1)).min(shape.batch / wanted).max(1) / mix * mix;
        let images = images.max(mix);
        let pieces = wanted.div_ceil(shape.batch);
        // Fewer positions than this would waste registers and copy mostly borders.
        let floor = 96_usize.div_ceil(line).max(2);
        let rows = match images {
            1 => shape.height.div_ceil(pieces).max(floor).min(lines).min(shape.height),
            _ => shape.height,
        };
        let tasks = shape.batch.div_ceil(images) * shape.height.div_ceil(rows);
        let channels = if tasks < wanted / 2 {
            (shape.c_out * tasks).div_ceil(wanted).next_multiple_of(8).min(shape.c_out)
        } else {
            shape.c_out
        };
        Self { images, rows, channels }
    }
}

/// One part of the output: some rows of some images, for a range of channels.
pub(super) struct Task<'a> {
    pub span: Span,
    pub first_channel: usize,
    /// Row ranges of the output, image by image and, within, channel by channel.
    pub out: Vec<&'a mut [f32]>,
    pub channels: usize,
}

/// Hands every task the parts of `y` it is going to write.
pub(super) fn split(shape: ConvShape, plan: Plan, y: &mut [f32]) -> Vec<Task<'_>> {
    let (row_blocks, channel_blocks) =
        (shape.height.div_ceil(plan.rows), shape.c_out.div_ceil(plan.channels));
    let mut tasks: Vec<Task<'_>> =
        (0..shape.batch.div_ceil(plan.images) * row_blocks * channel_blocks)
            .map(|i| {
                let first_channel = i % channel_blocks * plan.channels;
                let first_row = i / channel_blocks % row_blocks * plan.rows;
                let first_image = i / channel_blocks / row_blocks * plan.images;
                Task {
                    span: Span {
                        first_image,
                        images: plan.images.min(shape.batch - first_image),
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

//! How pictures are cut into tiles, and their transformed inputs.

#![expect(clippy::needless_range_loop, reason = "counted loops unroll into registers")]

use super::conv_pack::Span;
use super::conv_shape::ConvShape;
use super::simd::{aligned, store};
use super::winograd_pack::gather;
use super::winograd_product::{BLOCK, GROUP, Inputs};
use super::winograd_transform::{IN, OUT, POINTS, inputs};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// The tiles of some rows of a batch, image by image and row by row. Tiles at the right and
/// at the bottom may reach over the edge.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub shape: ConvShape,
    pub span: Span,
    /// Tiles of a row.
    pub across: usize,
    /// Rows of tiles of an image.
    pub down: usize,
}

/// Tiles next to each other in one row.
pub(super) struct Run {
    /// Counted from the first of the span.
    pub image: usize,
    /// The first row and column of pixels.
    pub row: usize,
    pub column: usize,
    /// Number of tiles.
    pub count: usize,
}

impl Tiles {
    pub(super) fn new(shape: ConvShape, span: Span) -> Self {
        let (across, down) = (shape.width.div_ceil(OUT), span.rows.div_ceil(OUT));
        Self { shape, span, across, down }
    }

    /// Number of tiles.
    pub(super) fn count(&self) -> usize {
        self.span.images * self.down * self.across
    }

    /// The longest run that starts at tile `from` and ends before `to`.
    #[inline(always)]
    pub(super) fn run(&self, from: usize, to: usize) -> Run {
        let (line, column) = (from / self.across, from % self.across);
        Run {
            image: line / self.down,
            row: self.span.first_row + line % self.down * OUT,
            column: column * OUT,
            count: (self.across - column).min(to - from),
        }
    }

    /// Blocks of input channels.
    pub(super) fn blocks(&self) -> usize {
        self.shape.c_in.div_ceil(BLOCK)
    }

    /// Pixels of [`BLOCK`] channels that the transformed inputs of a group take.
    pub(super) fn group_len(&self) -> usize {
        POINTS * self.point_len()
    }

    /// The part of one point: one pixel more than needed, since the points of a tile, which
    /// are written together, would otherwise compete for one cache set.
    fn point_len(&self) -> usize {
        self.blocks() * GROUP + 1
    }

    /// Some blocks of channels of one point of a group.
    #[inline(always)]
    pub(super) fn inputs<'a>(
        &self,
        transformed: &'a [[f32; BLOCK]],
        [group, point]: [usize; 2],
        blocks: Range<usize>,
    ) -> Inputs<'a> {
        let at = group * self.group_len() + point * self.point_len();
        transformed[at..][blocks.start * GROUP..blocks.end * GROUP].as_chunks().0
    }
}

/// Transforms the inputs of some groups of tiles.
pub(super) struct Transform<'a> {
    pub tiles: Tiles,
    pub x: &'a [f32],
    /// The first tile of the first group.
    pub first: usize,
    /// Whole groups, of which the last may have more room than there are tiles.
    pub transformed: &'a mut [[f32; BLOCK]],
    pub pixels: &'a mut Vec<f32>,
}

impl WithSimd for Transform<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let room = self.transformed.len() / self.tiles.group_len() * GROUP;
        let (mut from, to) = (self.first, self.tiles.count().min(self.first + room));
        while from < to {
            let run = self.tiles.run(from, to);
            self.run(simd, &run, from - self.first);
            from += run.count;
        }
    }
}

impl Transform<'_> {
    /// All channels of a run, which is to become tile `at` and those that follow.
    #[inline(always)]
    fn run<S: Simd>(&mut self, simd: S, run: &Run, at: usize) {
        let (tiles, line) = (self.tiles, run.count * OUT + 2);
        let pixels = aligned(self.pixels, IN * line * BLOCK).as_chunks_mut::<BLOCK>().0;
        for block in 0..tiles.blocks() {
            lines(simd, &tiles, self.x, run, block, pixels);
            for i in 0..run.count {
                let mut rows = [&[[0.0; BLOCK]; IN]; IN];
                for r in 0..IN {
                    rows[r] = pixels[r * line + i * OUT..].first_chunk().expect("six columns");
                }
                let (group, tile) = ((at + i) / GROUP, (at + i) % GROUP);
                let to = &mut self.transformed[group * tiles.group_len()..][..tiles.group_len()];
                for lane in (0..BLOCK).step_by(S::F32_LANES) {
                    let points = inputs(simd, &rows, lane);
                    for r in 0..IN {
                        for c in 0..IN {
                            let at = (r * IN + c) * tiles.point_len() + block * GROUP + tile;
                            store::<S>(&mut to[at][lane..], points[r][c]);
                        }
                    }
                }
            }
        }
    }
}

/// The six lines of pixels that a run reads, with zeros outside the image.
#[inline(always)]
fn lines<S: Simd>(
    simd: S,
    tiles: &Tiles,
    x: &[f32],
    run: &Run,
    block: usize,
    pixels: &mut [[f32; BLOCK]],
) {
    let (shape, image) = (tiles.shape, tiles.span.first_image + run.image);
    let (from, to) = (run.column.max(1) - 1, shape.width.min(run.column + run.count * OUT + 1));
    let left = from + 1 - run.column;
    let channels = block * BLOCK..shape.c_in.min((block + 1) * BLOCK);
    for (r, line) in pixels.chunks_exact_mut(run.count * OUT + 2).enumerate() {
        let Some(row) = (run.row + r).checked_sub(1).filter(|row| *row < shape.height) else {
            line.fill([0.0; BLOCK]);
            continue;
        };
        let mut rows: [&[f32]; BLOCK] = [&[]; BLOCK];
        for (out, c) in rows.iter_mut().zip(channels.clone()) {
            let at = ((image * shape.c_in + c) * shape.height + row) * shape.width;
            *out = &x[at + from..at + to];
        }
        line[..left].fill([0.0; BLOCK]);
        line[left + to - from..].fill([0.0; BLOCK]);
        gather(simd, &rows, &mut line[left..][..to - from]);
    }
}

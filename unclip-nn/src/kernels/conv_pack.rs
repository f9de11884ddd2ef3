//! Images with their zero border, as the inner loops of the 3x3 convolutions want them.

use super::conv::ConvShape;
use super::simd::copy_row;

/// The rows of a batch that one padded plane holds: `rows` rows from `first_row` on,
/// of one image or (then all its rows) of several images from `first_image` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub first_image: usize,
    pub first_row: usize,
    pub rows: usize,
}

/// Distance between padded planes: whole cache lines, and an odd number of them, so
/// that equal positions of different planes do not compete for one cache set.
pub(super) fn plane_stride(values: usize) -> usize {
    (values.div_ceil(16) | 1) * 16
}

/// Copies the rows of channel `c` that the outputs in `span` read, with the rows above
/// and below them and with zeros where the image ends, into `lines` lines of `w + 1`
/// values: `images * (rows + 1) + 1` of them. The rest of the plane becomes zero.
#[inline(always)]
pub(super) fn pack_plane(
    shape: ConvShape,
    x: &[f32],
    span: Span,
    c: usize,
    lines: usize,
    plane: &mut [f32],
) {
    let (w, line) = (shape.width, shape.width + 1);
    let (head, slack) = plane.split_at_mut(lines * line);
    for (i, dst) in head.chunks_exact_mut(line).enumerate() {
        dst[0] = 0.0;
        match source_row(shape, span, i, i + 1 == lines) {
            Some((image, row)) => {
                let at = ((image * shape.c_in + c) * shape.height + row) * w;
                copy_row(&mut dst[1..], &x[at..at + w]);
            }
            None => dst[1..].fill(0.0),
        }
    }
    slack.fill(0.0);
}

/// Image and row that padded line `i` holds, if it is not a border.
///
/// Each image brings one line above its rows; only the last one needs a line below,
/// since between two images one border serves both.
#[inline(always)]
fn source_row(shape: ConvShape, span: Span, i: usize, last: bool) -> Option<(usize, usize)> {
    let (image, ahead) = match last {
        true => (i / (span.rows + 1) - 1, span.rows + 1),
        false => (i / (span.rows + 1), i % (span.rows + 1)),
    };
    let row = (span.first_row + ahead).checked_sub(1)?;
    (row < shape.height).then_some((span.first_image + image, row))
}

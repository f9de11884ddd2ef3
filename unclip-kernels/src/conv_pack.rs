//! Images with their zero border, as the inner loops of the 3x3 convolutions want them.

use super::conv_shape::ConvShape;
use super::simd::copy_row;

/// The rows of a batch that one padded plane holds: `rows` rows from `first_row` on,
/// of one image or (then all its rows) of several images from `first_image` on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub first_image: usize,
    pub images: usize,
    pub first_row: usize,
    pub rows: usize,
}

/// How a span is laid out in planes.
///
/// Groups of `step` images are interleaved pixel by pixel: as one image with `step`
/// values per pixel they fill whole vectors even where a row of one image does not.
/// Groups follow each other, line after line, with `step` zeros between two lines (the
/// border right of one is the border left of the next) and a line of zeros between two
/// groups. If the image is cut into row ranges, the lines around one are not zeros.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub span: Span,
    /// Images that are interleaved.
    pub step: usize,
    /// Values per line, `(w + 1) * step`.
    pub line: usize,
    /// Whether every row is a whole number of vectors, so that nothing but outputs
    /// needs computing.
    pub exact: bool,
}

impl Layout {
    /// The best layout for vectors of `lanes` values.
    pub(super) fn new(shape: ConvShape, span: Span, lanes: usize) -> Self {
        let fits = |step: &usize| {
            (shape.width * step).is_multiple_of(lanes) && span.images.is_multiple_of(*step)
        };
        let step = [1, 2, 4].into_iter().find(fits);
        let line = (shape.width + 1) * step.unwrap_or(1);
        Self { span, step: step.unwrap_or(1), line, exact: step.is_some() }
    }

    fn groups(&self) -> usize {
        self.span.images / self.step
    }

    /// Lines of a plane, borders included.
    fn lines(&self) -> usize {
        self.groups() * (self.span.rows + 1) + 1
    }

    /// Distance between planes with room to read `vectors` vectors too many: whole cache
    /// lines, and an odd number of them, so that equal positions of different planes do
    /// not compete for one cache set.
    pub(super) fn stride(&self, vectors: usize, lanes: usize) -> usize {
        ((self.lines() * self.line + self.step + vectors * lanes).div_ceil(16) | 1) * 16
    }

    /// Where the vectors to compute start: at each of them, plus the offset of a tap,
    /// lie that tap's inputs.
    pub(super) fn starts(&self, lanes: usize, starts: &mut Vec<usize>) {
        starts.clear();
        if !self.exact {
            let positions = (self.lines() - 2) * self.line;
            return starts.extend((0..positions).step_by(lanes));
        }
        for group in 0..self.groups() {
            for row in 0..self.span.rows {
                let at = (group * (self.span.rows + 1) + row) * self.line;
                starts.extend((at..at + self.line - self.step).step_by(lanes));
            }
        }
    }

    /// Fills the plane of channel `c`; what lies behind its last line becomes zero.
    #[inline(always)]
    pub(super) fn pack(&self, shape: ConvShape, x: &[f32], c: usize, plane: &mut [f32]) {
        let (head, slack) = plane.split_at_mut(self.lines() * self.line);
        for (i, dst) in head.chunks_exact_mut(self.line).enumerate() {
            let (border, dst) = dst.split_at_mut(self.step);
            border.fill(0.0);
            let Some((group, row)) = self.source(shape, i) else {
                dst.fill(0.0);
                continue;
            };
            let w = shape.width;
            let image = self.span.first_image + group * self.step;
            let at = ((image * shape.c_in + c) * shape.height + row) * w;
            let next = shape.c_in * shape.pixels();
            match self.step {
                1 => copy_row(dst, &x[at..at + w]),
                2 => interleave::<2>(&x[at..], next, dst),
                _ => interleave::<4>(&x[at..], next, dst),
            }
        }
        slack.fill(0.0);
    }

    /// Group and row that line `i` holds, if it is not a border.
    ///
    /// Each group brings one line above its rows; only the last one needs a line below,
    /// since between two groups one border serves both.
    #[inline(always)]
    fn source(&self, shape: ConvShape, i: usize) -> Option<(usize, usize)> {
        let rows = self.span.rows + 1;
        let (group, ahead) =
            if i + 1 == self.lines() { (i / rows - 1, rows) } else { (i / rows, i % rows) };
        let row = (self.span.first_row + ahead).checked_sub(1)?;
        (row < shape.height).then_some((group, row))
    }

    /// Copies what was computed for one channel of image `image` of the span, adding
    /// the bias. `computed` has one vector per start.
    #[inline(always)]
    pub(super) fn unpack(
        &self,
        width: usize,
        image: usize,
        computed: &[f32],
        bias: f32,
        out: &mut [f32],
    ) {
        if !self.exact {
            let computed = &computed[image * (self.span.rows + 1) * self.line..];
            for (dst, src) in out.chunks_exact_mut(width).zip(computed.chunks(self.line)) {
                for (d, s) in dst.iter_mut().zip(&src[..width]) {
                    *d = s + bias;
                }
            }
            return;
        }
        let at = image / self.step * self.step * out.len();
        let computed = &computed[at..at + self.step * out.len()];
        match self.step {
            1 => deinterleave::<1>(computed, 0, bias, out),
            2 => deinterleave::<2>(computed, image % 2, bias, out),
            _ => deinterleave::<4>(computed, image % 4, bias, out),
        }
    }
}

/// Mixes a row of `N` images that are `next` values apart, pixel by pixel.
#[inline(always)]
fn interleave<const N: usize>(x: &[f32], next: usize, dst: &mut [f32]) {
    let dst = dst.as_chunks_mut::<N>().0;
    let mut rows = [x; N];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = &x[i * next..][..dst.len()];
    }
    for (i, dst) in dst.iter_mut().enumerate() {
        for n in 0..N {
            dst[n] = rows[n][i];
        }
    }
}

/// Image `n` of `N` interleaved ones, plus `bias`.
#[inline(always)]
fn deinterleave<const N: usize>(computed: &[f32], n: usize, bias: f32, out: &mut [f32]) {
    for (out, values) in out.iter_mut().zip(computed.as_chunks::<N>().0) {
        *out = values[n] + bias;
    }
}

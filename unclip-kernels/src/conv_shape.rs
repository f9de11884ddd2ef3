//! Sizes of a convolution, and where its filters lie.

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
    pub(super) fn transposed(self) -> Self {
        Self { c_in: self.c_out, c_out: self.c_in, ..self }
    }
}

/// The 3x3 filters of a convolution, in place in its weight.
#[derive(Clone, Copy)]
pub struct Filters<'a> {
    /// One entry per (output, input) pair, in whatever order the strides say.
    pub taps: &'a [[f32; 9]],
    /// Distance, in entries, between consecutive output channels.
    pub out_stride: usize,
    /// Distance, in entries, between consecutive input channels.
    pub in_stride: usize,
}

impl Filters<'_> {
    /// Copies the filters of `count` outputs from `first` on, input by input.
    #[inline(always)]
    pub(super) fn gather(&self, first: usize, count: usize, c_in: usize, taps: &mut Vec<[f32; 9]>) {
        taps.clear();
        taps.resize(count * c_in, [0.0; 9]);
        for (c, taps) in taps.chunks_exact_mut(count).enumerate() {
            for (m, taps) in taps.iter_mut().enumerate() {
                *taps = self.taps[(first + m) * self.out_stride + c * self.in_stride];
            }
        }
    }
}

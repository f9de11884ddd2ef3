//! Kernels that blur.

use super::planes::Planes;

/// A square kernel whose values are positive and sum up to 1.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    size: usize,
    values: Vec<f32>,
}

/// No blur is narrower: of a width of 0 it would be no kernel.
const LEAST: f32 = 1e-3;

impl Kernel {
    fn new(size: usize, value: impl Fn(f32, f32) -> f32) -> Self {
        let middle = (size as f32 - 1.0) / 2.0;
        let place = |at: usize| ((at % size) as f32 - middle, (at / size) as f32 - middle);
        let values: Vec<f32> = (0..size * size)
            .map(|at| {
                let (x, y) = place(at);
                value(x, y)
            })
            .collect();
        Self { size, values }.normalized()
    }

    fn normalized(mut self) -> Self {
        let sum: f32 = self.values.iter().sum();
        self.values.iter_mut().for_each(|value| *value /= sum);
        self
    }

    /// A Gaussian of this standard deviation.
    pub(super) fn round(size: usize, width: f32) -> Self {
        let variance = width.max(LEAST).powi(2);
        // what is nearest to the middle keeps a value, however narrow it is
        let nearest = if size.is_multiple_of(2) { 0.5 } else { 0.0 };
        Self::new(size, |x, y| (-(x * x + y * y - nearest) / (2.0 * variance)).exp())
    }

    /// A Gaussian of these variances along an axis at this angle and across it.
    pub(super) fn slanted(size: usize, angle: f32, [along, across]: [f32; 2]) -> Self {
        let (sine, cosine) = angle.sin_cos();
        let [along, across] = [along, across].map(|it| it.max(0.05));
        Self::new(size, |x, y| {
            let (u, v) = (cosine * x + sine * y, cosine * y - sine * x);
            (-(u * u / along + v * v / across) / 2.0).exp()
        })
    }

    /// The same kernel moved to the right and down, between pixels if need be.
    pub(super) fn shifted(self, by: f32) -> Self {
        let size = self.size as isize;
        let at = |x: isize, y: isize| {
            let inside = (0..size).contains(&x) && (0..size).contains(&y);
            if inside { self.values[(y * size + x) as usize] } else { 0.0 }
        };
        let (whole, part) = (by.floor() as isize, by - by.floor());
        let mut values = Vec::with_capacity(self.values.len());
        for y in 0..size {
            for x in 0..size {
                let (x, y) = (x - whole, y - whole);
                let above = at(x, y) * (1.0 - part) + at(x - 1, y) * part;
                let below = at(x, y - 1) * (1.0 - part) + at(x - 1, y - 1) * part;
                values.push(above * (1.0 - part) + below * part);
            }
        }
        Self { values, ..self }.normalized()
    }

    /// A picture under this kernel, beyond whose edges it is mirrored.
    pub(super) fn over(&self, picture: &Planes) -> Planes {
        let ([width, height], size) = (picture.size(), self.size);
        let before = (size - 1 - size / 2) as isize;
        // what the kernel reaches, so that rows can be summed as they are
        let wide = width + size - 1;
        let padded = Planes::new([wide, height + size - 1], |x, y, channel| {
            picture.mirrored(x as isize - before, y as isize - before, channel)
        });
        let mut values = vec![0.0; 3 * width * height];
        for (at, sums) in values.chunks_exact_mut(width).enumerate() {
            let (channel, y) = (at / height, at % height);
            for (row, weights) in self.values.chunks_exact(size).enumerate() {
                let row = channel * (height + size - 1) + y + size - 1 - row;
                let row = &padded.values()[row * wide..][..wide];
                for (column, weight) in weights.iter().enumerate().filter(|(_, it)| **it > 1e-9) {
                    let own = &row[size - 1 - column..][..width];
                    sums.iter_mut().zip(own).for_each(|(sum, value)| *sum += weight * value);
                }
            }
        }
        Planes::of([width, height], values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and covariance of a kernel as a distribution of places.
    fn moments(kernel: &Kernel) -> ([f32; 2], [f32; 3]) {
        let middle = (kernel.size as f32 - 1.0) / 2.0;
        let sum = |of: &dyn Fn(f32, f32) -> f32| -> f32 {
            let place = |at: usize| {
                let (x, y) = ((at % kernel.size) as f32, (at / kernel.size) as f32);
                of(x - middle, y - middle)
            };
            kernel.values.iter().enumerate().map(|(at, value)| value * place(at)).sum()
        };
        let (x, y) = (sum(&|x, _| x), sum(&|_, y| y));
        let covariance =
            [sum(&|a, _| a * a) - x * x, sum(&|a, b| a * b) - x * y, sum(&|_, b| b * b) - y * y];
        ([x, y], covariance)
    }

    #[test]
    fn kernels_are_as_wide_as_asked() {
        let (_, [xx, xy, yy]) = moments(&Kernel::round(25, 2.0));
        assert!((xx - 4.0).abs() < 0.02 && (yy - 4.0).abs() < 0.02 && xy.abs() < 1e-4);
        let angle = 0.5f32;
        let (_, [xx, xy, yy]) = moments(&Kernel::slanted(25, angle, [6.0, 1.5]));
        let (sine, cosine) = angle.sin_cos();
        let expected = [
            6.0 * cosine * cosine + 1.5 * sine * sine,
            4.5 * sine * cosine,
            6.0 * sine * sine + 1.5 * cosine * cosine,
        ];
        for (found, expected) in [xx, xy, yy].into_iter().zip(expected) {
            assert!((found - expected).abs() < 0.1, "{found}, not {expected}");
        }
        let ([x, y], _) = moments(&Kernel::round(25, 2.0).shifted(1.5));
        assert!((x - 1.5).abs() < 1e-3 && (y - 1.5).abs() < 1e-3, "{x} {y}");
    }

    #[test]
    fn a_picture_under_a_kernel_is_the_sum_that_it_stands_for() {
        let picture = Planes::new([9, 7], |x, y, channel| ((x * 7 + y * 3 + channel) % 5) as f32);
        for size in [1, 2, 5, 8, 21] {
            let kernel = Kernel::slanted(size, 0.5, [6.0, 1.5]).shifted(0.3);
            let blurred = kernel.over(&picture);
            let expected = Planes::new([9, 7], |x, y, channel| {
                let middle = (size / 2) as isize;
                let term = |at: usize| {
                    let x = x as isize + middle - (at % size) as isize;
                    let y = y as isize + middle - (at / size) as isize;
                    kernel.values[at] * picture.mirrored(x, y, channel)
                };
                (0..size * size).map(term).sum()
            });
            let far = blurred.values().iter().zip(expected.values()).map(|(a, b)| (a - b).abs());
            assert!(far.fold(0.0, f32::max) < 1e-5, "{size}");
        }
    }

    #[test]
    fn the_narrowest_kernel_changes_nothing() {
        let picture = Planes::new([9, 7], |x, y, channel| ((x * 7 + y * 3 + channel) % 5) as f32);
        let same = Kernel::round(7, 0.0).over(&picture);
        let close = same.values().iter().zip(picture.values());
        assert!(close.into_iter().all(|(a, b)| (a - b).abs() < 1e-6));
        for size in [4, 5, 20] {
            let (sum, plain) = (Kernel::round(size, 0.0), Planes::new([5, 5], |_, _, _| 0.5));
            let blurred = sum.over(&plain);
            assert!(blurred.values().iter().all(|it| (it - 0.5).abs() < 1e-6), "{size}");
        }
    }
}

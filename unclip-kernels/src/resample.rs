//! Nearest doubling of pictures and the sums of their 2 x 2 squares, each other's gradient.

use super::simd::{JOB_VALUES, arch};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Every pixel twice in each direction, times `factor`.
///
/// `x` is `[rows, width]`, rows of any number of planes, and `y`, which is overwritten, is
/// `[2·rows, 2·width]`.
///
/// # Panics
/// If `width` does not divide `x`, or `y` is not four times as long.
pub fn double(width: usize, factor: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(y.len(), 4 * x.len(), "output length");
    if x.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(width), "width of a row");
    let (arch, job) = (arch(), (JOB_VALUES / 4).next_multiple_of(width));
    let run = |(x, y): (&[f32], &mut [f32])| arch.dispatch(Double { width, factor, x, y });
    if x.len() <= job {
        return run((x, y));
    }
    x.par_chunks(job).zip(y.par_chunks_mut(4 * job)).for_each(run);
}

/// The sums of every 2 x 2 pixels, times `factor`.
///
/// `x` is `[2·rows, 2·width]`, rows of any number of planes, and `y`, which is overwritten, is
/// `[rows, width]`.
///
/// # Panics
/// If `width` does not divide `y`, or `x` is not four times as long.
pub fn halve(width: usize, factor: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), 4 * y.len(), "input length");
    if y.is_empty() {
        return;
    }
    assert!(y.len().is_multiple_of(width), "width of a row");
    let (arch, job) = (arch(), (JOB_VALUES / 4).next_multiple_of(width));
    let run = |(x, y): (&[f32], &mut [f32])| arch.dispatch(Halve { width, factor, x, y });
    if y.len() <= job {
        return run((x, y));
    }
    x.par_chunks(4 * job).zip(y.par_chunks_mut(job)).for_each(run);
}

/// [`double`] of some rows.
struct Double<'a> {
    width: usize,
    factor: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Double<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { width, factor, x, y } = self;
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(4 * width)) {
            let (first, second) = y.split_at_mut(2 * width);
            let (first, second) = (first.as_chunks_mut::<2>().0, second.as_chunks_mut::<2>().0);
            for ((x, a), b) in x.iter().zip(first).zip(second) {
                let x = factor * x;
                *a = [x, x];
                *b = [x, x];
            }
        }
    }
}

/// [`halve`] to some rows.
struct Halve<'a> {
    width: usize,
    factor: f32,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Halve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { width, factor, x, y } = self;
        for (x, y) in x.chunks_exact(4 * width).zip(y.chunks_exact_mut(width)) {
            let (first, second) = x.split_at(2 * width);
            let (first, second) = (first.as_chunks::<2>().0, second.as_chunks::<2>().0);
            for ((a, b), y) in first.iter().zip(second).zip(y) {
                *y = factor * (a[0] + a[1] + b[0] + b[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_util::{assert_close, random};
    use super::*;

    /// Rows and widths, small and large, with and without a rest after the last vector.
    const SIZES: [[usize; 2]; 8] =
        [[1, 1], [3, 1], [1, 7], [5, 16], [7, 33], [64, 8], [300, 100], [2, 40_000]];

    #[test]
    fn doubling_repeats_every_pixel() {
        for [rows, width] in SIZES {
            let x = random(rows * width, 1);
            let want: Vec<f64> = (0..4 * x.len())
                .map(|i| 0.25 * f64::from(x[i / (4 * width) * width + i % (2 * width) / 2]))
                .collect();
            let mut y = vec![f32::NAN; want.len()];
            double(width, 0.25, &x, &mut y);
            assert_close(&y, &want, 0.0, &format!("{rows} rows of {width}"));
        }
    }

    #[test]
    fn halving_adds_squares() {
        for [rows, width] in SIZES {
            let x = random(4 * rows * width, 2);
            let at = |row: usize, column: usize| f64::from(x[row * 2 * width + column]);
            let mut want = Vec::with_capacity(rows * width);
            for (row, column) in (0..rows).flat_map(|r| (0..width).map(move |c| (2 * r, 2 * c))) {
                let upper = at(row, column) + at(row, column + 1);
                want.push(0.25 * (upper + at(row + 1, column) + at(row + 1, column + 1)));
            }
            let mut y = vec![f32::NAN; want.len()];
            halve(width, 0.25, &x, &mut y);
            assert_close(&y, &want, 1e-6, &format!("{rows} rows of {width}"));
        }
    }

    #[test]
    fn nothing_stays_nothing() {
        double(0, 1.0, &[], &mut []);
        halve(0, 1.0, &[], &mut []);
    }
}

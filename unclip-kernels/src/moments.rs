//! Means and variances of many values.

use pulp::{Simd, WithSimd};

use super::simd::{First, Map2, SUM_VALUES, sum2};

/// The moments of `x`, in one pass over memory.
///
/// Pieces small enough for the first-level cache are measured in two passes and merged
/// in double precision (Chan et al.), so a large mean does not spoil the variance.
#[inline(always)]
pub(super) fn moments<S: Simd>(simd: S, x: &[f32]) -> Moments {
    let mut all = Moments::default();
    for piece in x.chunks(SUM_VALUES) {
        let count = piece.len() as f64;
        let mean = sum2(simd, First, piece, piece) / count;
        all = all.merged(Moments { count, mean, m2: deviation(simd, piece, mean as f32) });
    }
    all
}

/// How many values there are, their mean, and the sum of their squared deviations from it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    pub count: f64,
    pub mean: f64,
    pub m2: f64,
}

impl Moments {
    /// Those of these values and `other` ones.
    #[inline(always)]
    pub(super) fn merged(self, other: Self) -> Self {
        let count = self.count + other.count;
        let delta = other.mean - self.mean;
        let m2 = other.m2 + delta * delta * self.count * other.count / count;
        Self { count, mean: self.mean + delta * other.count / count, m2: self.m2 + m2 }
    }
}

/// The sum of `(x - center)^2`.
#[inline(always)]
fn deviation<S: Simd>(simd: S, x: &[f32], center: f32) -> f64 {
    #[derive(Clone, Copy)]
    struct Square(f32);
    impl Map2 for Square {
        #[inline(always)]
        fn apply<S: Simd>(self, simd: S, a: S::f32s, _: S::f32s) -> S::f32s {
            let d = simd.sub_f32s(a, simd.splat_f32s(self.0));
            simd.mul_f32s(d, d)
        }
    }
    // The padding of a partial vector would count as deviations of its own.
    let (whole, tail) = x.split_at(x.len() - x.len() % S::F32_LANES);
    let rest: f32 = tail.iter().map(|v| (v - center) * (v - center)).sum();
    sum2(simd, Square(center), whole, whole) + f64::from(rest)
}

/// Runs [`moments`], for [`Arch::dispatch`](pulp::Arch::dispatch).
pub(super) struct MomentsOf<'a>(pub &'a [f32]);

impl WithSimd for MomentsOf<'_> {
    type Output = Moments;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Moments {
        moments(simd, self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::simd::arch;
    use super::super::test_util::random;
    use super::*;

    #[test]
    fn moments_survive_a_large_mean() {
        for len in [1, 2, 15, 16, 17, 4095, 4096, 4097, 20_000] {
            let x: Vec<f32> = random(len, len as u64).iter().map(|v| v + 1000.0).collect();
            let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / len as f64;
            let m2: f64 = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum();
            let got = arch().dispatch(MomentsOf(&x));
            assert!((got.mean - mean).abs() < 1e-3, "{len}: mean {} not {mean}", got.mean);
            assert!((got.m2 - m2).abs() <= 1e-3 * m2 + 1e-6, "{len}: {} not {m2}", got.m2);
        }
    }

    #[test]
    fn parts_merge_into_the_whole() {
        let x = random(10_000, 1);
        let whole = arch().dispatch(MomentsOf(&x));
        for at in [0, 1, 4096, 9_999, 10_000] {
            let parts = [&x[..at], &x[at..]].map(|part| arch().dispatch(MomentsOf(part)));
            let merged = parts.into_iter().filter(|part| part.count > 0.0);
            let merged = merged.fold(Moments::default(), Moments::merged);
            assert_eq!(merged.count, 10_000.0);
            assert!((merged.mean - whole.mean).abs() < 1e-6, "{at}: {merged:?} not {whole:?}");
            assert!((merged.m2 / whole.m2 - 1.0).abs() < 1e-6, "{at}: {merged:?} not {whole:?}");
        }
    }
}

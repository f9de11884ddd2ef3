//! Activations, forward and backward: SiLU and the exact (error-function) GELU.

use super::simd::{
    JOB_VALUES, Map, Map2, RunMap, RunMap2, arch, clamp, exp, polynomial, sigmoid, silu_slope,
};
use pulp::Simd;
use rayon::prelude::*;

/// `y = x / (1 + exp(-x))`, elementwise; `y` is overwritten.
///
/// # Panics
/// If the lengths differ.
pub fn silu(x: &[f32], y: &mut [f32]) {
    par_map(Silu, x, y);
}

/// `dx = dy * s (1 + x (1 - s))` with `s = 1 / (1 + exp(-x))`, the gradient of [`silu`];
/// `dx` is overwritten.
///
/// # Panics
/// If the lengths differ.
pub fn silu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    par_map2(SiluSlope, x, dy, dx);
}

/// `y = x (1 + erf(x / sqrt 2)) / 2`, elementwise; `y` is overwritten.
///
/// The error is below `1e-6` of `max(|x|, 1)`; for very negative `x` the result is
/// (like everybody's in single precision) small but not relatively exact.
///
/// # Panics
/// If the lengths differ.
pub fn gelu(x: &[f32], y: &mut [f32]) {
    par_map(Gelu, x, y);
}

/// `dx = dy * (P(x) + x p(x))` with the distribution function `P` and the density `p` of
/// the standard normal distribution, the gradient of [`gelu`]; `dx` is overwritten.
///
/// # Panics
/// If the lengths differ.
pub fn gelu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    par_map2(GeluSlope, x, dy, dx);
}

fn par_map(f: impl Map + Send, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "lengths differ");
    let arch = arch();
    x.par_chunks(JOB_VALUES)
        .zip(y.par_chunks_mut(JOB_VALUES))
        .for_each(|(x, y)| arch.dispatch(RunMap(f, x, y)));
}

fn par_map2(f: impl Map2 + Send, a: &[f32], b: &[f32], y: &mut [f32]) {
    assert!(a.len() == y.len() && b.len() == y.len(), "lengths differ");
    let arch = arch();
    (a.par_chunks(JOB_VALUES), b.par_chunks(JOB_VALUES), y.par_chunks_mut(JOB_VALUES))
        .into_par_iter()
        .for_each(|(a, b, y)| arch.dispatch(RunMap2(f, a, b, y)));
}

#[derive(Clone, Copy)]
struct Silu;

impl Map for Silu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        simd.mul_f32s(x, sigmoid(simd, x))
    }
}

#[derive(Clone, Copy)]
struct SiluSlope;

impl Map2 for SiluSlope {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s, dy: S::f32s) -> S::f32s {
        simd.mul_f32s(dy, silu_slope(simd, x))
    }
}

#[derive(Clone, Copy)]
struct Gelu;

impl Map for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        simd.mul_f32s(x, normal_distribution(simd, x))
    }
}

#[derive(Clone, Copy)]
struct GeluSlope;

impl Map2 for GeluSlope {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s, dy: S::f32s) -> S::f32s {
        const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
        let square = simd.mul_f32s(simd.mul_f32s(x, simd.splat_f32s(-0.5)), x);
        let density = simd.mul_f32s(simd.splat_f32s(DENSITY), exp(simd, square));
        let slope = simd.mul_add_e_f32s(x, density, normal_distribution(simd, x));
        simd.mul_f32s(dy, slope)
    }
}

/// `(1 + erf(x / sqrt 2)) / 2`.
#[inline(always)]
fn normal_distribution<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let half = simd.splat_f32s(0.5);
    let e = erf(simd, simd.mul_f32s(x, simd.splat_f32s(std::f32::consts::FRAC_1_SQRT_2)));
    simd.mul_add_e_f32s(half, e, half)
}

/// The error function, absolute error below `3e-7`: a rational approximation of
/// `erf(x) / x` in `x^2`, as in Eigen and XLA. It reaches 1 at `|x| = 4`.
#[inline(always)]
fn erf<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let x = clamp(simd, x, -4.0, 4.0);
    let x2 = simd.mul_f32s(x, x);
    let p = polynomial(
        simd,
        x2,
        [
            -2.726_142_4e-10,
            2.770_681_7e-8,
            -2.101_024e-6,
            -5.692_506_2e-5,
            -7.349_906_4e-4,
            -2.954_600_1e-3,
            -1.609_603_3e-2,
        ],
    );
    let q = polynomial(
        simd,
        x2,
        [-1.456_607_2e-5, -2.133_740_2e-4, -1.682_827_4e-3, -7.373_329_2e-3, -1.426_473_9e-2],
    );
    simd.div_f32s(simd.mul_f32s(x, p), q)
}

#[cfg(test)]
mod tests {
    use super::super::test_util::{assert_close, random};
    use super::*;

    /// The error function by its series (small `x`) or continued fraction (large `x`).
    fn erf64(x: f64) -> f64 {
        if x.abs() < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..200 {
                term *= -x * x / f64::from(n);
                sum += term / f64::from(2 * n + 1);
            }
            return sum * 2.0 / std::f64::consts::PI.sqrt();
        }
        let a = x.abs();
        let fraction = (1..200).rev().fold(0.0, |f, k| f64::from(k) / 2.0 / (a + f));
        let tail = (-a * a).exp() / ((a + fraction) * std::f64::consts::PI.sqrt());
        (1.0 - tail).copysign(x)
    }

    fn silu64(x: f64) -> f64 {
        x / (1.0 + (-x).exp())
    }

    fn gelu64(x: f64) -> f64 {
        0.5 * x * (1.0 + erf64(x * std::f64::consts::FRAC_1_SQRT_2))
    }

    /// Checks a function and its gradient on wide inputs of awkward lengths.
    fn check(
        forward: fn(&[f32], &mut [f32]),
        backward: fn(&[f32], &[f32], &mut [f32]),
        oracle: fn(f64) -> f64,
    ) {
        for len in [0, 1, 15, 17, 1000, 100_003] {
            let x: Vec<f32> = random(len, 1).iter().map(|v| v * 12.0).collect();
            let dy = random(len, 2);
            let (mut y, mut dx) = (vec![f32::NAN; len], vec![f32::NAN; len]);
            forward(&x, &mut y);
            backward(&x, &dy, &mut dx);
            let want: Vec<f64> = x.iter().map(|x| oracle(f64::from(*x))).collect();
            assert_close(&y, &want, 3e-7, "forward");
            let slope = |x: f64| (oracle(x + 1e-5) - oracle(x - 1e-5)) / 2e-5;
            let want: Vec<f64> =
                x.iter().zip(&dy).map(|(x, dy)| slope(f64::from(*x)) * f64::from(*dy)).collect();
            assert_close(&dx, &want, 1e-6, "backward");
        }
    }

    #[test]
    fn silu_matches_its_definition() {
        check(silu, silu_backward, silu64);
    }

    #[test]
    fn gelu_matches_its_definition() {
        check(gelu, gelu_backward, gelu64);
    }

    #[test]
    fn extreme_inputs_stay_sane() {
        for f in [silu, gelu] {
            let mut y = [0.0; 4];
            f(&[200.0, -200.0, f32::NAN, 0.0], &mut y);
            assert_eq!((y[0], y[3]), (200.0, 0.0));
            assert!(y[1].abs() < 1e-4 && y[2].is_nan(), "{y:?}");
        }
    }
}

//! Layer normalization over the last dimension.

use super::moments::{Moments, moments};
use super::simd::{First, JOB_VALUES, Map, Map2, Product, arch, map, map2, sum2, update};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Layer normalization of the rows of `x`, `[rows, d]` with `d = gamma.len()`.
///
/// `y` of the same shape and `mean` and `rstd`, `[rows]`, are overwritten:
/// `y = (x - mean) * rstd * gamma + beta` with the mean and `1 / sqrt(variance + eps)` of
/// each row (biased variance). `gamma` and the optional `beta` are `[d]`.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn layer_norm(
    x: &[f32],
    gamma: &[f32],
    beta: Option<&[f32]>,
    eps: f32,
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    let d = gamma.len();
    assert!(x.len() == y.len() && x.len() == mean.len() * d, "tensor length");
    assert_eq!(mean.len(), rstd.len(), "statistics length");
    assert!(beta.is_none_or(|beta| beta.len() == d), "beta length");
    if x.is_empty() {
        return;
    }
    let (arch, rows) = (arch(), (JOB_VALUES / d).max(1));
    let values = (x.par_chunks(rows * d), y.par_chunks_mut(rows * d));
    (values, (mean.par_chunks_mut(rows), rstd.par_chunks_mut(rows))).into_par_iter().for_each(
        |((x, y), (mean, rstd))| {
            arch.dispatch(Forward { x, gamma, beta, eps, y, mean, rstd });
        },
    );
}

/// Some rows of the forward pass.
struct Forward<'a> {
    x: &'a [f32],
    gamma: &'a [f32],
    beta: Option<&'a [f32]>,
    eps: f32,
    y: &'a mut [f32],
    mean: &'a mut [f32],
    rstd: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let d = self.gamma.len();
        let rows = self.x.chunks_exact(d).zip(self.y.chunks_exact_mut(d));
        for (i, (x, y)) in rows.enumerate() {
            let Moments { mean, m2, .. } = moments(simd, x);
            let rstd = 1.0 / (m2 / d as f64 + f64::from(self.eps)).sqrt();
            (self.mean[i], self.rstd[i]) = (mean as f32, rstd as f32);
            // Three passes, but over a row that the first-level cache holds.
            map(simd, Normalize(mean as f32, rstd as f32), x, y);
            update(simd, Product, self.gamma, y);
            if let Some(beta) = self.beta {
                update(simd, Sum, beta, y);
            }
        }
    }
}

/// `(x - mean) * rstd`.
#[derive(Clone, Copy)]
struct Normalize(f32, f32);

impl Map for Normalize {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s) -> S::f32s {
        simd.mul_f32s(simd.sub_f32s(x, simd.splat_f32s(self.0)), simd.splat_f32s(self.1))
    }
}

/// `a + b`.
#[derive(Clone, Copy)]
struct Sum;

impl Map2 for Sum {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.add_f32s(a, b)
    }
}

/// Where [`layer_norm_backward`] puts its results; everything is overwritten.
#[derive(Debug)]
pub struct LayerNormGrads<'a> {
    /// Gradient of `x`, `[rows, d]`.
    pub dx: &'a mut [f32],
    /// Gradient of `gamma`, `[d]`.
    pub dgamma: &'a mut [f32],
    /// Gradient of `beta`, `[d]`, if there is one.
    pub dbeta: Option<&'a mut [f32]>,
}

/// Gradients of [`layer_norm`], from the gradient `dy` of its output, its input and the
/// statistics it returned.
///
/// With `xhat = (x - mean) * rstd`, `t = dy * gamma` and means over a row:
/// `dx = rstd * (t - mean(t) - xhat * mean(t * xhat))`,
/// `dgamma = sum over rows of dy * xhat`, `dbeta = sum over rows of dy`.
///
/// # Panics
/// If the lengths do not fit each other.
pub fn layer_norm_backward(
    x: &[f32],
    dy: &[f32],
    gamma: &[f32],
    (mean, rstd): (&[f32], &[f32]),
    grads: LayerNormGrads<'_>,
) {
    let (d, LayerNormGrads { dx, dgamma, dbeta }) = (gamma.len(), grads);
    let len = mean.len() * d;
    assert!(x.len() == len && dy.len() == len && dx.len() == len, "tensor length");
    assert!(mean.len() == rstd.len() && dgamma.len() == d, "statistics or gamma length");
    assert!(dbeta.as_ref().is_none_or(|dbeta| dbeta.len() == d), "beta length");
    dgamma.fill(0.0);
    let mut ignored = Vec::new();
    let dbeta = dbeta.unwrap_or_else(|| {
        ignored.resize(d, 0.0);
        &mut ignored
    });
    dbeta.fill(0.0);
    if len == 0 {
        return;
    }
    let (arch, rows) = (arch(), (JOB_VALUES / d).max(1));
    let chunk = rows * d;
    let statistics = (mean.par_chunks(rows), rstd.par_chunks(rows));
    let sums: Vec<_> =
        (x.par_chunks(chunk), dy.par_chunks(chunk), dx.par_chunks_mut(chunk), statistics)
            .into_par_iter()
            .map(|(x, dy, dx, (mean, rstd))| {
                let mut sums = (vec![0.0; d], vec![0.0; d]);
                let (dgamma, dbeta) = (&mut sums.0, &mut sums.1);
                arch.dispatch(Backward { x, dy, gamma, mean, rstd, dx, dgamma, dbeta });
                sums
            })
            .collect();
    for (g, b) in &sums {
        dgamma.iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
        dbeta.iter_mut().zip(b).for_each(|(sum, b)| *sum += b);
    }
}

/// Some rows of the backward pass; `dgamma` and `dbeta` are added to.
struct Backward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    gamma: &'a [f32],
    mean: &'a [f32],
    rstd: &'a [f32],
    dx: &'a mut [f32],
    dgamma: &'a mut [f32],
    dbeta: &'a mut [f32],
}

impl WithSimd for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let d = self.gamma.len();
        let rows = self.x.chunks_exact(d).zip(self.dy.chunks_exact(d));
        for (i, ((x, dy), dx)) in rows.zip(self.dx.chunks_exact_mut(d)).enumerate() {
            let (mean, rstd) = (self.mean[i], self.rstd[i]);
            // `dx` holds `xhat` first, then `t`, and the result at last.
            map(simd, Normalize(mean, rstd), x, dx);
            add_product(simd, dy, dx, self.dgamma);
            update(simd, Sum, dy, self.dbeta);
            map2(simd, Product, dy, self.gamma, dx);
            let total = sum2(simd, First, dx, dx) / d as f64;
            let product = sum2(simd, TimesNormal(mean, rstd), dx, x) / d as f64;
            update(
                simd,
                InputGrad { mean, rstd, total: total as f32, product: product as f32 },
                x,
                dx,
            );
        }
    }
}

/// `sum += a * b` elementwise.
#[inline(always)]
fn add_product<S: Simd>(simd: S, a: &[f32], b: &[f32], sum: &mut [f32]) {
    let ((a, a_tail), (b, b_tail)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let (sum, sum_tail) = S::as_mut_simd_f32s(sum);
    for ((a, b), sum) in a.iter().zip(b).zip(sum) {
        *sum = simd.mul_add_e_f32s(*a, *b, *sum);
    }
    for ((a, b), sum) in a_tail.iter().zip(b_tail).zip(sum_tail) {
        *sum += a * b;
    }
}

/// `t * (x - mean) * rstd`.
#[derive(Clone, Copy)]
struct TimesNormal(f32, f32);

impl Map2 for TimesNormal {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, t: S::f32s, x: S::f32s) -> S::f32s {
        simd.mul_f32s(t, Normalize(self.0, self.1).apply(simd, x))
    }
}

/// `rstd * (t - total - xhat * product)`.
#[derive(Clone, Copy)]
struct InputGrad {
    mean: f32,
    rstd: f32,
    total: f32,
    product: f32,
}

impl Map2 for InputGrad {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::f32s, t: S::f32s) -> S::f32s {
        let xhat = Normalize(self.mean, self.rstd).apply(simd, x);
        let t = simd.sub_f32s(t, simd.splat_f32s(self.total));
        let t = simd.mul_add_e_f32s(xhat, simd.splat_f32s(-self.product), t);
        simd.mul_f32s(t, simd.splat_f32s(self.rstd))
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_util::{assert_close, random, slope, wide};
    use super::*;

    fn naive(x: &[f64], gamma: &[f64], beta: Option<&[f64]>) -> Vec<f64> {
        let d = gamma.len();
        let mut y = Vec::new();
        for row in x.chunks(d) {
            let mean = row.iter().sum::<f64>() / d as f64;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d as f64;
            y.extend(row.iter().enumerate().map(|(i, v)| {
                (v - mean) / (var + 1e-5).sqrt() * gamma[i] + beta.map_or(0.0, |b| b[i])
            }));
        }
        y
    }

    #[test]
    fn both_passes_match_the_definition() {
        for (rows, d) in [(1, 3), (3, 7), (5, 16), (2, 33), (70, 130), (3, 5000), (0, 4)] {
            for with_beta in [false, true] {
                check(rows, d, with_beta);
            }
        }
    }

    fn check(rows: usize, d: usize, with_beta: bool) {
        let (x, dy) = (random(rows * d, 1), random(rows * d, 2));
        let (gamma, beta) = (random(d, 3), random(d, 4));
        let beta = with_beta.then_some(&beta[..]);
        let (mut y, mut mean, mut rstd) =
            (vec![f32::NAN; rows * d], vec![0.0; rows], vec![0.0; rows]);
        layer_norm(&x, &gamma, beta, 1e-5, &mut y, &mut mean, &mut rstd);
        let (mut x64, mut gamma64, mut beta64) = (wide(&x), wide(&gamma), beta.map(wide));
        let what = format!("{rows} x {d}");
        assert_close(&y, &naive(&x64, &gamma64, beta64.as_deref()), 2e-6, &what);

        let [mut dx, mut dgamma, mut dbeta] = [rows * d, d, d].map(|n| vec![f32::NAN; n]);
        let grads = LayerNormGrads {
            dx: &mut dx,
            dgamma: &mut dgamma,
            dbeta: with_beta.then_some(&mut dbeta),
        };
        layer_norm_backward(&x, &dy, &gamma, (&mean, &rstd), grads);
        let loss = |x: &[f64], gamma: &[f64], beta: Option<&[f64]>| -> f64 {
            naive(x, gamma, beta).iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum()
        };
        let some: Vec<usize> = (0..rows * d).step_by((rows * d / 50).max(1)).collect();
        let want: Vec<f64> = some
            .iter()
            .map(|i| slope(&mut x64, *i, |x| loss(x, &gamma64, beta64.as_deref())))
            .collect();
        let got: Vec<f32> = some.iter().map(|i| dx[*i]).collect();
        assert_close(&got, &want, 2e-5, &format!("dx {what}"));
        let some: Vec<usize> = (0..d).step_by((d / 50).max(1)).collect();
        let want: Vec<f64> = some
            .iter()
            .map(|i| slope(&mut gamma64, *i, |gamma| loss(&x64, gamma, beta64.as_deref())))
            .collect();
        let got: Vec<f32> = some.iter().map(|i| dgamma[*i]).collect();
        assert_close(&got, &want, 2e-5, &format!("dgamma {what}"));
        if let Some(beta) = &mut beta64 {
            let want: Vec<f64> = some
                .iter()
                .map(|i| slope(beta, *i, |beta| loss(&x64, &gamma64, Some(beta))))
                .collect();
            let got: Vec<f32> = some.iter().map(|i| dbeta[*i]).collect();
            assert_close(&got, &want, 2e-5, &format!("dbeta {what}"));
        }
    }
}

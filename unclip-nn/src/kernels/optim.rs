//! The arithmetic of training steps over whole parameters.

use super::simd::{JOB_VALUES, Product, arch, sum2};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Hyperparameters of one [`adamw`] step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the running mean of the gradient.
    pub beta1: f32,
    /// Decay of the running mean of its square.
    pub beta2: f32,
    /// Added to the root of the latter.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Factor on the gradient, for clipping by norm; 1 otherwise.
    pub grad_scale: f32,
    /// Number of this step, from 1.
    pub step: u32,
}

/// One AdamW update of a parameter and its running means, in place; all of one length.
///
/// `g = grad_scale * grad`, `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`,
/// `param = param (1 - lr weight_decay)
/// - lr * m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps)`.
///
/// # Panics
/// If the lengths differ.
pub fn adamw(config: AdamW, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
    let len = param.len();
    assert!(grad.len() == len && m.len() == len && v.len() == len, "lengths differ");
    let (arch, factors) = (arch(), Factors::new(config));
    (
        param.par_chunks_mut(JOB_VALUES),
        grad.par_chunks(JOB_VALUES),
        m.par_chunks_mut(JOB_VALUES),
        v.par_chunks_mut(JOB_VALUES),
    )
        .into_par_iter()
        .for_each(|(param, grad, m, v)| arch.dispatch(Update { factors, param, grad, m, v }));
}

/// What every value of a step is multiplied with.
#[derive(Clone, Copy)]
struct Factors {
    scale: f32,
    beta1: f32,
    beta2: f32,
    keep: f32,
    /// `lr / (1 - beta1^step)`.
    rate: f32,
    /// `1 / (1 - beta2^step)`.
    debias: f32,
    eps: f32,
}

impl Factors {
    fn new(c: AdamW) -> Self {
        // In double precision: `1 - beta^step` cancels during the first steps.
        let bias = |beta: f32| 1.0 - f64::from(beta).powf(f64::from(c.step));
        Self {
            scale: c.grad_scale,
            beta1: c.beta1,
            beta2: c.beta2,
            keep: 1.0 - c.lr * c.weight_decay,
            rate: (f64::from(c.lr) / bias(c.beta1)) as f32,
            debias: (1.0 / bias(c.beta2)) as f32,
            eps: c.eps,
        }
    }

    /// New `(param, m, v)`.
    #[inline(always)]
    fn step<S: Simd>(self, simd: S, [p, g, m, v]: [S::f32s; 4]) -> [S::f32s; 3] {
        let g = simd.mul_f32s(g, simd.splat_f32s(self.scale));
        let gain = simd.mul_f32s(g, simd.splat_f32s(1.0 - self.beta1));
        let m = simd.mul_add_e_f32s(m, simd.splat_f32s(self.beta1), gain);
        let gain = simd.mul_f32s(simd.mul_f32s(g, g), simd.splat_f32s(1.0 - self.beta2));
        let v = simd.mul_add_e_f32s(v, simd.splat_f32s(self.beta2), gain);
        let root = simd.sqrt_f32s(simd.mul_f32s(v, simd.splat_f32s(self.debias)));
        let move_by = simd.div_f32s(
            simd.mul_f32s(m, simd.splat_f32s(-self.rate)),
            simd.add_f32s(root, simd.splat_f32s(self.eps)),
        );
        [simd.mul_add_e_f32s(p, simd.splat_f32s(self.keep), move_by), m, v]
    }
}

/// Some values of a step.
struct Update<'a> {
    factors: Factors,
    param: &'a mut [f32],
    grad: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl WithSimd for Update<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (p, p_tail) = S::as_mut_simd_f32s(self.param);
        let (g, g_tail) = S::as_simd_f32s(self.grad);
        let (m, m_tail) = S::as_mut_simd_f32s(self.m);
        let (v, v_tail) = S::as_mut_simd_f32s(self.v);
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            [*p, *m, *v] = self.factors.step(simd, [*p, *g, *m, *v]);
        }
        if !g_tail.is_empty() {
            let old = [&*p_tail, g_tail, &*m_tail, &*v_tail];
            let mut values = [simd.splat_f32s(0.0); 4];
            for i in 0..4 {
                values[i] = simd.partial_load_f32s(old[i]);
            }
            let [p, m, v] = self.factors.step(simd, values);
            simd.partial_store_f32s(p_tail, p);
            simd.partial_store_f32s(m_tail, m);
            simd.partial_store_f32s(v_tail, v);
        }
    }
}

/// `sum of x^2`, the same on any number of threads.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let arch = arch();
    // Collected first because a parallel sum would depend on how the work was split.
    let sums: Vec<f64> = x.par_chunks(JOB_VALUES).map(|x| arch.dispatch(Squares(x))).collect();
    sums.iter().sum()
}

struct Squares<'a>(&'a [f32]);

impl WithSimd for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        sum2(simd, Product, self.0, self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_util::{assert_close, random, wide};
    use super::*;

    #[test]
    fn adamw_follows_its_formula() {
        for len in [0, 1, 15, 16, 17, 40_001] {
            let [mut p, mut m, mut v] = [random(len, 1), vec![0.0; len], vec![0.0; len]];
            let [mut p64, mut m64, mut v64] = [wide(&p), wide(&m), wide(&v)];
            for step in 1..=4 {
                let c = AdamW {
                    lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1,
                    grad_scale: 0.5, step,
                };
                let g = random(len, u64::from(step) + 7);
                adamw(c, &mut p, &g, &mut m, &mut v);
                for i in 0..len {
                    let g = 0.5 * f64::from(g[i]);
                    m64[i] = 0.9 * m64[i] + 0.1 * g;
                    v64[i] = 0.999 * v64[i] + 0.001 * g * g;
                    let (mh, vh) = (m64[i] / (1.0 - 0.9_f64.powi(step as i32)),
                        v64[i] / (1.0 - 0.999_f64.powi(step as i32)));
                    p64[i] = p64[i] * (1.0 - 0.001) - 0.01 * mh / (vh.sqrt() + 1e-8);
                }
            }
            assert_close(&p, &p64, 2e-6, "param");
            assert_close(&m, &m64, 2e-6, "m");
            assert_close(&v, &v64, 2e-6, "v");
        }
    }

    #[test]
    fn sum_of_squares_matches() {
        for len in [0, 1, 17, 100_000] {
            let x = random(len, 5);
            let want: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
            assert!((sum_of_squares(&x) - want).abs() <= 1e-6 * want);
        }
    }
}

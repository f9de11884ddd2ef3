//! A deterministic sampler that looks ahead: two network calls a step.

use burn::tensor::Tensor;

use super::dpm_solver::{exponential_step, lambda};
use super::method::{Known, Reverse, Sampler, SamplingMethod, Stepped, plain};
use crate::Variances;

pub(super) const KNOWN: Known =
    Known { spellings: "heun", names: &["heun"], parse: |parameter| plain(Heun, parameter) };

/// Heun's method: a first-order step to see what x_0 will be at its end, then the step again with
/// x_0 on the line between both predictions (Karras et al. 2022, algorithm 1, use it for
/// diffusion). The last step, which ends without noise, is of first order.
///
/// Karras et al. step in the standard deviation of the noise, which falls from 20,000 to 20 in the
/// first of 25 even steps of a cosine schedule: no average of two slopes holds over that. This one
/// steps in λ, the logarithm of signal over noise, and integrates the line exactly (Cox &
/// Matthews 2002, ETD2RK).
#[derive(Debug, Clone, Copy)]
pub struct Heun;

impl SamplingMethod for Heun {
    fn spelling(&self) -> String {
        "heun".into()
    }

    fn draws_noise(&self) -> bool {
        false
    }

    fn remembers_steps(&self) -> bool {
        false
    }

    fn calls_per_step(&self) -> usize {
        2
    }

    fn start(&self, _: &Variances<'_>) -> Box<dyn Sampler> {
        Box::new(*self)
    }
}

/// How much the step's end counts: ∫e^u·u du / (h·∫e^u du) over [0, h] = 1/(1 − e^−h) − 1/h, which
/// is ½ for a short step and near 1 for a long one.
fn weight_of_the_end(h: f64) -> f64 {
    if h < 1e-4 { 0.5 + h / 12.0 } else { -1.0 / (-h).exp_m1() - 1.0 / h }
}

impl Sampler for Heun {
    fn step(&mut self, x_t: Tensor<2>, reverse: &mut Reverse<'_>) -> Stepped {
        let step = reverse.step;
        let x_0 = reverse.denoise(x_t.clone(), &step).guided(&step).x_0;
        let Some(next) = reverse.next else {
            return Stepped { x_prev: x_0.clone(), x_0 };
        };
        let ahead = exponential_step(x_t.clone(), x_0.clone(), &step);
        let ahead = reverse.denoise(ahead, &next).guided(&next).x_0;
        let end = weight_of_the_end(lambda(next.alpha_bar) - lambda(step.alpha_bar));
        let between = x_0.clone() * (1.0 - end) + ahead * end;
        Stepped { x_prev: exponential_step(x_t, between, &step), x_0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_counts_half_in_a_short_step_and_all_in_a_long_one() {
        for (h, want) in [(1e-9, 0.5), (9.9e-5, 0.5 + 9.9e-5 / 12.0), (1.1e-4, 0.5 + 1.1e-4 / 12.0)]
        {
            assert!((weight_of_the_end(h) - want).abs() < 1e-9, "{h}");
        }
        // by Simpson's rule on e^u·u and e^u
        for h in [0.01, 1.0, 7.0] {
            let n = 1000;
            let simpson = |f: &dyn Fn(f64) -> f64| -> f64 {
                let w = |i: usize| if i == 0 || i == n { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
                (0..=n).map(|i| w(i) * f(h * i as f64 / n as f64)).sum::<f64>() * h / n as f64 / 3.0
            };
            let want = simpson(&|u| u.exp() * u) / (h * simpson(&f64::exp));
            assert!((weight_of_the_end(h) - want).abs() < 1e-9, "{h}");
        }
    }
}

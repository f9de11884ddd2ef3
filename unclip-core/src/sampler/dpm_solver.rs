//! A deterministic sampler that looks back one step.

use burn::tensor::Tensor;

use super::{Past, Sampler};
use crate::{NoiseSource, Prediction, Step};

/// DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2): the diffusion equation solved
/// to second order in steps of the logarithm of the signal-to-noise ratio, by extrapolating x_0
/// from the last two predictions. The first step, and the last (whose ratio is infinite), are of
/// first order, which is DDIM.
///
/// Of timesteps that are evenly spaced, the last but one is many times longer than the one before
/// in that logarithm. The paper's formula overshoots there, so it extrapolates no further than over
/// a step as long as the last.
#[derive(Debug, Clone, Copy)]
pub struct DpmSolver;

/// λ = ln(signal / noise), half the logarithm of the signal-to-noise ratio.
fn lambda(alpha_bar: f64) -> f64 {
    0.5 * (alpha_bar / (1.0 - alpha_bar)).ln()
}

impl<const D: usize> Sampler<D> for DpmSolver {
    fn step(
        &self,
        x_t: Tensor<D>,
        prediction: Prediction<D>,
        step: &Step,
        past: Option<&Past<D>>,
        _: &mut dyn NoiseSource,
    ) -> Tensor<D> {
        let x_0 = prediction.x_0;
        if step.is_last() {
            return x_0;
        }
        let (now, next) = (lambda(step.alpha_bar), lambda(step.alpha_bar_prev));
        let x_0 = match past {
            None => x_0,
            Some(past) => {
                let ratio = ((now - lambda(past.step.alpha_bar)) / (next - now)).max(1.0);
                x_0.clone() * (1.0 + 0.5 / ratio) - past.x_0.clone() * (0.5 / ratio)
            }
        };
        let noise_left = ((1.0 - step.alpha_bar_prev) / (1.0 - step.alpha_bar)).sqrt();
        x_t * noise_left - x_0 * (step.alpha_bar_prev.sqrt() * (now - next).exp_m1())
    }
}

//! Sampling with a chosen amount of randomness, none by default.

use burn::tensor::Tensor;

use super::{Past, Sampler, step_noise};
use crate::{NoiseSource, Prediction, Step};

/// DDIM (Song et al. 2021, eq. 12). `eta` 0 is deterministic, 1 has the variance of DDPM.
#[derive(Debug, Clone, Copy)]
pub struct Ddim {
    /// Stochasticity, in [0, 1].
    pub eta: f64,
}

impl<const D: usize> Sampler<D> for Ddim {
    fn step(
        &self,
        x_t: Tensor<D>,
        prediction: Prediction<D>,
        step: &Step,
        _: Option<&Past<D>>,
        noise: &mut dyn NoiseSource,
    ) -> Tensor<D> {
        let variance = self.eta * self.eta * step.posterior_variance();
        let random = match self.eta {
            0.0 => None,
            _ => step_noise(&x_t, step, noise),
        };
        let epsilon = prediction.epsilon(x_t, step);
        let direction = (1.0 - step.alpha_bar_prev - variance).max(0.0).sqrt();
        let x_prev = prediction.x_0 * step.alpha_bar_prev.sqrt() + epsilon * direction;
        match random {
            Some(random) => x_prev + random * variance.sqrt(),
            None => x_prev,
        }
    }
}

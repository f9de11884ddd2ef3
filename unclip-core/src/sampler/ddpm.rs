//! Ancestral sampling.

use burn::tensor::Tensor;

use super::{Past, Sampler, step_noise};
use crate::{NoiseSource, Prediction, Step, VarianceType};

/// DDPM (Ho et al. 2020, eq. 6 and 7): the posterior mean of (x_0, x_t), plus noise of the
/// variance that the network was trained for.
#[derive(Debug, Clone, Copy)]
pub struct Ddpm {
    /// Which variance to use; learned kinds read [`Prediction::log_variance`].
    pub variance: VarianceType,
}

/// The posterior mean √ᾱ_prev·β/(1 − ᾱ)·x_0 + √α·(1 − ᾱ_prev)/(1 − ᾱ)·x_t, with α = 1 − β.
pub(crate) fn posterior_mean<const D: usize>(
    x_0: Tensor<D>,
    x_t: Tensor<D>,
    step: &Step,
) -> Tensor<D> {
    let from_x_0 = step.alpha_bar_prev.sqrt() * step.beta / (1.0 - step.alpha_bar);
    let from_x_t = (1.0 - step.beta).sqrt() * (1.0 - step.alpha_bar_prev) / (1.0 - step.alpha_bar);
    x_0 * from_x_0 + x_t * from_x_t
}

impl<const D: usize> Sampler<D> for Ddpm {
    fn step(
        &self,
        x_t: Tensor<D>,
        prediction: Prediction<D>,
        step: &Step,
        _: Option<&Past<D>>,
        noise: &mut dyn NoiseSource,
    ) -> Tensor<D> {
        let epsilon = step_noise(&x_t, step, noise);
        let mean = posterior_mean(prediction.x_0, x_t, step);
        let Some(epsilon) = epsilon else { return mean };
        match (self.variance, prediction.log_variance) {
            (VarianceType::FixedLarge, _) => mean + epsilon * step.beta.sqrt(),
            (VarianceType::FixedSmall, _) | (_, None) => {
                mean + epsilon * step.posterior_variance().max(1e-20).sqrt()
            }
            (_, Some(log_variance)) => mean + epsilon * (log_variance * 0.5).exp(),
        }
    }
}

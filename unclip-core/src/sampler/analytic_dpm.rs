//! Ancestral sampling with the best variance that one number for each step can be.

use burn::tensor::Tensor;

use super::ddpm::{posterior_mean, weight_of_x_0};
use super::method::{Known, Reverse, Sampler, SamplingMethod, Stepped, plain};
use crate::{InvalidSetting, Step, Variances};

pub(super) const KNOWN: Known = Known {
    spellings: "analytic_dpm",
    names: &["analytic_dpm", "analytic"],
    parse: |parameter| plain(AnalyticDpm, parameter),
};

/// Analytic-DPM (Bao et al. 2022, theorem 1): DDPM with the posterior's variance plus that of the
/// mean, which is uncertain as x_0 is: β̃ + w²·Var(x_0 | x_t), where w is the weight of x_0 in the
/// mean. The paper's prior is sampled like this. The stage's [`Uncertainty`](crate::Uncertainty)
/// has to be known.
///
/// A guidance gradient moves the mean by that variance times the gradient.
#[derive(Debug, Clone, Copy)]
pub struct AnalyticDpm;

impl SamplingMethod for AnalyticDpm {
    fn spelling(&self) -> String {
        "analytic_dpm".into()
    }

    fn suits(&self, variances: &Variances<'_>) -> Result<(), InvalidSetting> {
        if variances.uncertainty.is_some() {
            return Ok(());
        }
        let expected = "another one: this one needs a table that the model does not have \
                        (diffusion.uncertainty in the stage's config.json)";
        Err(InvalidSetting::new("sampler", self.spelling(), expected))
    }

    /// Makes a sampler for a new run.
    ///
    /// # Panics
    /// For a stage that it does not suit.
    fn start(&self, variances: &Variances<'_>) -> Box<dyn Sampler> {
        let uncertainty = variances.uncertainty.cloned().expect("a stage that the sampler suits");
        let timesteps = variances.timesteps;
        Box::new(Analytic(Box::new(move |step| uncertainty.variance(step, timesteps))))
    }
}

/// With the variance of x_0 at a step.
struct Analytic(Box<dyn Fn(&Step) -> f64>);

impl Sampler for Analytic {
    fn step(&mut self, x_t: Tensor<2>, reverse: &mut Reverse<'_>) -> Stepped {
        let step = reverse.step;
        let prediction = reverse.denoise(x_t.clone(), &step);
        let epsilon = reverse.noise(&x_t);
        let x_0 = prediction.x_0.clone();
        let variance = step.posterior_variance() + weight_of_x_0(&step).powi(2) * self.0(&step);
        let mut x_prev = posterior_mean(prediction.x_0, x_t, &step);
        if let Some(gradient) = prediction.gradient {
            x_prev = x_prev + gradient * variance;
        }
        if let Some(epsilon) = epsilon {
            x_prev = x_prev + epsilon * variance.sqrt();
        }
        Stepped { x_prev, x_0 }
    }
}

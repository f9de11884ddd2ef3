//! Ancestral sampling with the best variance that one number for each step can be.

use super::ddpm::{Ancestral, Deviation, weight_of_x_0};
use super::method::{Known, Sampler, SamplingMethod, plain};
use crate::{InvalidSetting, Variances};

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

    fn remembers_steps(&self) -> bool {
        false
    }

    /// Makes a sampler for a new run.
    ///
    /// # Panics
    /// For a stage that it does not suit.
    fn start(&self, variances: &Variances<'_>) -> Box<dyn Sampler> {
        let uncertainty = variances.uncertainty.cloned().expect("a stage that the sampler suits");
        let timesteps = variances.timesteps;
        Ancestral::boxed(move |_, step| {
            let left = weight_of_x_0(step).powi(2) * uncertainty.variance(step, timesteps);
            Deviation::Fixed((step.posterior_variance() + left).sqrt())
        })
    }
}

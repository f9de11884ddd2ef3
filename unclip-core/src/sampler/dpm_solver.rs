//! A deterministic sampler that looks back one step.

use burn::tensor::Tensor;

use super::method::{Known, Reverse, Sampler, SamplerKind, SamplingMethod, Stepped};
use crate::{InvalidSetting, Step, Variances};

pub(super) const KNOWN: Known = Known {
    spellings: "dpm_solver or dpm_solver:published",
    names: &["dpm_solver", "dpm_solver++", "dpm++", "dpm++_2m", "dpmpp", "dpmpp_2m"],
    parse: |parameter| parse(parameter),
};

/// DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", algorithm 2): the diffusion equation solved
/// to second order in steps of the logarithm of the signal-to-noise ratio, by extrapolating x_0
/// from the last two predictions. The first step, and the last (whose ratio is infinite), are of
/// first order, which is DDIM.
#[derive(Debug, Clone, Copy, Default)]
pub struct DpmSolver {
    /// Whether to extrapolate without a limit, as published.
    ///
    /// With evenly spaced timesteps, the last step but one is many times longer in that logarithm
    /// than the one before it, and the published formula overshoots there. By default,
    /// extrapolation reaches no further than a step as long as the previous one. With
    /// [`Spacing::LogSnr`](crate::Spacing::LogSnr) all steps are equally long, and the limit hardly
    /// matters.
    pub published: bool,
}

fn parse(parameter: Option<&str>) -> Result<SamplerKind, InvalidSetting> {
    match parameter {
        None => Ok(DpmSolver { published: false }.into()),
        Some("published") => Ok(DpmSolver { published: true }.into()),
        Some(found) => {
            let name = "parameter of the sampler dpm_solver";
            Err(InvalidSetting::new(name, found, "published, or none"))
        }
    }
}

impl SamplingMethod for DpmSolver {
    fn spelling(&self) -> String {
        if self.published { "dpm_solver:published".into() } else { "dpm_solver".into() }
    }

    fn draws_noise(&self) -> bool {
        false
    }

    fn start(&self, _: &Variances<'_>) -> Box<dyn Sampler> {
        Box::new(Multistep { published: self.published, past: None })
    }
}

struct Multistep {
    published: bool,
    /// What was predicted one step before, and where.
    past: Option<(Tensor<2>, Step)>,
}

/// λ = ln(signal / noise), half the logarithm of the signal-to-noise ratio.
pub(super) fn lambda(alpha_bar: f64) -> f64 {
    0.5 * (alpha_bar / (1.0 - alpha_bar)).ln()
}

/// The first-order step with x_0 held: √((1 − ᾱ_prev)/(1 − ᾱ))·x_t − √ᾱ_prev·(e^−h − 1)·x_0, where
/// h is the growth of λ.
pub(super) fn exponential_step(x_t: Tensor<2>, x_0: Tensor<2>, step: &Step) -> Tensor<2> {
    let (now, next) = (lambda(step.alpha_bar), lambda(step.alpha_bar_prev));
    let noise_left = ((1.0 - step.alpha_bar_prev) / (1.0 - step.alpha_bar)).sqrt();
    x_t * noise_left - x_0 * (step.alpha_bar_prev.sqrt() * (now - next).exp_m1())
}

impl Sampler for Multistep {
    fn step(&mut self, x_t: Tensor<2>, reverse: &mut Reverse<'_>) -> Stepped {
        let step = reverse.step;
        let x_0 = reverse.denoise(x_t.clone(), &step).guided(&step).x_0;
        let past = self.past.replace((x_0.clone(), step));
        if step.is_last() {
            return Stepped { x_prev: x_0.clone(), x_0 };
        }
        let (now, next) = (lambda(step.alpha_bar), lambda(step.alpha_bar_prev));
        let extrapolated = match past {
            None => x_0.clone(),
            Some((past, at)) => {
                let ratio = (now - lambda(at.alpha_bar)) / (next - now);
                let ratio = if self.published { ratio } else { ratio.max(1.0) };
                x_0.clone() * (1.0 + 0.5 / ratio) - past * (0.5 / ratio)
            }
        };
        Stepped { x_prev: exponential_step(x_t, extrapolated, &step), x_0 }
    }
}

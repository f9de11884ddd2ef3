//! Sampling with a chosen amount of randomness, none by default.

use burn::tensor::Tensor;

use super::method::{Known, Reverse, Sampler, SamplerKind, SamplingMethod, Stepped};
use crate::{InvalidSetting, Variances};

pub(super) const KNOWN: Known =
    Known { spellings: "ddim or ddim:ETA", names: &["ddim"], parse: |parameter| parse(parameter) };

/// DDIM (Song et al. 2021, eq. 12). `eta` 0 is deterministic, 1 has the variance of DDPM.
///
/// A guidance gradient shifts the noise estimate (Dhariwal & Nichol 2021, algorithm 2).
#[derive(Debug, Clone, Copy)]
pub struct Ddim {
    /// Stochasticity, in [0, 1].
    pub eta: f64,
}

const NAME: &str = "eta of the sampler ddim";

fn parse(parameter: Option<&str>) -> Result<SamplerKind, InvalidSetting> {
    let method = Ddim { eta: eta_of(NAME, parameter)? };
    method.validate()?;
    Ok(method.into())
}

/// The eta that a parameter spells, 0 if there is none.
pub(super) fn eta_of(name: &str, parameter: Option<&str>) -> Result<f64, InvalidSetting> {
    let refused = |eta: &str| InvalidSetting::new(name, format!("{eta:?}"), "a number from 0 to 1");
    parameter.map_or(Ok(0.0), |eta| eta.parse().map_err(|_| refused(eta)))
}

/// How a method with an eta is spelled.
pub(super) fn spelled_with(eta: f64, name: &str) -> String {
    if eta == 0.0 { name.into() } else { format!("{name}:{eta}") }
}

impl SamplingMethod for Ddim {
    fn spelling(&self) -> String {
        spelled_with(self.eta, "ddim")
    }

    fn validate(&self) -> Result<(), InvalidSetting> {
        InvalidSetting::check_range(NAME, self.eta, 0.0, 1.0)
    }

    fn draws_noise(&self) -> bool {
        self.eta != 0.0
    }

    fn remembers_steps(&self) -> bool {
        false
    }

    fn start(&self, _: &Variances<'_>) -> Box<dyn Sampler> {
        Box::new(*self)
    }
}

impl Sampler for Ddim {
    fn step(&mut self, x_t: Tensor<2>, reverse: &mut Reverse<'_>) -> Stepped {
        let step = reverse.step;
        let prediction = reverse.denoise(x_t.clone(), &step).guided(&step);
        let random = if self.eta == 0.0 { None } else { reverse.noise(&x_t) };
        let variance = self.eta * self.eta * step.posterior_variance();
        // the last step draws none, also if it ends with some noise
        let variance = if random.is_some() { variance } else { 0.0 };
        let epsilon = prediction.epsilon(x_t, &step);
        let direction = (1.0 - step.alpha_bar_prev - variance).max(0.0).sqrt();
        let x_0 = prediction.x_0;
        let x_prev = x_0.clone() * step.alpha_bar_prev.sqrt() + epsilon * direction;
        let x_prev = match random {
            Some(random) => x_prev + random * variance.sqrt(),
            None => x_prev,
        };
        Stepped { x_prev, x_0 }
    }
}

//! DDIM that lands a timestep early.

use burn::tensor::Tensor;

use super::ddim::{eta_of, spelled_with};
use super::method::{Known, Reverse, Sampler, SamplerKind, SamplingMethod, Stepped};
use crate::{InvalidSetting, Variances};

pub(super) const KNOWN: Known = Known {
    spellings: "early_ddim or early_ddim:ETA",
    names: &["early_ddim"],
    parse: |parameter| parse(parameter),
};

/// DDIM as DALLE2-pytorch samples its prior: a step ends at the noise of the timestep before the one
/// that the next step starts from, and its randomness is that between such noises. `eta` as in
/// [`Ddim`](crate::Ddim); the reference has 1. The noise is the predicted one, though the clean sample is
/// clamped. The last step ends at the clean sample.
#[derive(Debug, Clone, Copy)]
pub struct EarlyDdim {
    /// Stochasticity, in [0, 1].
    pub eta: f64,
}

const NAME: &str = "eta of the sampler early_ddim";

fn parse(parameter: Option<&str>) -> Result<SamplerKind, InvalidSetting> {
    let method = EarlyDdim { eta: eta_of(NAME, parameter)? };
    method.validate()?;
    Ok(method.into())
}

impl SamplingMethod for EarlyDdim {
    fn spelling(&self) -> String {
        spelled_with(self.eta, "early_ddim")
    }

    fn validate(&self) -> Result<(), InvalidSetting> {
        InvalidSetting::check_range(NAME, self.eta, 0.0, 1.0)
    }

    fn draws_noise(&self) -> bool {
        self.eta != 0.0
    }

    /// A step ends off the training schedule, so that adding noise cannot undo it.
    fn remembers_steps(&self) -> bool {
        true
    }

    fn start(&self, _: &Variances<'_>) -> Box<dyn Sampler> {
        Box::new(*self)
    }
}

impl Sampler for EarlyDdim {
    fn step(&mut self, x_t: Tensor<2>, reverse: &mut Reverse<'_>) -> Stepped {
        let (step, next) = (reverse.step, reverse.next);
        let prediction = reverse.denoise(x_t.clone(), &step).guided(&step);
        let Some(next) = next else {
            return Stepped { x_prev: prediction.x_0.clone(), x_0: prediction.x_0 };
        };
        let (from, to) = (step.alpha_bar_before, next.alpha_bar_before);
        let random = if self.eta == 0.0 { None } else { reverse.noise(&x_t) };
        // from the first timestep on, there is no noise that could be drawn anew
        let posterior =
            if from < 1.0 { (1.0 - from / to) * (1.0 - to) / (1.0 - from) } else { 0.0 };
        let variance = self.eta * self.eta * posterior;
        let epsilon = prediction.unclamped_epsilon(x_t, &step);
        let x_0 = prediction.x_0;
        let direction = (1.0 - to - variance).max(0.0).sqrt();
        let x_prev = x_0.clone() * to.sqrt() + epsilon * direction;
        let x_prev = match random {
            Some(random) => x_prev + random * variance.sqrt(),
            None => x_prev,
        };
        Stepped { x_prev, x_0 }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::{
        BetaSchedule, Denoiser, DiffusionConfig, Draw, NoiseSchedule, NoiseSource,
        Parameterization, Prediction, Spacing, Step,
    };

    struct Half;

    impl Denoiser<2> for Half {
        fn denoise(&self, x_t: Tensor<2>, _: &Step) -> Prediction<2> {
            Prediction::new(x_t * 0.5)
        }
    }

    struct Ones;

    impl NoiseSource for Ones {
        fn draw(&mut self, _: Draw, shape: &[usize]) -> TensorData {
            TensorData::new(vec![1f32; shape.iter().product()], shape.to_vec())
        }
    }

    /// The reference's step, in double precision, with x_0 = x_t / 2 and noise of 1.
    fn walk(schedule: &NoiseSchedule, eta: f64) -> f64 {
        let steps: Vec<Step> = schedule.reverse_steps().collect();
        let mut x = 1.5f64;
        for pair in steps.windows(2) {
            let (from, to) = (pair[0].alpha_bar_before, pair[1].alpha_bar_before);
            let x_0 = x / 2.0;
            let noise = (x - pair[0].alpha_bar.sqrt() * x_0) / (1.0 - pair[0].alpha_bar).sqrt();
            let c1 = eta * ((1.0 - from / to) * (1.0 - to) / (1.0 - from)).sqrt();
            x = x_0 * to.sqrt() + c1 + (1.0 - to - c1 * c1).sqrt() * noise;
        }
        x / 2.0
    }

    #[test]
    fn steps_are_those_of_the_formula() {
        let training = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
        let spacing = Spacing::Between { with_first: true };
        let schedule = training.respaced(&spacing.timesteps(63, &training).unwrap()).unwrap();
        let step = schedule.step(62);
        assert_eq!(step.timestep, 984);
        assert!((step.alpha_bar_before - training.alpha_bars()[983]).abs() < 1e-15);
        for eta in [0.0, 0.5, 1.0] {
            let config = DiffusionConfig::cosine(Parameterization::Sample);
            let mut sampler = EarlyDdim { eta }.start(&config.variances());
            let x_t = Tensor::<2>::from_floats([[1.5]], &Device::flex());
            let mut observer = |_: crate::StepEvent<'_, 2>| std::ops::ControlFlow::Continue(());
            let drawn =
                crate::sample(&Half, &mut *sampler, &schedule, x_t, &mut Ones, &mut observer);
            let found: f32 = drawn.unwrap().into_scalar();
            let expected = walk(&schedule, eta);
            assert!((f64::from(found) / expected - 1.0).abs() < 1e-5, "{found}, not {expected}");
        }
    }
}

//! The one reverse loop, and the samplers that take its steps.

mod ddim;
mod ddpm;
mod dpm_solver;
mod invert;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

pub use ddim::Ddim;
pub use ddpm::Ddpm;
pub(crate) use ddpm::posterior_mean;
pub use dpm_solver::DpmSolver;
pub use invert::invert;

use crate::{
    Denoiser, Draw, Interrupted, InvalidSetting, NoiseSchedule, NoiseSource, Observer, Prediction,
    Step, StepEvent,
};

/// Takes one reverse step. Pure: no loop, and no randomness but what `noise` gives.
pub trait Sampler<const D: usize> {
    /// From x_t to x_{t−1}. `past` is what was predicted one step before, if this is not the first.
    ///
    /// # Shapes
    /// - `x_t`, `prediction.x_0`, result: `[batch, channels, ..]`
    fn step(
        &self,
        x_t: Tensor<D>,
        prediction: Prediction<D>,
        step: &Step,
        past: Option<&Past<D>>,
        noise: &mut dyn NoiseSource,
    ) -> Tensor<D>;
}

/// The prediction of the step before, which was one step noisier.
#[derive(Debug, Clone)]
pub struct Past<const D: usize> {
    /// The clean sample as it was predicted then, `[batch, channels, ..]`.
    pub x_0: Tensor<D>,
    /// That step.
    pub step: Step,
}

/// A sampler by name, as options and configurations spell it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// Ancestral sampling (Ho et al. 2020).
    Ddpm,
    /// Deterministic sampling, eta 0 (Song et al. 2021).
    Ddim,
    /// DPM-Solver++(2M), deterministic and of second order (Lu et al. 2022).
    DpmSolver,
}

impl std::str::FromStr for SamplerKind {
    type Err = InvalidSetting;

    fn from_str(name: &str) -> Result<Self, InvalidSetting> {
        let known = Self::ALL.map(|(name, _)| name).join(", ");
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, kind)| *kind).ok_or_else(|| InvalidSetting::new("sampler", name, known))
    }
}

impl SamplerKind {
    /// Every sampler, by its name in options and configurations.
    pub const ALL: [(&str, Self); 3] =
        [("ddpm", Self::Ddpm), ("ddim", Self::Ddim), ("dpm_solver", Self::DpmSolver)];

    /// The sampler, given the variance that the network was trained for.
    pub fn sampler<const D: usize>(self, variance: crate::VarianceType) -> Box<dyn Sampler<D>> {
        match self {
            Self::Ddpm => Box::new(Ddpm { variance }),
            Self::Ddim => Box::new(Ddim { eta: 0.0 }),
            Self::DpmSolver => Box::new(DpmSolver),
        }
    }
}

/// Walks a schedule from its noisiest step to its cleanest and returns the sample.
///
/// `x_t` is the start: pure noise, or an encoded sample. After every step the observer hears of it
/// and may stop the loop.
///
/// # Errors
/// [`Interrupted`] when the observer asked to stop.
pub fn sample<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    sampler: &dyn Sampler<D>,
    schedule: &NoiseSchedule,
    mut x_t: Tensor<D>,
    noise: &mut dyn NoiseSource,
    observer: &mut dyn Observer<D>,
) -> Result<Tensor<D>, Interrupted> {
    let total = schedule.len();
    let mut past = None;
    for (done, step) in schedule.reverse_steps().enumerate() {
        let prediction = denoiser.denoise(x_t.clone(), &step);
        let x_0 = prediction.x_0.clone();
        x_t = sampler.step(x_t, prediction, &step, past.as_ref(), noise);
        let event = StepEvent { index: done, total, timestep: step.timestep, x_0: &x_0 };
        if observer.on_step(event).is_break() {
            return Err(Interrupted { done: done + 1, total });
        }
        past = Some(Past { x_0, step });
    }
    Ok(x_t)
}

/// The noise of one reverse step, or `None` at the last, which adds none.
fn step_noise<const D: usize>(
    x_t: &Tensor<D>,
    step: &Step,
    noise: &mut dyn NoiseSource,
) -> Option<Tensor<D>> {
    (!step.is_last()).then(|| noise.tensor(Draw::Step(step.index), x_t.dims(), &x_t.device()))
}

//! How noise grows: beta schedules, their cumulative products, and respaced (shorter) schedules.
//!
//! All scalars are `f64` on the host; they meet tensors only as scalars, or as one gathered vector
//! in training. This file knows nothing of networks.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{InvalidSetting, Limit, Timesteps};

/// Largest variance that a single step may add, as in Improved DDPM.
const MAX_BETA: f64 = 0.999;

/// Least signal variance of the noisiest step: below it, x_0 cannot be found in f32.
const MIN_ALPHA_BAR: f64 = 1e-30;

/// The rule by which the per-step variance beta grows with the timestep.
///
/// Source: DDPM (Ho et al. 2020) for `Linear`, latent diffusion (Rombach et al. 2022) for
/// `ScaledLinear`, Improved DDPM (Nichol & Dhariwal 2021, eq. 17) for `SquaredCosine`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BetaSchedule {
    /// beta rises linearly from `start` to `end`; DDPM uses 1e-4 and 0.02 for 1000 steps.
    Linear {
        /// beta of the first step.
        start: f64,
        /// beta of the last step.
        end: f64,
    },
    /// The square root of beta rises linearly; in Stable Diffusion and Kandinsky, from 0.00085 to
    /// 0.012 for 1000 steps.
    ScaledLinear {
        /// beta of the first step.
        start: f64,
        /// beta of the last step.
        end: f64,
    },
    /// alpha_bar(t) = cos²((t + 0.008) / 1.008 · π/2), each beta at most 0.999.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

impl BetaSchedule {
    /// The `n` betas of the schedule, from the first timestep to the last.
    ///
    /// # Errors
    /// `n` below 2 or above [`Limit::Steps`], or a linear schedule that leaves (0, 0.999].
    pub fn betas(&self, n: usize) -> Result<Vec<f64>, InvalidSetting> {
        if n < 2 {
            return Err(InvalidSetting::new("num_train_timesteps", n, "at least 2"));
        }
        Limit::Steps.check_len("num_train_timesteps", n)?;
        match *self {
            Self::Linear { start, end } => {
                check_betas(start, end).map_err(|error| error.within("beta_schedule.linear"))?;
                Ok(rising_betas(start, end, n, |beta| beta, |beta| beta))
            }
            Self::ScaledLinear { start, end } => {
                check_betas(start, end)
                    .map_err(|error| error.within("beta_schedule.scaled_linear"))?;
                Ok(rising_betas(start, end, n, f64::sqrt, |root| root * root))
            }
            Self::SquaredCosine => Ok((0..n)
                .map(|i| (1.0 - cosine_alpha_bar(i + 1, n) / cosine_alpha_bar(i, n)).min(MAX_BETA))
                .collect()),
        }
    }
}

fn check_betas(start: f64, end: f64) -> Result<(), InvalidSetting> {
    InvalidSetting::check_range("start", start, 1e-12, MAX_BETA)?;
    InvalidSetting::check_range("end", end, start, MAX_BETA)
}

/// Betas that rise linearly after `to`; `back` undoes it.
fn rising_betas(
    start: f64,
    end: f64,
    n: usize,
    to: fn(f64) -> f64,
    back: fn(f64) -> f64,
) -> Vec<f64> {
    let (start, end) = (to(start), to(end));
    let step = (end - start) / (n - 1) as f64;
    (0..n).map(|i| back(start + step * i as f64)).collect()
}

fn cosine_alpha_bar(i: usize, n: usize) -> f64 {
    let t = i as f64 / n as f64;
    ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
}

/// One reverse step: everything that a sampler needs to know about its position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Position in this (perhaps respaced) schedule, 0 = cleanest.
    pub index: usize,
    /// The value fed to the network: the timestep of the schedule that it was trained on.
    pub timestep: usize,
    /// Signal variance left at this step, ∏(1 − beta).
    pub alpha_bar: f64,
    /// `alpha_bar` one step cleaner; at the last reverse step, that of the sample: 1, or what
    /// [`NoiseSchedule::ending_noisy`] says.
    pub alpha_bar_prev: f64,
    /// `alpha_bar` one timestep cleaner in the schedule that the network was trained on, whatever the
    /// steps of this one; 1 before the first.
    pub alpha_bar_before: f64,
    /// Variance added between the previous step of this schedule and this one.
    pub beta: f64,
    /// The least variance of a reverse step: that of the true one; at the last, where that is 0, of
    /// the step before it (Improved DDPM, Nichol & Dhariwal 2021, section 3.1).
    pub least_variance: f64,
}

impl Step {
    /// Variance of the true reverse step q(x_{t−1} | x_t, x_0): (1 − ᾱ_prev) / (1 − ᾱ) · beta.
    pub fn posterior_variance(&self) -> f64 {
        posterior_variance(self.alpha_bar, self.alpha_bar_prev)
    }

    /// Whether this is the last reverse step, which draws no noise.
    pub fn is_last(&self) -> bool {
        self.index == 0
    }
}

fn posterior_variance(alpha_bar: f64, alpha_bar_prev: f64) -> f64 {
    let beta = 1.0 - alpha_bar / alpha_bar_prev;
    (1.0 - alpha_bar_prev) / (1.0 - alpha_bar) * beta
}

/// A sequence of noise levels, cleanest first.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseSchedule {
    timesteps: Vec<usize>,
    alpha_bars: Vec<f64>,
    /// [`Step::alpha_bar_before`] by position.
    before: Vec<f64>,
    /// alpha_bar where the last reverse step ends.
    end: f64,
}

impl NoiseSchedule {
    /// The full schedule of `n` training timesteps.
    ///
    /// # Errors
    /// See [`BetaSchedule::betas`]; also betas that leave no signal.
    pub fn new(betas: BetaSchedule, n: usize) -> Result<Self, InvalidSetting> {
        let mut alpha_bar = 1.0;
        let alpha_bars: Vec<f64> = betas
            .betas(n)?
            .into_iter()
            .map(|beta| {
                alpha_bar *= 1.0 - beta;
                alpha_bar
            })
            .collect();
        if alpha_bar < MIN_ALPHA_BAR {
            let found = format!("one whose {n} steps leave a signal of {alpha_bar:e}");
            let expected = format!("at least {MIN_ALPHA_BAR:e}: fewer steps or smaller betas");
            return Err(InvalidSetting::new("beta_schedule", found, expected));
        }
        let before = [1.0].iter().chain(&alpha_bars).copied().take(n).collect();
        Ok(Self { timesteps: (0..n).collect(), alpha_bars, before, end: 1.0 })
    }

    /// The same process, reduced to fewer timesteps. [`Step::timestep`] keeps the original value,
    /// so the network needs no wrapper.
    ///
    /// # Errors
    /// A timestep that this schedule does not have.
    pub fn respaced(&self, timesteps: &Timesteps) -> Result<Self, InvalidSetting> {
        let timesteps = timesteps.as_slice();
        if let Some(&t) = timesteps.last().filter(|&&t| t >= self.len()) {
            return Err(InvalidSetting::new("timestep", t, format!("less than {}", self.len())));
        }
        let at = |values: &[f64]| timesteps.iter().map(|&t| values[t]).collect();
        let (alpha_bars, before) = (at(&self.alpha_bars), at(&self.before));
        Ok(Self { timesteps: timesteps.to_vec(), alpha_bars, before, end: self.end })
    }

    /// The same schedule, but its last reverse step ends at the noise of its first timestep, not at
    /// none (diffusers' `set_alpha_to_one: false`, for networks that were trained on a sample with
    /// that much noise). DDPM and DDIM end there; DPM-Solver++ and Heun end at the clean sample, as
    /// published.
    #[must_use]
    pub fn ending_noisy(self) -> Self {
        Self { end: self.alpha_bars[0], ..self }
    }

    /// The `n` cleanest steps: where a sample that is not pure noise starts.
    ///
    /// # Errors
    /// `n` is 0, or more than there are.
    pub fn cleanest(&self, n: usize) -> Result<Self, InvalidSetting> {
        if !(1..=self.len()).contains(&n) {
            let expected = format!("1 to {}", self.len());
            return Err(InvalidSetting::new("steps to begin with", n, expected));
        }
        Ok(Self {
            timesteps: self.timesteps[..n].into(),
            alpha_bars: self.alpha_bars[..n].into(),
            before: self.before[..n].into(),
            end: self.end,
        })
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.timesteps.len()
    }

    /// Whether there is no step; never true of a schedule built by this type.
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// alpha_bar by position, strictly decreasing.
    pub fn alpha_bars(&self) -> &[f64] {
        &self.alpha_bars
    }

    /// The step at position `index`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn step(&self, index: usize) -> Step {
        let alpha_bar = self.alpha_bars[index];
        let alpha_bar_prev = match index {
            0 => self.end,
            i => self.alpha_bars[i - 1],
        };
        let own = posterior_variance(alpha_bar, alpha_bar_prev);
        let next = self.alpha_bars.get(index + 1).filter(|_| own <= 0.0);
        Step {
            index,
            timestep: self.timesteps[index],
            alpha_bar,
            alpha_bar_prev,
            alpha_bar_before: self.before[index],
            beta: 1.0 - alpha_bar / alpha_bar_prev,
            least_variance: next.map_or(own, |&next| posterior_variance(next, alpha_bar)),
        }
    }

    /// Every step from the noisiest to the cleanest: the order of sampling.
    pub fn reverse_steps(&self) -> impl Iterator<Item = Step> + '_ {
        (0..self.len()).rev().map(|index| self.step(index))
    }

    /// Draws x_t from q(x_t | x_0) = √ᾱ·x_0 + √(1 − ᾱ)·epsilon, one timestep per row.
    ///
    /// # Shapes
    /// - `x_0`, `epsilon`, result: `[batch, ..]`
    /// - `indices`: `batch` positions in this schedule
    pub fn add_noise<const D: usize>(
        &self,
        x_0: Tensor<D>,
        epsilon: Tensor<D>,
        indices: &[usize],
    ) -> Tensor<D> {
        let device = x_0.device();
        let signal = self.gather(indices, &device, |step| step.alpha_bar.sqrt());
        let noise = self.gather(indices, &device, |step| (1.0 - step.alpha_bar).sqrt());
        x_0 * signal + epsilon * noise
    }

    /// One scalar per row, shaped `[batch, 1, ..]` to broadcast over a batch.
    pub fn gather<const D: usize>(
        &self,
        indices: &[usize],
        device: &Device,
        f: impl Fn(Step) -> f64,
    ) -> Tensor<D> {
        let values: Vec<f32> = indices.iter().map(|&i| f(self.step(i)) as f32).collect();
        let mut shape = [1; D];
        shape[0] = values.len();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// The timesteps that the network was trained on, for the given positions: `[batch]`.
    pub fn gather_timesteps(&self, indices: &[usize], device: &Device) -> Tensor<1> {
        let values: Vec<f32> = indices.iter().map(|&i| self.timesteps[i] as f32).collect();
        Tensor::from_data(TensorData::new(values, [indices.len()]), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine() -> NoiseSchedule {
        NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap()
    }

    #[test]
    fn alpha_bar_falls_strictly_and_betas_stay_in_range() {
        let linear = BetaSchedule::Linear { start: 1e-4, end: 0.02 };
        let scaled = BetaSchedule::ScaledLinear { start: 0.00085, end: 0.012 };
        for schedule in [BetaSchedule::SquaredCosine, linear, scaled] {
            for n in [2, 10, 1000] {
                let noise = NoiseSchedule::new(schedule, n).unwrap();
                assert!(noise.alpha_bars().windows(2).all(|w| w[1] < w[0]));
                assert!(schedule.betas(n).unwrap().iter().all(|&b| b > 0.0 && b <= MAX_BETA));
            }
        }
    }

    #[test]
    fn published_values_of_the_cosine_schedule() {
        let schedule = cosine();
        let expected = [
            (0, 0.999958715775178, 1e-12),
            (100, 0.971575618, 1e-6),
            (500, 0.492285043, 1e-6),
            (900, 0.0236161072, 1e-6),
            (990, 1.9671733e-4, 1e-8),
            (999, 2.4287669e-9, 1e-14),
        ];
        for (i, alpha_bar, tolerance) in expected {
            let error = (schedule.alpha_bars()[i] - alpha_bar).abs();
            assert!(error < tolerance, "alpha_bar[{i}] off by {error}");
        }
    }

    #[test]
    fn published_value_of_the_linear_schedule() {
        let betas = BetaSchedule::Linear { start: 1e-4, end: 0.02 };
        let schedule = NoiseSchedule::new(betas, 1000).unwrap();
        assert!((schedule.alpha_bars()[999] / 4.03583035e-5 - 1.0).abs() < 1e-5);
    }

    #[test]
    fn published_value_of_the_scaled_linear_schedule() {
        let betas = BetaSchedule::ScaledLinear { start: 0.00085, end: 0.012 };
        let schedule = NoiseSchedule::new(betas, 1000).unwrap();
        // Stable Diffusion's alphas_cumprod[0] and [999]
        assert!((schedule.alpha_bars()[0] - 0.99915).abs() < 1e-12);
        assert!((schedule.alpha_bars()[999] / 0.00466009508818388 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_schedule_may_end_with_the_noise_of_its_first_timestep() {
        let full = cosine().ending_noisy();
        let short = full.respaced(&Timesteps::new(vec![1, 500]).unwrap()).unwrap();
        assert_eq!(short.step(0).alpha_bar_prev, cosine().alpha_bars()[0]);
        assert_eq!(cosine().step(0).alpha_bar_prev, 1.0);
    }

    #[test]
    fn the_cleanest_steps_are_those_of_the_whole() {
        let full = cosine();
        let part = full.cleanest(3).unwrap();
        assert!(part.reverse_steps().eq((0..3).rev().map(|index| full.step(index))));
        assert!(full.cleanest(0).is_err() && full.cleanest(1001).is_err());
        assert_eq!(full.cleanest(1000).unwrap(), full);
    }

    #[test]
    fn respacing_keeps_the_noise_level_of_each_timestep() {
        let full = cosine();
        let short = full.respaced(&Timesteps::evenly_spaced(25, 1000).unwrap()).unwrap();
        assert_eq!(short.len(), 25);
        for step in short.reverse_steps() {
            assert_eq!(step.alpha_bar, full.step(step.timestep).alpha_bar);
        }
        assert_eq!(short.step(0).alpha_bar_prev, 1.0);
    }

    #[test]
    fn impossible_schedules_are_refused() {
        assert!(NoiseSchedule::new(BetaSchedule::SquaredCosine, 0).is_err());
        assert!(NoiseSchedule::new(BetaSchedule::SquaredCosine, 1).is_err());
        for (start, end) in [(f64::NAN, 0.02), (0.0, 0.02), (-0.1, 0.02), (0.02, 0.01), (0.1, 1.0)]
        {
            let betas = BetaSchedule::Linear { start, end };
            assert!(NoiseSchedule::new(betas, 10).is_err(), "{start}..{end}");
        }
    }
}

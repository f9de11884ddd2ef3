//! The `diffusion` block of every stage's configuration.

use serde::{Deserialize, Serialize};

use crate::{
    BetaSchedule, Clamped, Ddim, InvalidSetting, NoiseSchedule, Parameterization, Parameterized,
    SamplerKind, Spacing, Uncertainty, VarianceType, Variances,
};

/// How a stage was trained to denoise, and how it is sampled unless the user says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionConfig {
    /// Length of the training schedule.
    pub num_train_timesteps: usize,
    /// Rule of the training schedule.
    pub beta_schedule: BetaSchedule,
    /// Whether the last reverse step ends at the clean sample, instead of at the noise of the first
    /// timestep ([`NoiseSchedule::ending_noisy`]).
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub set_alpha_to_one: bool,
    /// What the network predicts.
    pub parameterization: Parameterization,
    /// Which variance the reverse steps have.
    pub variance: VarianceType,
    /// What a prediction leaves open, where it was measured; `analytic_dpm` needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty: Option<Uncertainty>,
    /// Largest magnitude of a predicted x_0, if it is clamped.
    pub clamp: Option<f64>,
    /// Default sampler.
    pub sampler: SamplerKind,
    /// Default number of reverse steps.
    pub steps: usize,
    /// Default choice of their timesteps.
    #[serde(default, skip_serializing_if = "Spacing::is_even")]
    pub spacing: Spacing,
    /// Default guidance scale; 1 disables guidance.
    pub guidance_scale: f64,
    /// Whether guidance acts on a learned variance as well (DALLE2-pytorch).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub guided_variance: bool,
    /// Standard deviation of the noise that sampling starts from. A little below 1, pictures are
    /// smoother (GLIDE's upsampler).
    #[serde(default = "unit", skip_serializing_if = "is_unit")]
    pub temperature: f64,
}

fn unit() -> f64 {
    1.0
}

fn is_unit(value: &f64) -> bool {
    *value == 1.0
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

impl DiffusionConfig {
    /// 1000 timesteps of a cosine schedule, a sample in [−1, 1], 25 even steps of deterministic
    /// DDIM without guidance: the base from which other configurations are derived.
    pub fn cosine(parameterization: Parameterization) -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_schedule: BetaSchedule::SquaredCosine,
            set_alpha_to_one: true,
            parameterization,
            variance: VarianceType::FixedSmall,
            uncertainty: None,
            clamp: Some(1.0),
            sampler: Ddim { eta: 0.0 }.into(),
            steps: 25,
            spacing: Spacing::Even,
            guidance_scale: 1.0,
            guided_variance: false,
            temperature: 1.0,
        }
    }

    /// Checks every field; a configuration read from disk goes through this once.
    ///
    /// # Errors
    /// Names the first field that cannot be used.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        self.schedule(self.steps, &self.spacing)?;
        crate::check_guidance_scale("guidance_scale", self.guidance_scale)?;
        if let Some(uncertainty) = &self.uncertainty {
            uncertainty.validate()?;
        }
        self.sampler.validate()?;
        self.sampler.suits(&self.variances())?;
        InvalidSetting::check_range("temperature", self.temperature, 1e-6, 1e6)?;
        match self.clamp {
            Some(limit) => InvalidSetting::check_range("clamp", limit, 1e-6, 1e6),
            None => Ok(()),
        }
    }

    /// What a sampler may know of the stage's variances.
    pub fn variances(&self) -> Variances<'_> {
        Variances {
            kind: self.variance,
            uncertainty: self.uncertainty.as_ref(),
            timesteps: self.num_train_timesteps,
        }
    }

    /// The whole training schedule.
    ///
    /// # Errors
    /// See [`NoiseSchedule::new`].
    pub fn training_schedule(&self) -> Result<NoiseSchedule, InvalidSetting> {
        let schedule = NoiseSchedule::new(self.beta_schedule, self.num_train_timesteps)?;
        Ok(if self.set_alpha_to_one { schedule } else { schedule.ending_noisy() })
    }

    /// The training schedule reduced to `steps` timesteps, chosen by `spacing`.
    ///
    /// # Errors
    /// See [`Spacing::timesteps`].
    pub fn schedule(
        &self,
        steps: usize,
        spacing: &Spacing,
    ) -> Result<NoiseSchedule, InvalidSetting> {
        let training = self.training_schedule()?;
        training.respaced(&spacing.timesteps(steps, &training)?)
    }

    /// Gives a network's output its meaning, clamp included.
    pub fn denoiser<N>(&self, network: N) -> Clamped<Parameterized<N>> {
        Clamped {
            inner: Parameterized {
                network,
                parameterization: self.parameterization,
                variance: self.variance,
            },
            limit: self.clamp,
            quantile: None,
        }
    }

    /// Output channels that the network needs for a sample of `channels` channels.
    pub fn output_channels(&self, channels: usize) -> usize {
        if self.variance.is_learned() { 2 * channels } else { channels }
    }
}

//! The `diffusion` block of every stage's configuration.

use serde::{Deserialize, Serialize};

use crate::{
    BetaSchedule, Clamped, InvalidSetting, Network, NoiseSchedule, Parameterization, Parameterized,
    SamplerKind, Timesteps, VarianceType,
};

/// How a stage was trained to denoise, and how it is sampled unless the user says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionConfig {
    /// Length of the training schedule.
    pub num_train_timesteps: usize,
    /// Rule of the training schedule.
    pub beta_schedule: BetaSchedule,
    /// What the network predicts.
    pub parameterization: Parameterization,
    /// Which variance the reverse steps have.
    pub variance: VarianceType,
    /// Largest magnitude of a predicted x_0, if it is clamped.
    pub clamp: Option<f64>,
    /// Default sampler.
    pub sampler: SamplerKind,
    /// Default number of reverse steps.
    pub steps: usize,
    /// Default guidance scale; 1 disables guidance.
    pub guidance_scale: f64,
}

impl DiffusionConfig {
    /// Checks every field; a configuration read from disk goes through this once.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        self.schedule(self.steps)?;
        crate::check_guidance_scale("guidance_scale", self.guidance_scale)?;
        match self.clamp {
            Some(limit) => InvalidSetting::check_range("clamp", limit, 1e-6, 1e6),
            None => Ok(()),
        }
    }

    /// The whole training schedule.
    ///
    /// # Errors
    /// See [`NoiseSchedule::new`].
    pub fn training_schedule(&self) -> Result<NoiseSchedule, InvalidSetting> {
        NoiseSchedule::new(self.beta_schedule, self.num_train_timesteps)
    }

    /// The training schedule seen at `steps` evenly spaced timesteps.
    ///
    /// # Errors
    /// 0 steps, or more than the training schedule has.
    pub fn schedule(&self, steps: usize) -> Result<NoiseSchedule, InvalidSetting> {
        self.training_schedule()?
            .respaced(&Timesteps::evenly_spaced(steps, self.num_train_timesteps)?)
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
        }
    }

    /// Channels that the network must give for `channels` channels of the sample.
    pub fn output_channels(&self, channels: usize) -> usize {
        match self.variance.is_learned() {
            true => 2 * channels,
            false => channels,
        }
    }
}

/// A network that can be boxed, for stages that choose between guided and plain at run time.
impl<const D: usize> Network<D> for Box<dyn Network<D> + '_> {
    fn forward(
        &self,
        x_t: burn::tensor::Tensor<D>,
        timesteps: burn::tensor::Tensor<1>,
    ) -> burn::tensor::Tensor<D> {
        (**self).forward(x_t, timesteps)
    }
}

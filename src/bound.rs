//! A stage with its condition fixed, and where its sampling starts.

use burn::tensor::Tensor;
use unclip_core::{Denoiser, DiffusionConfig, NoiseSchedule, Stage};
use unclip_nn::checkpoint::StageConfig;

use crate::{Error, StageId, StageSettings};

/// A stage whose network is there and whose condition is fixed: [`Run::sample`](crate::Run::sample) and
/// [`Run::invert`](crate::Run::invert)
/// take it, or it is called by hand.
pub struct Bound<'a, T: StageConfig, const D: usize> {
    pub(crate) stage: StageId,
    pub(crate) config: &'a T,
    pub(crate) diffusion: &'a DiffusionConfig,
    pub(crate) network: T::Network,
    pub(crate) denoiser: Box<dyn Denoiser<D>>,
    pub(crate) settings: StageSettings,
    pub(crate) shape: [usize; D],
    /// Its place in [`Run::costs`](crate::Run::costs).
    pub(crate) cost: usize,
}

impl<T: StageConfig, const D: usize> Bound<'_, T, D> {
    /// Predicts the clean sample, guidance and range included.
    pub fn denoiser(&self) -> &dyn Denoiser<D> {
        &*self.denoiser
    }

    /// The steps that were chosen.
    ///
    /// # Errors
    /// Settings of another stage, whose steps this one does not have.
    pub fn schedule(&self) -> Result<NoiseSchedule, Error> {
        Ok(self.diffusion.schedule(self.settings.steps, &self.settings.spacing)?)
    }

    /// Shape of the sample, `[batch, ..]`.
    pub fn sample_shape(&self) -> [usize; D] {
        self.shape
    }
}

/// Where sampling starts. By default at pure noise, drawn from the seeds.
#[derive(Debug, Clone, Default)]
pub struct Start<const D: usize> {
    /// A sample that is as noisy as the first step wants it, in place of the seeds' noise: what
    /// [`Run::invert`](crate::Run::invert) gives, say.
    pub x_t: Option<Tensor<D>>,
    /// How many of the steps are taken, the cleanest ones; all of them if nothing is said.
    pub steps: Option<usize>,
}

/// A configuration that both the loader and the samplers know.
pub(crate) trait Diffuses<const D: usize>:
    StageConfig + Stage<D, Network = <Self as StageConfig>::Network>
{
}

impl<const D: usize, T> Diffuses<D> for T where
    T: StageConfig + Stage<D, Network = <T as StageConfig>::Network>
{
}

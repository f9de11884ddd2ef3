//! A stage with its condition fixed, and where its sampling starts.

use burn::tensor::Tensor;
use unclip_core::{Denoiser, DiffusionConfig, NoiseSchedule, Stage};
use unclip_nn::checkpoint::StageConfig;

use crate::{Error, StageId, StageSettings};

/// A stage with its network loaded and its condition fixed, to pass to
/// [`Run::sample`](crate::Run::sample) or [`Run::invert`](crate::Run::invert), or to call by hand.
pub struct Bound<'a, T: StageConfig, const D: usize> {
    pub(crate) stage: StageId,
    pub(crate) config: &'a T,
    pub(crate) diffusion: &'a DiffusionConfig,
    pub(crate) network: T::Network,
    pub(crate) denoiser: Box<dyn Denoiser<D> + 'a>,
    pub(crate) settings: StageSettings,
    pub(crate) shape: [usize; D],
    /// Its place in [`Run::costs`](crate::Run::costs).
    pub(crate) cost: usize,
    /// Whether its samples can be shown.
    pub(crate) has_preview: bool,
}

impl<T: StageConfig, const D: usize> Bound<'_, T, D> {
    /// Predicts the clean sample, with guidance and clamping applied.
    pub fn denoiser(&self) -> &dyn Denoiser<D> {
        &*self.denoiser
    }

    /// The schedule of the chosen steps.
    ///
    /// # Errors
    /// Settings that belong to another stage and ask for steps that this one does not have.
    pub fn schedule(&self) -> Result<NoiseSchedule, Error> {
        Ok(self.diffusion.schedule(self.settings.steps, &self.settings.spacing)?)
    }

    /// Shape of the sample, `[batch, ..]`.
    pub fn sample_shape(&self) -> [usize; D] {
        self.shape
    }
}

type Preview<'a, const D: usize> = dyn Fn(&Tensor<D>) -> Option<Tensor<4>> + 'a;

/// What a loop is told of: its stage, the stage's place among the costs, and what turns a clean
/// sample into a preview.
pub(crate) struct Listened<'a, const D: usize> {
    pub(crate) stage: StageId,
    pub(crate) cost: usize,
    pub(crate) preview: Box<Preview<'a, D>>,
}

#[expect(private_bounds, reason = "the two public traits in one word")]
impl<T: Diffuses<D>, const D: usize> Bound<'_, T, D> {
    pub(crate) fn listened(&self) -> Listened<'_, D> {
        let shown = |x_0: &Tensor<D>| self.config.preview(x_0).filter(|_| self.has_preview);
        let preview = Box::new(shown);
        Listened { stage: self.stage, cost: self.cost, preview }
    }
}

/// Where sampling starts: by default at pure noise drawn from the seeds.
#[derive(Debug, Clone, Default)]
pub struct Start<const D: usize> {
    /// A sample as noisy as the first step expects, in place of the seeds' noise; for example, what
    /// [`Run::invert`](crate::Run::invert) returns.
    pub x_t: Option<Tensor<D>>,
    /// A clean sample in place of `x_t`: the seeds' noise is added to it, as much as the first of
    /// the steps wants.
    pub x_0: Option<Tensor<D>>,
    /// The sample one step cleaner than `x_t`, of an exact inversion
    /// ([`Run::invert_exactly`](crate::Run::invert_exactly)). The steps are then those that undo
    /// it, whatever the sampler.
    pub x_prev: Option<Tensor<D>>,
    /// How many of the steps to take, counted from the cleanest; all of them by default.
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

//! What a sampler is, and the methods that make one.

use std::fmt;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::{
    Denoiser, Draw, InvalidSetting, NoiseSchedule, NoiseSource, Prediction, Step, Variances,
};

/// Takes the reverse steps of one run, and may remember what it saw on the way.
///
/// A step's arithmetic is elementwise, so a sampler sees every batch as rows of numbers,
/// `[batch, values]`: one implementation serves embeddings, pictures and latents.
pub trait Sampler {
    /// Steps from x_t to x_{t−1}, and calls [`Reverse::denoise`] as often as its method needs.
    ///
    /// # Shapes
    /// - `x_t` and both results: `[batch, values]`
    fn step(&mut self, x_t: Tensor<2>, reverse: &mut Reverse<'_>) -> Stepped;
}

/// The result of a reverse step.
#[derive(Debug, Clone)]
pub struct Stepped {
    /// The sample, one step less noisy.
    pub x_prev: Tensor<2>,
    /// The clean sample as predicted at the start of the step: the preview.
    pub x_0: Tensor<2>,
}

/// One reverse step as a sampler sees it: where it starts and ends, the denoiser, the noise.
pub struct Reverse<'a> {
    /// The noise level of x_t.
    pub step: Step,
    /// The noise level of x_{t−1}; `None` at the last step.
    pub next: Option<Step>,
    denoiser: &'a dyn Denoiser<2>,
    noise: &'a mut dyn NoiseSource,
    shape: &'a [usize],
}

impl<'a> Reverse<'a> {
    /// The step at position `index` of a schedule. `shape` is that of the noise to draw,
    /// `[batch, ..]`: the sample's own.
    ///
    /// # Panics
    /// If the schedule has no such position.
    pub fn new(
        denoiser: &'a dyn Denoiser<2>,
        schedule: &NoiseSchedule,
        index: usize,
        noise: &'a mut dyn NoiseSource,
        shape: &'a [usize],
    ) -> Self {
        let next = index.checked_sub(1).map(|index| schedule.step(index));
        Self { step: schedule.step(index), next, denoiser, noise, shape }
    }

    /// The clean sample in `x_t`, which is as noisy as `step` says: [`Self::step`], or
    /// [`Self::next`] for methods that look ahead.
    pub fn denoise(&self, x_t: Tensor<2>, step: &Step) -> Prediction<2> {
        self.denoiser.denoise(x_t, step)
    }

    /// The noise of this step, `[batch, values]`; `None` at the last, which adds none.
    pub fn noise(&mut self, x_t: &Tensor<2>) -> Option<Tensor<2>> {
        let Self { step, noise, shape, .. } = self;
        (!step.is_last()).then(|| draw(&mut **noise, step.index, shape, x_t))
    }
}

/// The noise of a step, as rows like `like`; `shape` is that of the samples.
pub(super) fn draw(
    noise: &mut dyn NoiseSource,
    index: usize,
    shape: &[usize],
    like: &Tensor<2>,
) -> Tensor<2> {
    let values = noise.draw(Draw::Step(index), shape).iter::<f32>().collect();
    Tensor::from_data(TensorData::new(values, like.dims()), &like.device())
}

/// A sampling method with its parameters; [`start`](Self::start) makes a [`Sampler`] for one run.
///
/// # Example
/// A custom method: the last prediction, whatever came before.
/// ```
/// use burn::tensor::Tensor;
/// use unclip_core::*;
///
/// #[derive(Debug, Clone, Copy)]
/// struct OneLook;
///
/// impl SamplingMethod for OneLook {
///     fn spelling(&self) -> String {
///         "one_look".into()
///     }
///     fn start(&self, _: &Variances<'_>) -> Box<dyn Sampler> {
///         Box::new(*self)
///     }
/// }
///
/// impl Sampler for OneLook {
///     fn step(&mut self, x_t: Tensor<2>, reverse: &mut Reverse<'_>) -> Stepped {
///         let x_0 = reverse.denoise(x_t, &reverse.step).guided(&reverse.step).x_0;
///         Stepped { x_prev: x_0.clone(), x_0 }
///     }
/// }
///
/// let kind = SamplerKind::from(OneLook);
/// assert_eq!(kind.to_string(), "one_look");
/// ```
pub trait SamplingMethod: fmt::Debug + Send + Sync {
    /// Its name, with parameters after a colon, as options and recipes spell it. A recipe that
    /// names a custom method cannot be read back: nobody else knows what it does.
    fn spelling(&self) -> String;

    /// Checks its parameters, before anything is computed.
    ///
    /// # Errors
    /// Names the first parameter that cannot be used.
    fn validate(&self) -> Result<(), InvalidSetting> {
        Ok(())
    }

    /// Whether its steps draw noise beyond the initial noise.
    fn draws_noise(&self) -> bool {
        true
    }

    /// Whether a step builds on those before it, so that steps cannot be undone by noise as an
    /// inpainting does. Of a method that does not say, it is taken for granted.
    fn remembers_steps(&self) -> bool {
        true
    }

    /// How often a step calls the network.
    fn calls_per_step(&self) -> usize {
        1
    }

    /// Checks that it can sample such a stage.
    ///
    /// # Errors
    /// Names what the stage lacks.
    fn suits(&self, _: &Variances<'_>) -> Result<(), InvalidSetting> {
        Ok(())
    }

    /// Makes a sampler for a new run of a stage that it [suits](Self::suits).
    fn start(&self, variances: &Variances<'_>) -> Box<dyn Sampler>;
}

/// A method that options know by name.
pub(super) struct Known {
    /// Its spellings, for people.
    pub(super) spellings: &'static str,
    /// Its name here, and what others call it, in small letters with `_` for spaces.
    pub(super) names: &'static [&'static str],
    /// The method with the parameter that followed a colon.
    pub(super) parse: fn(Option<&str>) -> Result<SamplerKind, InvalidSetting>,
}

/// A sampling method as a value of options and configurations: one known by name (`ddpm`, `ddim`,
/// `analytic_dpm`, `ddim:0.5`, `early_ddim`, `dpm_solver`, `dpm_solver:published`, `heun`, `plms`,
/// `plms:v`, `belm`), or your own.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SamplerKind(Arc<dyn SamplingMethod>);

impl SamplerKind {
    /// Checks the method's parameters.
    ///
    /// # Errors
    /// Names the first parameter that cannot be used.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        self.0.validate()
    }

    /// Whether its steps draw noise beyond the initial noise.
    pub fn draws_noise(&self) -> bool {
        self.0.draws_noise()
    }

    /// Whether a step builds on those before it.
    pub fn remembers_steps(&self) -> bool {
        self.0.remembers_steps()
    }

    /// How often a step calls the network, at most.
    pub fn calls_per_step(&self) -> usize {
        self.0.calls_per_step()
    }

    /// Checks that the method can sample such a stage.
    ///
    /// # Errors
    /// Names what the stage lacks.
    pub fn suits(&self, variances: &Variances<'_>) -> Result<(), InvalidSetting> {
        self.0.suits(variances)
    }

    /// Makes a sampler for a new run of a stage that it [suits](Self::suits).
    pub fn start(&self, variances: &Variances<'_>) -> Box<dyn Sampler> {
        self.0.start(variances)
    }
}

impl<M: SamplingMethod + 'static> From<M> for SamplerKind {
    fn from(method: M) -> Self {
        Self(Arc::new(method))
    }
}

impl PartialEq for SamplerKind {
    fn eq(&self, other: &Self) -> bool {
        self.0.spelling() == other.0.spelling()
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.spelling())
    }
}

/// The method without a parameter, or the error that it takes none.
pub(super) fn plain(
    method: impl SamplingMethod + 'static,
    parameter: Option<&str>,
) -> Result<SamplerKind, InvalidSetting> {
    match parameter {
        None => Ok(method.into()),
        Some(found) => {
            let name = format!("parameter of the sampler {}", method.spelling());
            Err(InvalidSetting::new(name, found, "none: it takes no parameter"))
        }
    }
}

//! The vocabulary and the mathematics of diffusion: no layers, no files.
//!
//! A stage of unCLIP is a [`Network`]: noisy input and timestep in, raw output out. Decorators
//! turn it into a [`Denoiser`], which answers with the clean sample it sees, and [`sample`] walks
//! a [`NoiseSchedule`] with it:
//!
//! | type | from → to | what it adds |
//! |---|---|---|
//! | [`ClassifierFree`] | [`Branched`] network → network | guidance by the condition |
//! | [`Parameterized`] | network → denoiser | the meaning of the output; nothing else does |
//! | `Scored` (feature `autodiff`) | denoiser → denoiser | guidance by the gradient of a score |
//! | [`Clamped`] | denoiser → denoiser | the range of the sample |
//! | [`Known`] | denoiser → denoiser | what is known of the sample |
//! | [`ByStep`] | two denoisers → denoiser | a different one for some of the steps |
//!
//! # Example
//! With a network that knows the answer, sampling finds it in any number of steps:
//! ```
//! use burn::tensor::{Device, Tensor};
//! use unclip_core::*;
//!
//! let device = Device::flex();
//! let answer = Tensor::<2>::from_floats([[0.5, -0.25]], &device);
//! let config = DiffusionConfig::cosine(Parameterization::Sample);
//! let network = |_: Tensor<2>, _: Tensor<1>| answer.clone();
//! let mut noise = SeededNoise::new(&[42], 0);
//! let x_t = (&mut noise as &mut dyn NoiseSource).tensor(Draw::Initial, [1, 2], &device);
//! let sampled = sample(
//!     &config.denoiser(network),
//!     &mut *config.sampler.start(&config.variances()),
//!     &config.schedule(10, &Spacing::Even)?,
//!     x_t,
//!     &mut noise,
//!     &mut (),
//! )?;
//! assert!((sampled - answer.clone()).abs().max().into_scalar::<f32>() < 1e-5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[macro_use]
mod spelled;
mod denoiser;
mod diffusion;
mod embedding;
mod error;
mod guidance;
pub mod image;
mod keys_cubic;
mod known;
mod limits;
pub mod loss;
mod moves;
mod noise;
mod parts;
mod prediction;
mod printable;
mod progress;
pub mod resize;
mod resize_8bit;
pub mod sampler;
mod schedule;
#[cfg(feature = "autodiff")]
mod score;
mod spacing;
mod stage;
mod timesteps;
mod uncertainty;
mod weighting;

pub use denoiser::{Clamped, Denoiser, Network, Parameterized};
pub use diffusion::DiffusionConfig;
pub use embedding::{ImageEmbedding, TextEmbedding, normalize, slerp};
pub use error::InvalidSetting;
pub use guidance::{Branched, ByStep, ClassifierFree, check_guidance_scale};
pub use known::Known;
pub use limits::{Limit, LimitValue};
pub use noise::{Draw, NoiseSource, SeededNoise};
pub use parts::{InParts, NarrowRows, split_rows};
pub use prediction::{Parameterization, Prediction, VarianceType, clamp_keeping_nan};
pub use printable::{Printable, escaped};
pub use progress::{Interrupted, Observer, StepEvent};
pub use sampler::{
    AnalyticDpm, Belm, Ddim, Ddpm, DpmSolver, EarlyDdim, ExactStart, Heun, Kept, Plms, Resampling,
    Reverse, Sampler, SamplerKind, SamplingMethod, Stepped, inpaint, invert, invert_exactly,
    sample,
};
pub use schedule::{BetaSchedule, NoiseSchedule, Step};
#[cfg(feature = "autodiff")]
pub use score::{Reading, Score, Scored};
pub use spacing::{Spacing, TimestepRange};
pub use stage::{Guide, Stage, Steering};
pub use timesteps::Timesteps;
pub use uncertainty::{Uncertainty, Variances};
pub use weighting::Weighting;

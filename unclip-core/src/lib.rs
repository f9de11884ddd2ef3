//! The vocabulary and the mathematics of diffusion: no layers, no files.
//!
//! A stage of unCLIP is a [`Network`]: noisy input and timestep in, raw output out. Decorators
//! turn it into a [`Denoiser`], which answers with the clean sample it sees, and [`sample`] walks
//! a [`NoiseSchedule`] with it:
//!
//! | type | from → to | what it adds |
//! |---|---|---|
//! | [`ClassifierFree`] | [`Paired`] network → network | guidance by the condition |
//! | [`Parameterized`] | network → denoiser | the meaning of the output, and nothing else does |
//! | [`Guided`] | denoiser → denoiser | guidance by a gradient |
//! | [`Clamped`] | denoiser → denoiser | the range of the sample |
//!
//! # Example
//! A network that knows the answer is sampled to it in any number of steps:
//! ```
//! use burn::tensor::{Device, Tensor};
//! use unclip_core::*;
//!
//! let device = Device::flex();
//! let answer = Tensor::<2>::from_floats([[0.5, -0.25]], &device);
//! let config = DiffusionConfig {
//!     num_train_timesteps: 1000,
//!     beta_schedule: BetaSchedule::SquaredCosine,
//!     parameterization: Parameterization::Sample,
//!     variance: VarianceType::FixedSmall,
//!     clamp: Some(1.0),
//!     sampler: SamplerKind::Ddim,
//!     steps: 10,
//!     guidance_scale: 1.0,
//! };
//! let network = |_: Tensor<2>, _: Tensor<1>| answer.clone();
//! let mut noise = SeededNoise::new(&[42], 0);
//! let x_t = (&mut noise as &mut dyn NoiseSource).tensor(Draw::Initial, [1, 2], &device);
//! let sampled = sample(
//!     &config.denoiser(network),
//!     &Ddim { eta: 0.0 },
//!     &config.schedule(10)?,
//!     x_t,
//!     &mut noise,
//!     &mut (),
//! )?;
//! assert!((sampled - answer.clone()).abs().max().into_scalar::<f32>() < 1e-5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod denoiser;
mod diffusion;
mod embedding;
mod error;
mod guidance;
pub mod image;
pub mod loss;
mod noise;
mod prediction;
mod progress;
pub mod resize;
mod resize_8bit;
mod sampler;
mod schedule;
mod timesteps;

pub use denoiser::{Clamped, Denoiser, Network, Parameterized};
pub use diffusion::DiffusionConfig;
pub use embedding::{ImageEmbedding, TextEmbedding, normalize, slerp};
pub use error::InvalidSetting;
pub use guidance::{ClassifierFree, Guidance, Guided, Paired, check_guidance_scale};
pub use noise::{Draw, NoiseSource, SeededNoise};
pub use prediction::{Parameterization, Prediction, VarianceType};
pub use progress::{Interrupted, Observer, StepEvent};
pub use sampler::{Ddim, Ddpm, DpmSolver, Past, Sampler, SamplerKind, invert, sample};
pub use schedule::{BetaSchedule, NoiseSchedule, Step};
pub use timesteps::Timesteps;

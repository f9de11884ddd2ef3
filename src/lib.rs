//! unCLIP (DALL·E 2) in Rust: from a caption to a picture through CLIP's embedding space.
//!
//! The system is that of *Hierarchical Text-Conditional Image Generation with CLIP Latents* (Ramesh
//! et al. 2022): CLIP embeds the caption, a **prior** turns that into the embedding of a picture, a
//! diffusion **decoder** turns the embedding into a small picture, and **upsamplers** make it
//! large. It runs on [burn](https://burn.dev): on the CPU by default, on GPUs with the features
//! `wgpu`, `vulkan`, `metal`, `cuda` and `rocm`. The device is a value, not a type.
//!
//! # A picture
//! The crate includes a small model of colored shapes (feature `bundled`):
//! ```no_run
//! use unclip::{GenerateOptions, UnClip, device};
//!
//! let unclip = UnClip::shapes(&device("flex")?)?;
//! let options = GenerateOptions::default().with_seed(7).with_n(4);
//! let made = unclip.text_to_image("a small green star in the top left", &options)?;
//! for (i, picture) in made.pictures.iter().enumerate() {
//!     picture.save(format!("{i}.png"))?;
//! }
//! # Ok::<(), unclip::Error>(())
//! ```
//! Other models are folders: see [`Bundle`]. [`UnClip::run`] drives the stages one by one.
//!
//! # Promises
//! * Everything that comes from outside (files, captions, options) is checked; an [`Error`] names
//!   what is wrong, what was found and what was expected.
//! * The same seed gives the same picture, regardless of the batch it is made in.
//! * [`UnClip`] can be shared between threads, stopped at any step by an
//!   [observer](UnClip::observed), and used again afterwards.
//! * The library does not print, touch the network, or pick a device.
//!
//! A backend may still panic when it runs out of memory; that is beyond this crate's control.
//!
//! # Crates
//! `unclip_core` holds the mathematics of diffusion, `unclip_nn` the layers, [`clip`], [`prior`],
//! [`decoder`] and [`upsample`] the stages, and `train` (feature `train`) the training.

mod ability;
mod agreement;
mod autoencoding;
mod bound;
mod bundle;
mod classes;
mod clip_guidance;
mod control;
mod cost;
mod device;
mod edit;
mod encoding;
mod error;
mod estimate;
mod event;
mod finite;
mod hole;
mod latents;
mod layouts;
mod loops;
mod manipulate;
mod options;
mod pictures;
mod pipeline;
mod priors;
mod recipe;
mod recorded;
mod run;
mod similarity;
mod slot;
mod square;
mod stage_id;
mod stage_options;
mod trace;
mod vary;

pub use ability::Ability;
pub use bound::{Bound, Start};
pub use bundle::{Bundle, OpenOptions, TextReader};
pub use clip_guidance::{ClipGradient, ClipGuidance};
pub use cost::StageCost;
pub use device::device;
pub use edit::Subject;
pub use error::Error;
pub use estimate::{Estimate, Rate, StageEstimate};
pub use event::{Event, Observer};
pub use latents::Latents;
pub use layouts::open_autoencoder;
pub use manipulate::SHARE;
pub use options::{GenerateOptions, Settings};
pub use pictures::{
    LeftOut, Picture, PictureFormat, ReadOptions, ReadPicture, Sheet, grid, is_animation,
    picture_from_bytes, read_picture, strip, write_animation, write_picture,
};
pub use pipeline::{Generated, Observed, Residency, UnClip};
pub use priors::{ArSettings, Gallery, PriorKind, PriorSettings, RetrievalSettings};
pub use recipe::Recipe;
pub use recorded::RecordedNoise;
pub use run::Run;
pub use similarity::Similarity;
pub use slot::Slot;
pub use square::Cropped;
pub use stage_id::StageId;
pub use stage_options::{StageOptions, StageSettings};
pub use trace::Trace;
pub use vary::Variation;

pub use burn::tensor::{Device, Tensor};
pub use image::RgbImage;
pub use unclip_autoencoder as autoencoder;
pub use unclip_clip as clip;
pub use unclip_core::{
    AnalyticDpm, Belm, BetaSchedule, Ddim, Ddpm, DpmSolver, Heun, ImageEmbedding, InvalidSetting,
    Limit, Plms, Resampling, SamplerKind, Spacing, TextEmbedding, TimestepRange, slerp,
};
pub use unclip_decoder as decoder;
pub use unclip_nn::{Placement, Precision};
pub use unclip_prior as prior;
#[cfg(feature = "train")]
pub use unclip_train as train;
pub use unclip_upsample as upsample;
pub use {burn, image, unclip_core, unclip_nn};

/// The examples of the README are compiled with those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

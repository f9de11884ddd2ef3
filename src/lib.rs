//! unCLIP (DALL·E 2) in Rust: a caption to a picture through CLIP's space.
//!
//! The system is that of *Hierarchical Text-Conditional Image Generation with CLIP Latents*
//! (Ramesh et al. 2022): CLIP embeds the caption, a **prior** turns that into the embedding of a
//! picture, a diffusion **decoder** turns the embedding into a small picture, and **upsamplers**
//! make it large. It runs on [burn](https://burn.dev): on the processor by default, on GPUs by the
//! features `wgpu`, `vulkan`, `metal`, `cuda` and `rocm`. The device is a value, not a type.
//!
//! # A picture
//! A small model that knows coloured shapes is part of the crate (feature `bundled`):
//! ```no_run
//! use unclip::{GenerateOptions, UnClip, device, write_png};
//!
//! let unclip = UnClip::shapes(&device("flex")?)?;
//! let options = GenerateOptions { seed: 7, n: 4, ..Default::default() };
//! let made = unclip.text_to_image("a small green star in the top left", &options, &mut ())?;
//! for (i, (image, settings)) in made.images.iter().zip(&made.settings).enumerate() {
//!     write_png(format!("{i}.png").as_ref(), image, Some(settings))?;
//! }
//! # Ok::<(), unclip::Error>(())
//! ```
//! Other models are folders: see [`Bundle`]. [`UnClip::run`] drives the stages one by one.
//!
//! # Promises
//! * What comes from outside (files, captions, options) is checked, and answered with an [`Error`]
//!   that names the thing, what was found and what was expected.
//! * The same seed gives the same picture, whatever the batch it is made in.
//! * [`UnClip`] can be shared between threads, stopped at any step by an [`Observer`], and used
//!   again afterwards.
//! * The library does not print, touch the network, or pick a device.
//!
//! A backend may still panic when it runs out of memory; that is beyond this crate.
//!
//! # Crates
//! `unclip_core` holds the mathematics of diffusion, `unclip_nn` the layers, [`clip`], [`prior`],
//! [`decoder`] and [`upsample`] the stages, and `train` (feature `train`) the training.

mod bundle;
mod device;
mod diffusers;
mod error;
mod event;
mod options;
mod original;
mod picture;
mod pipeline;
mod recorded;
mod run;
mod settings;
mod trace;

pub use bundle::{Bundle, OpenOptions};
pub use device::device;
pub use error::Error;
pub use event::{Event, Observer, Stage};
pub use options::{GenerateOptions, MAX_IMAGES, StageOptions, StageSettings};
pub use picture::{grid, read_picture, read_settings, write_png};
pub use pipeline::{Generated, Residency, StageCost, UnClip};
pub use recorded::RecordedNoise;
pub use run::Run;
pub use settings::Settings;
pub use trace::Trace;
pub use unclip_clip as clip;
pub use unclip_decoder as decoder;
pub use unclip_nn::{Placement, Precision};
pub use unclip_prior as prior;
#[cfg(feature = "train")]
pub use unclip_train as train;
pub use unclip_upsample as upsample;
pub use {unclip_core, unclip_nn};

/// The examples of the README are compiled with those of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;

//! What each stage is trained to do on the shapes world: a step number to data, and data to a loss.

mod ar_prior;
mod clip;
mod decoder;
mod frozen;
mod noised;
mod prior;
mod source;
mod upsampler;

pub use ar_prior::{ArPriorBatch, ArPriorObjective};
pub use clip::{ClipBatch, ClipObjective, ClipTowers};
pub use decoder::{DecoderBatch, DecoderObjective};
pub use frozen::FrozenClip;
pub use noised::{NoisedBatch, NoisedObjective};
pub use prior::{PriorBatch, PriorObjective};
pub use source::{Objective, Source};
pub use upsampler::{UpsamplerBatch, UpsamplerObjective};

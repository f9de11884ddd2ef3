//! What each stage is trained to do: a step number to data, and data to a loss.

mod ar_prior;
mod batch;
mod clip;
mod contract;
mod decoder;
mod frozen;
mod noised;
mod pairs;
mod prior;
mod source;
mod upsampler;

pub use ar_prior::{ArPriorBatch, ArPriorObjective};
pub use batch::Batch;
pub use clip::{ClipBatch, ClipObjective, ClipTowers};
pub use contract::Objective;
pub use decoder::{DecoderBatch, DecoderObjective, DecoderOptions, Dropped};
pub use frozen::FrozenClip;
pub use noised::{NoisedBatch, NoisedObjective};
pub use pairs::{Among, Pairs};
pub use prior::{PriorBatch, PriorObjective};
pub use source::Source;
pub use upsampler::{UpsamplerBatch, UpsamplerObjective};

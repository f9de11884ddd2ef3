//! A run as one file: what is trained, on what, with which sizes.
//!
//! A file is laid over a preset: what it does not say is the preset's. Every field of every table is one of a
//! struct here or of a stage's own configuration, and any other is refused.

mod check;
mod fields;
mod large;
mod open;
mod overlay;
mod presets;

pub(crate) use fields::absent;
pub use fields::{
    ClipPlan, DataPlan, DecoderPlan, EmbeddingsPlan, EvaluationPlan, Plan, PriorPlan, RunPlan,
    StagePlan, StageTraining, UpsamplerPlan, VocabularyPlan,
};
pub use open::Opened;
pub use presets::Preset;

//! Training unCLIP, and measuring it.
//!
//! What a network learns in one step belongs to its stage; here are the loop around it
//! ([`Trainer`]), the data (one's own pictures, [`dataset`], or the [`shapes`] world), what is trained
//! on them ([`plan`]), and the recipe of the bundled model ([`recipe`]).

mod ahead;
mod all_reduce;
mod best;
mod bsr;
mod checkpoint;
mod clip_score;
pub mod data;
pub mod dataset;
mod digest;
mod draws;
mod ema;
pub mod embeddings;
mod error;
pub mod evaluation;
mod finite;
mod gradients;
mod loss_curve;
mod mixed;
pub mod objective;
mod optimizer;
mod parts;
pub mod plan;
pub mod recipe;
mod settings;
mod shapes_data;
mod shown;
mod start;
mod train_stage;
mod trainer;
mod training;
mod typical;
mod uncertainty;
mod vocabulary;
mod wear;

pub use bsr::Degradation;
pub use checkpoint::Changes;
pub use clip_score::ClipScore;
pub use draws::Draws;
pub use ema::update_average;
pub use error::TrainError;
pub use gradients::Learned;
pub use settings::{Adam, Schedule, TrainSettings};
pub use shown::{Data, Embeddable, Items, Lesson, Numbered, Shown};
pub use start::{silenced, trainable, whitening_towards};
pub use train_stage::TrainStage;
pub use trainer::{StepReport, Trainer};
pub use training::Training;
pub use unclip_shapes as shapes;
pub use vocabulary::train_vocabulary;
pub use wear::worn_pictures;

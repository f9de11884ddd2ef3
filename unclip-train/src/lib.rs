//! Training unCLIP, and measuring it.
//!
//! What a network learns in one step belongs to its stage; here are the loop around it
//! ([`Trainer`]), the data ([`shapes`]), and the recipe of the bundled model ([`recipe`]).

mod ahead;
mod checkpoint;
mod clip_score;
pub mod data;
mod ema;
mod error;
mod gradients;
mod loss_curve;
pub mod objective;
pub mod recipe;
mod settings;
mod shapes_training;
mod start;
mod train_stage;
mod trainer;
mod typical;
mod uncertainty;
mod vocabulary;
mod wear;

pub use clip_score::ClipScore;
pub use ema::update_average;
pub use error::TrainError;
pub use settings::TrainSettings;
pub use shapes_training::ShapesTraining;
pub use start::{silenced, trainable, whitening_towards};
pub use train_stage::TrainStage;
pub use trainer::{StepReport, Trainer};
pub use unclip_shapes as shapes;
pub use vocabulary::train_vocabulary;
pub use wear::worn_pictures;

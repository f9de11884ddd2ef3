//! What a network in training is worth on data that it is not trained on.

mod draw;
mod held_out;
mod levels;
mod log;
mod measured;
mod retrieval;
mod tensorboard;

pub use held_out::{Evaluation, HeldOut, Mean};

pub(crate) use draw::{drawn, stacked};
pub(crate) use levels::{Levels, loss_of, mean_loss};
pub(crate) use log::EvaluationLog;
pub(crate) use measured::Measured;
pub(crate) use retrieval::retrieval;

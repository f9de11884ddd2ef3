//! Losses by how far what is predicted is noised.

use burn::tensor::Tensor;

use super::held_out::{Evaluation, HeldOut};
use crate::TrainError;
use crate::objective::Objective;

/// Parts into which the timesteps are divided.
const PARTS: usize = 10;

/// Losses of some rows, with the places of their timesteps in a schedule of this length.
#[derive(Debug)]
pub(crate) struct Levels {
    pub(crate) losses: Tensor<1>,
    pub(crate) indices: Vec<usize>,
    pub(crate) timesteps: usize,
}

/// The mean loss of an objective over what is held out.
pub(crate) fn mean_loss<O: Objective>(
    objective: &O,
    network: &O::Network,
    held_out: &HeldOut,
) -> Result<Evaluation, TrainError> {
    let (mut sum, mut n) = (0.0, 0);
    for step in held_out.steps() {
        sum += objective.loss(network, objective.batch(step)?).into_scalar::<f64>();
        n += 1;
    }
    let items = n * held_out.source.batch;
    Ok(Evaluation::default().with("loss", sum / n.max(1) as f64, items))
}

/// The mean loss of an objective over what is held out, and that of each tenth of the timesteps, `loss_0` of
/// the cleanest.
pub(crate) fn loss_of<O: Objective>(
    objective: &O,
    network: &O::Network,
    held_out: &HeldOut,
    levels: impl Fn(&O, &O::Network, O::Batch) -> Levels,
) -> Result<Evaluation, TrainError> {
    let mut sums = [(0.0, 0usize); PARTS];
    for step in held_out.steps() {
        let Levels { losses, indices, timesteps } =
            levels(objective, network, objective.batch(step)?);
        for (loss, index) in losses.into_data().iter::<f64>().zip(indices) {
            let (sum, n) = &mut sums[(index * PARTS / timesteps).min(PARTS - 1)];
            *sum += loss;
            *n += 1;
        }
    }
    let (sum, n) = sums.iter().fold((0.0, 0), |(sum, n), part| (sum + part.0, n + part.1));
    let mut evaluation = Evaluation::default().with("loss", sum / n.max(1) as f64, n);
    for (part, (sum, n)) in sums.into_iter().enumerate().filter(|(_, (_, n))| *n > 0) {
        evaluation = evaluation.with(&format!("loss_{part}"), sum / n as f64, n);
    }
    Ok(evaluation)
}

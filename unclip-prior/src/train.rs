//! One training step of the prior: a batch to its loss.

use burn::tensor::Tensor;
use unclip_core::loss::{Noised, mean_squared_error};
use unclip_core::{ImageEmbedding, Network, NoiseSchedule, TextEmbedding};

use crate::{DiffusionPrior, DiffusionPriorConfig};

/// What a training step needs. The caption of some rows is empty: condition dropout, 10 % in the
/// paper.
#[derive(Debug, Clone)]
pub struct TrainingBatch {
    /// CLIP's embeddings of the pictures, `[batch, d_embedding]`.
    pub image: ImageEmbedding,
    /// CLIP's embeddings of their captions.
    pub text: TextEmbedding,
    /// Noise, `[batch, d_embedding]`.
    pub epsilon: Tensor<2>,
    /// Position of each row in the training schedule.
    pub indices: Vec<usize>,
}

/// The mean squared error of the prediction, in whitened space, averaged over the batch: `[1]`
/// (paper, section 2.2).
pub fn loss(
    prior: &DiffusionPrior,
    config: &DiffusionPriorConfig,
    schedule: &NoiseSchedule,
    batch: TrainingBatch,
) -> Tensor<1> {
    let x_0 = prior.whiten(&batch.image);
    let noised = Noised::new(schedule, x_0, batch.epsilon, batch.indices);
    let timesteps = schedule.gather_timesteps(&noised.indices, &noised.x_t.device());
    let output = prior.bind(&batch.text).forward(noised.x_t.clone(), timesteps);
    let target = noised.target(schedule, config.diffusion.parameterization);
    mean_squared_error(output, target).mean()
}

//! One training step of an upsampler: a batch of crops to its loss.

use burn::tensor::Tensor;
use unclip_core::loss::{Noised, mean_squared_error};
use unclip_core::{Network, NoiseSchedule};

use crate::{Upsampler, UpsamplerConfig};

/// What a training step needs: crops of large pictures, and the same crops of the small ones, which
/// are degraded already.
#[derive(Debug, Clone)]
pub struct TrainingBatch {
    /// The large crops, `[batch, 3, height·factor, width·factor]` in [−1, 1].
    pub images: Tensor<4>,
    /// The small crops, `[batch, 3, height, width]` in [−1, 1].
    pub low_res: Tensor<4>,
    /// Noise of the large crops' shape.
    pub epsilon: Tensor<4>,
    /// Position of each row in the training schedule.
    pub indices: Vec<usize>,
}

/// The mean squared error of the prediction averaged over the batch: `[1]`.
pub fn loss(
    upsampler: &Upsampler,
    config: &UpsamplerConfig,
    schedule: &NoiseSchedule,
    batch: TrainingBatch,
) -> Tensor<1> {
    let noised = Noised::new(schedule, batch.images, batch.epsilon, batch.indices);
    let timesteps = schedule.gather_timesteps(&noised.indices, &noised.x_t.device());
    let output = upsampler.bind(batch.low_res).forward(noised.x_t.clone(), timesteps);
    let target = noised.target(schedule, config.diffusion.parameterization);
    mean_squared_error(output, target).mean()
}

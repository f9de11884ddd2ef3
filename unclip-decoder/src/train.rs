//! One training step of the decoder: a batch to its loss.

use burn::tensor::Tensor;
use unclip_core::loss::{Noised, hybrid_loss, mean_squared_error};
use unclip_core::{Network, NoiseSchedule};

use crate::{Condition, Decoder, DecoderConfig};

/// What a training step needs. The caption of some rows is empty: condition dropout, 50 % in the
/// paper.
#[derive(Debug, Clone)]
pub struct TrainingBatch {
    /// The pictures, `[batch, 3, height, width]` in [−1, 1].
    pub images: Tensor<4>,
    /// Their embeddings and captions.
    pub condition: Condition,
    /// 0 for the rows whose embedding is dropped (10 % in the paper), 1 for the others:
    /// `[batch, 1]`.
    pub keep_image: Tensor<2>,
    /// Noise of the pictures' shape.
    pub epsilon: Tensor<4>,
    /// Position of each row in the training schedule.
    pub indices: Vec<usize>,
    /// Signal-to-noise ratio beyond which a row counts less
    /// ([`snr_weights`](unclip_core::loss::Noised::snr_weights)); infinite for never. For a learned
    /// variance there is none.
    pub max_snr: f64,
}

/// The loss averaged over the batch, `[1]`: the mean squared error of the prediction, and for a
/// learned variance the variational bound beside it (Improved DDPM).
pub fn loss(
    decoder: &Decoder,
    config: &DecoderConfig,
    schedule: &NoiseSchedule,
    batch: TrainingBatch,
) -> Tensor<1> {
    let kind = config.diffusion.parameterization;
    let noised = Noised::new(schedule, batch.images, batch.epsilon, batch.indices);
    let timesteps = schedule.gather_timesteps(&noised.indices, &noised.x_t.device());
    let condition = Condition {
        image: decoder.drop_images(&batch.condition.image, batch.keep_image),
        ..batch.condition
    };
    let output = decoder.bind(&condition).forward(noised.x_t.clone(), timesteps);
    if config.diffusion.variance.is_learned() {
        let (simple, bound) = hybrid_loss(schedule, kind, &noised, output);
        return (simple + bound).mean();
    }
    let weights = noised.snr_weights(schedule, kind, batch.max_snr);
    (mean_squared_error(output, noised.target(schedule, kind)) * weights).mean()
}

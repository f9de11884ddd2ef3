//! The timestep as tokens.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor};
use unclip_nn::ops::{linear, silu};
use unclip_nn::sine_first_embedding;

use crate::{DiffusionPriorConfig, LaionPriorConfig};

/// Either a table of vectors, or a network on sinusoids.
#[derive(Module, Debug)]
pub(super) struct TimeTokens {
    table: Option<Embedding>,
    mlp: Option<TimeMlp>,
    width: usize,
}

/// Three linear layers with SiLUs between them.
#[derive(Module, Debug)]
struct TimeMlp {
    first: Linear,
    second: Linear,
    third: Linear,
}

impl TimeTokens {
    pub(super) fn new(
        config: &DiffusionPriorConfig,
        own: &LaionPriorConfig,
        device: &Device,
    ) -> Self {
        let (width, out) = (config.d_embedding, config.d_embedding * own.time_tokens);
        let timesteps = config.diffusion.num_train_timesteps;
        let projection = |d_in, d_out| LinearConfig::new(d_in, d_out).init(device);
        let mlp = || TimeMlp {
            first: projection(width, 2 * out),
            second: projection(2 * out, 2 * out),
            third: projection(2 * out, out),
        };
        Self {
            table: own.time_table.then(|| EmbeddingConfig::new(timesteps, out).init(device)),
            mlp: (!own.time_table).then(mlp),
            width,
        }
    }

    /// Tokens of timesteps: `[batch]` to `[batch, time_tokens, width]`.
    pub(super) fn forward(&self, timesteps: Tensor<1>) -> Tensor<3> {
        let batch = timesteps.dims()[0];
        let x = match (&self.table, &self.mlp) {
            (Some(table), _) => {
                let rows: Tensor<1, Int> = timesteps.int();
                table.weight.val().select(0, rows)
            }
            (None, Some(TimeMlp { first, second, third })) => {
                let x = silu(linear(first, sine_first_embedding(timesteps, self.width)));
                linear(third, silu(linear(second, x)))
            }
            (None, None) => unreachable!("one of the two is there"),
        };
        let n = x.dims()[1] / self.width;
        x.reshape([batch, n, self.width])
    }
}

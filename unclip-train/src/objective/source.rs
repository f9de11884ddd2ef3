//! Where data and draws come from, and noise.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use unclip_core::NoiseSchedule;
use unclip_core::loss::Noised;

use super::batch::Batch;
use crate::TrainError;
use crate::draws::Draws;
use crate::shown::{Data, Items, Lesson};

/// Where a step's data and draws come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The pictures and captions.
    pub data: Arc<dyn Data>,
    /// Items of a step.
    pub batch: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Where tensors go.
    pub device: Device,
}

impl Source {
    /// The items of a step, to be drawn at sides up to `side`, and its draws.
    pub(super) fn step(
        &self,
        step: u64,
        side: u32,
        lesson: Lesson,
    ) -> Result<(Items, Draws), TrainError> {
        let items = self.data.batch(step, self.batch, side, lesson)?;
        Ok((items, Draws::new(self.seed, step)))
    }

    pub(super) fn tensor<const D: usize>(&self, values: TensorData) -> Tensor<D> {
        Tensor::from_data(values, &self.device)
    }

    pub(super) fn on(&self, device: &Device) -> Self {
        Self { device: device.clone(), ..self.clone() }
    }
}

/// The noise of a batch, and how far each row is noised.
#[derive(Debug)]
pub(super) struct Noise {
    epsilon: TensorData,
    indices: Vec<usize>,
}

impl Batch for Noise {
    fn narrow(&self, start: usize, len: usize) -> Self {
        let epsilon = Batch::narrow(&self.epsilon, start, len);
        Self { epsilon, indices: self.indices[start..start + len].to_vec() }
    }
}

impl Noise {
    /// For a batch of this shape, at levels that are spread over a training schedule of `len`
    /// timesteps.
    pub(super) fn draw<const D: usize>(shape: [usize; D], len: usize, draws: &mut Draws) -> Self {
        let epsilon = draws.normal(shape);
        Self { epsilon, indices: draws.spread(shape[0], len) }
    }

    /// A clean batch under this noise.
    pub(super) fn mixed<const D: usize>(
        self,
        schedule: &NoiseSchedule,
        x_0: Tensor<D>,
    ) -> Noised<D> {
        let epsilon = Tensor::from_data(self.epsilon, &x_0.device());
        Noised::new(schedule, x_0, epsilon, self.indices)
    }
}

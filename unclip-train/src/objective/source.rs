//! What an objective is, and what all of them share: where data and draws come from.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use unclip_clip::Tokens;
use unclip_core::NoiseSchedule;
use unclip_core::loss::Noised;

use super::pairs::{Among, Pairs};
use crate::TrainError;
use crate::draws::Draws;
use crate::shown::{Data, Items, Lesson};

/// What a network is trained to do.
pub trait Objective: Send + Sync + Sized {
    /// The network.
    type Network: Module;
    /// The data and draws of a step, in the host's memory.
    type Batch: Batch;

    /// The data and draws of a step, which follow from its number alone. Another thread may prepare
    /// them while the device works on the step before.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn batch(&self, step: u64) -> Result<Self::Batch, TrainError>;

    /// The loss of a step, `[1]`.
    fn loss(&self, network: &Self::Network, batch: Self::Batch) -> Tensor<1>;

    /// The same objective on another device.
    #[must_use]
    fn on(&self, device: &Device) -> Self;

    /// Where the loss of a batch is not the mean of the losses of its items because each of them is
    /// held against all others: what the other parts of a batch have to know of this one.
    fn pairs(&self, _network: &Self::Network, _part: Self::Batch) -> Option<Pairs> {
        None
    }

    /// The loss of a part of a batch, `[1]`, whose gradient reaches the weights through this part
    /// alone. Only asked for where there are [`pairs`](Self::pairs).
    fn loss_among(&self, network: &Self::Network, part: Self::Batch, _among: &Among) -> Tensor<1> {
        self.loss(network, part)
    }
}

/// A batch that can be cut into parts.
pub trait Batch: Send + Sync + Sized {
    /// The items `start .. start + len`.
    #[must_use]
    fn narrow(&self, start: usize, len: usize) -> Self;
}

impl Batch for Tokens {
    fn narrow(&self, start: usize, len: usize) -> Self {
        Self::narrow(self, start, len)
    }
}

impl Batch for TensorData {
    fn narrow(&self, start: usize, len: usize) -> Self {
        let mut shape: Vec<usize> = self.shape().to_vec();
        let row = self.as_bytes().len() / shape[0].max(1);
        shape[0] = len;
        let bytes = self.as_bytes()[start * row..(start + len) * row].to_vec();
        Self::from_bytes_vec(bytes, shape, self.dtype())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rows() {
        let data = TensorData::new((0..24).map(|it| it as f32).collect(), [4, 2, 3]);
        let part = Batch::narrow(&data, 1, 2);
        assert_eq!(part.shape().to_vec(), [2, 2, 3]);
        assert!(part.iter::<f32>().eq((6..18).map(|it| it as f32)));
        let whole = TensorData::new(vec![1, 2, 3i32], [3]);
        assert!(Batch::narrow(&whole, 2, 1).iter::<i32>().eq([3]));
    }
}

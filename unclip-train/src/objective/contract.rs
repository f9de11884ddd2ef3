//! What an objective is.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::batch::Batch;
use super::pairs::{Among, Pairs};
use crate::TrainError;
use crate::evaluation::{Evaluation, HeldOut};

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

    /// What the network is worth on data that are held out; a network that is not trained, on the
    /// objective's own device.
    ///
    /// # Errors
    /// Data that cannot be read.
    fn evaluate(
        &self,
        network: &Self::Network,
        held_out: &HeldOut,
    ) -> Result<Evaluation, TrainError>;

    /// Whether the loss of a batch is not the mean of the losses of its items because each of them is held
    /// against all others.
    const CONTRASTS: bool = false;

    /// Where it [`CONTRASTS`](Self::CONTRASTS): what the other parts of a batch have to know of this one.
    fn pairs(&self, _network: &Self::Network, _part: Self::Batch) -> Option<Pairs> {
        None
    }

    /// The loss of a part of a batch, `[1]`, whose gradient reaches the weights through this part
    /// alone. Only asked for where there are [`pairs`](Self::pairs).
    fn loss_among(&self, network: &Self::Network, part: Self::Batch, _among: &Among) -> Tensor<1> {
        self.loss(network, part)
    }
}

//! What a diffusion stage is, whatever it samples.

use burn::tensor::Tensor;

use crate::{Branched, ByStep, ClassifierFree, Denoiser, DiffusionConfig, Network, TimestepRange};

/// A diffusion stage of unCLIP: under a condition it turns noise into a sample, and the sample into
/// the input of the next stage. A stage's configuration implements it.
///
/// What a stage samples and what it hands on may differ: the prior samples whitened embeddings and
/// hands on CLIP's; a decoder of latents samples four channels and hands on a picture.
///
/// `D` is the rank of the sample: 2 for embeddings, 4 for pictures and latents.
pub trait Stage<const D: usize> {
    /// The network.
    type Network;
    /// What it is conditioned on, one row for each sample.
    type Condition;
    /// What guidance leads away from, one row for each sample; `()` for a stage without guidance.
    type Null;
    /// What it hands to the next stage.
    type Output;

    /// How the stage denoises.
    fn diffusion(&self) -> &DiffusionConfig;

    /// The sample's shape, `[batch, ..]`.
    fn sample_shape(&self, condition: &Self::Condition) -> [usize; D];

    /// Fixes a condition, and computes here what is the same in every step.
    fn bind(&self, network: &Self::Network, condition: &Self::Condition) -> Box<dyn Network<D>>;

    /// Fixes the conditions of a guided call: the B given ones, then B null ones.
    ///
    /// # Panics
    /// If the two batches differ in size, or if the stage has no guidance.
    fn bind_pair(
        &self,
        network: &Self::Network,
        condition: &Self::Condition,
        null: &Self::Null,
    ) -> Branched<Box<dyn Network<D>>>;

    /// Turns a clean sample into the output.
    fn output(&self, network: &Self::Network, x_0: Tensor<D>) -> Self::Output;

    /// The clean sample that [`output`](Self::output) would turn into this: its inverse, for
    /// inversion.
    fn sample_of(&self, network: &Self::Network, output: &Self::Output) -> Tensor<D>;

    /// A cheap preview of a clean sample as pictures, `[batch, 3, height, width]` in [−1, 1];
    /// `None` if it is not a picture.
    fn preview(&self, x_0: &Tensor<D>) -> Option<Tensor<4>>;

    /// Fixes a condition and gives the network's output its meaning.
    fn denoiser(
        &self,
        network: &Self::Network,
        condition: &Self::Condition,
        guide: Option<Guide<'_, Self::Null>>,
    ) -> Box<dyn Denoiser<D>> {
        let config = self.diffusion();
        let plain = || config.denoiser(self.bind(network, condition));
        let Some(Guide { null, scale, within }) = guide else { return Box::new(plain()) };
        let pair = self.bind_pair(network, condition, null);
        let guided = config.denoiser(ClassifierFree::new(pair, vec![scale]));
        let Some(range) = within else { return Box::new(guided) };
        let is_second = Box::new(move |step: &crate::Step| !range.contains(step.timestep));
        Box::new(ByStep { first: guided, second: plain(), is_second })
    }
}

/// How a stage is guided.
#[derive(Debug)]
pub struct Guide<'a, N> {
    /// What guidance leads away from.
    pub null: &'a N,
    /// The guidance scale; see [`ClassifierFree`].
    pub scale: f64,
    /// The noise levels at which it acts; all of them if absent. Elsewhere the network is called
    /// with the condition alone, which takes half the time.
    pub within: Option<TimestepRange>,
}

// derived, it would ask that `N` be `Copy`
impl<N> Clone for Guide<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N> Copy for Guide<'_, N> {}

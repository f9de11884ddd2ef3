//! Bending a prediction towards its condition.

use burn::tensor::Tensor;

use crate::{Denoiser, InvalidSetting, Network, Prediction, Step};

/// Guidance scales beyond this only saturate; the bound catches typing errors such as 1e30.
const MAX_GUIDANCE_SCALE: f64 = 1000.0;

/// A network bound to 2·B conditions: the B given ones first, then B null ones. A stage makes it;
/// [`ClassifierFree`] accepts nothing else, so that the order is a type and not a comment.
#[derive(Debug, Clone)]
pub struct Paired<N>(pub N);

/// Classifier-free guidance (Ho & Salimans 2022): u + scale·(c − u) on the network's raw output.
///
/// Scale 1 is the conditional network and 0 the unconditional one. Variance channels are taken
/// from the conditional half, as Karlo and GLIDE do.
#[derive(Debug, Clone)]
pub struct ClassifierFree<N> {
    network: Paired<N>,
    scale: f64,
}

/// Checks a guidance scale that a user gave.
///
/// # Errors
/// NaN, infinite, negative or larger than 1000.
pub fn check_guidance_scale(name: &str, scale: f64) -> Result<(), InvalidSetting> {
    InvalidSetting::check_range(name, scale, 0.0, MAX_GUIDANCE_SCALE)
}

impl<N> ClassifierFree<N> {
    /// Guides `network` by `scale` (see [`check_guidance_scale`]).
    pub fn new(network: Paired<N>, scale: f64) -> Self {
        Self { network, scale }
    }
}

impl<const D: usize, N: Network<D>> Network<D> for ClassifierFree<N> {
    fn forward(&self, x_t: Tensor<D>, timesteps: Tensor<1>) -> Tensor<D> {
        let [batch, channels] = [x_t.dims()[0], x_t.dims()[1]];
        let output = self.network.0.forward(
            Tensor::cat(vec![x_t.clone(), x_t], 0),
            Tensor::cat(vec![timesteps.clone(), timesteps], 0),
        );
        let given = output.clone().narrow(0, 0, batch);
        let null = output.narrow(0, batch, batch).narrow(1, 0, channels);
        let extra = given.dims()[1] - channels;
        let mixed = null.clone() + (given.clone().narrow(1, 0, channels) - null) * self.scale;
        match extra {
            0 => mixed,
            _ => Tensor::cat(vec![mixed, given.narrow(1, channels, extra)], 1),
        }
    }
}

/// Gradient of a log-density by which a prediction is bent; a pair of two adds their gradients.
pub trait Guidance<const D: usize> {
    /// The gradient with respect to `x_t`, of its shape.
    fn gradient(&self, x_t: Tensor<D>, step: &Step, prediction: &Prediction<D>) -> Tensor<D>;
}

impl<const D: usize, A: Guidance<D>, B: Guidance<D>> Guidance<D> for (A, B) {
    fn gradient(&self, x_t: Tensor<D>, step: &Step, prediction: &Prediction<D>) -> Tensor<D> {
        self.0.gradient(x_t.clone(), step, prediction) + self.1.gradient(x_t, step, prediction)
    }
}

/// A denoiser whose noise estimate is shifted by −√(1 − ᾱ)·gradient (Dhariwal & Nichol 2021,
/// algorithm 2), which moves x_0 by (1 − ᾱ) / √ᾱ · gradient.
///
/// The same shift serves ancestral sampling, where the reference moves the mean by Σ·gradient
/// instead: with x_0 as the common currency there is one rule for every sampler.
#[derive(Debug, Clone)]
pub struct Guided<M, G> {
    /// The denoiser to bend.
    pub inner: M,
    /// Where to bend it.
    pub guidance: G,
}

impl<const D: usize, M: Denoiser<D>, G: Guidance<D>> Denoiser<D> for Guided<M, G> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        let prediction = self.inner.denoise(x_t.clone(), step);
        let gradient = self.guidance.gradient(x_t, step, &prediction);
        let weight = (1.0 - step.alpha_bar) / step.alpha_bar.sqrt();
        Prediction { x_0: prediction.x_0 + gradient * weight, ..prediction }
    }
}

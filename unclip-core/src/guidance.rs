//! Guidance: steering a prediction toward its condition.

use burn::tensor::Tensor;

use crate::{Denoiser, InvalidSetting, Network, Prediction, Step};

/// Guidance scales beyond this only saturate; the bound catches typos such as 1e30.
const MAX_GUIDANCE_SCALE: f64 = 1000.0;

/// A network bound to several conditions for each of the batch's B samples: first the B given ones,
/// then B of the next kind, and so on, with the null ones last. A stage makes it;
/// [`ClassifierFree`] accepts nothing else, so that a type fixes the order, not a comment.
#[derive(Debug, Clone)]
pub struct Branched<N> {
    network: N,
    branches: usize,
}

impl<N> Branched<N> {
    /// Wraps a network that was bound to `branches` times B conditions.
    ///
    /// # Panics
    /// If `branches` is 0.
    pub fn new(network: N, branches: usize) -> Self {
        assert!(branches > 0, "at least the given condition");
        Self { network, branches }
    }

    /// The network, which answers to all conditions at once.
    pub fn network(&self) -> &N {
        &self.network
    }
}

/// Classifier-free guidance (Ho & Salimans 2022): u + scale·(c − u) on the network's raw output,
/// where c is the answer to the condition and u that to the null condition.
///
/// Scale 1 is the conditional network and 0 the unconditional one. Variance channels are taken
/// from the first branch, as Karlo and GLIDE do, unless they are [guided](Self::of_variance) too.
///
/// With more branches, each scale leads from one branch to the one before it: for three, with the
/// answers c, m and u, u + scale₁·(m − u) + scale₀·(c − m). That is how InstructPix2Pix (Brooks et
/// al. 2023, eq. 3) weighs a caption and a picture separately.
#[derive(Debug, Clone)]
pub struct ClassifierFree<N> {
    network: Branched<N>,
    scales: Vec<f64>,
    variance: bool,
}

/// Checks a guidance scale that a user gave.
///
/// # Errors
/// The scale is NaN, infinite, negative or larger than 1000.
pub fn check_guidance_scale(name: &str, scale: f64) -> Result<(), InvalidSetting> {
    InvalidSetting::check_range(name, scale, 0.0, MAX_GUIDANCE_SCALE)
}

impl<N> ClassifierFree<N> {
    /// Guides `network` by `scales` (see [`check_guidance_scale`]).
    ///
    /// # Panics
    /// If there is not one scale for each branch but the last.
    pub fn new(network: Branched<N>, scales: Vec<f64>) -> Self {
        let branches = network.branches;
        assert_eq!(scales.len() + 1, branches, "a scale for each branch but the null one");
        Self { network, scales, variance: false }
    }

    /// Whether the variance channels are guided as the others are (DALLE2-pytorch).
    #[must_use]
    pub fn of_variance(self, variance: bool) -> Self {
        Self { variance, ..self }
    }
}

impl<const D: usize, N: Network<D>> Network<D> for ClassifierFree<N> {
    fn forward(&self, x_t: Tensor<D>, timesteps: Tensor<1>) -> Tensor<D> {
        let [batch, channels] = [x_t.dims()[0], x_t.dims()[1]];
        let Branched { network, branches } = &self.network;
        let x_t = Tensor::cat(vec![x_t; *branches], 0);
        let output = network.forward(x_t, Tensor::cat(vec![timesteps; *branches], 0));
        let branch = |k: usize| output.clone().narrow(0, k * batch, batch);
        let guided = if self.variance { output.dims()[1] } else { channels };
        let answer = |k: usize| branch(k).narrow(1, 0, guided);
        let guide = |mixed: Tensor<D>, (k, &scale): (usize, &f64)| {
            mixed + (answer(k) - answer(k + 1)) * scale
        };
        let mixed = self.scales.iter().enumerate().fold(answer(branches - 1), guide);
        let given = branch(0);
        let extra = given.dims()[1] - guided;
        if extra == 0 {
            return mixed;
        }
        Tensor::cat(vec![mixed, given.narrow(1, guided, extra)], 1)
    }
}

/// Two denoisers that share out the steps: for guidance at some of the noise levels only, or for a
/// second network that takes the last step (Karlo's, which was tuned with an adversarial loss for
/// exactly that).
pub struct ByStep<A, B> {
    /// Takes the other steps.
    pub first: A,
    /// Takes the steps that `is_second` picks.
    pub second: B,
    /// Which steps the second takes.
    pub is_second: Box<dyn Fn(&Step) -> bool + Send + Sync>,
}

impl<const D: usize, A: Denoiser<D>, B: Denoiser<D>> Denoiser<D> for ByStep<A, B> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        if (self.is_second)(step) {
            self.second.denoise(x_t, step)
        } else {
            self.first.denoise(x_t, step)
        }
    }
}

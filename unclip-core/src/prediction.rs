//! What a network's output means, and the conversions between x_0, epsilon and v.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::Step;

/// What the network was trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parameterization {
    /// The noise in x_t (DDPM).
    Epsilon,
    /// The clean sample x_0 (the paper's prior).
    Sample,
    /// The velocity √ᾱ·epsilon − √(1 − ᾱ)·x_0 (Salimans & Ho 2022).
    V,
}

/// Which variance the reverse step has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceType {
    /// Variance of the true posterior.
    FixedSmall,
    /// beta itself.
    FixedLarge,
    /// The network gives the log-variance in extra output channels.
    Learned,
    /// The network gives, in extra output channels, where between `FixedSmall` (−1) and
    /// `FixedLarge` (1) the log-variance lies (Improved DDPM, eq. 15).
    LearnedRange,
}

impl VarianceType {
    /// Whether the network's output has as many extra channels for the variance.
    pub fn is_learned(self) -> bool {
        matches!(self, Self::Learned | Self::LearnedRange)
    }
}

/// A decoded prediction: the clean sample, and the log-variance where the network learned one.
///
/// epsilon is derived from `x_0`, so that the two cannot disagree after clamping; one sampler wants what it
/// was before.
#[derive(Debug, Clone)]
pub struct Prediction<const D: usize> {
    /// Estimate of the clean sample.
    pub x_0: Tensor<D>,
    /// Log-variance of the reverse step, of `x_0`'s shape.
    pub log_variance: Option<Tensor<D>>,
    /// Gradient of a log-density that should steer the step, of `x_0`'s shape. The sampler decides
    /// how: ancestral sampling moves its mean, the others move `x_0` ([`guided`](Self::guided)).
    pub gradient: Option<Tensor<D>>,
    /// Largest magnitude that `x_0` may have, if it is bounded.
    pub limit: Option<f64>,
    /// The estimate before it was kept within the limit, if it was.
    pub unclamped: Option<Tensor<D>>,
}

impl<const D: usize> Prediction<D> {
    /// A clean sample and nothing else.
    pub fn new(x_0: Tensor<D>) -> Self {
        Self { x_0, log_variance: None, gradient: None, limit: None, unclamped: None }
    }

    /// The same, steered by a gradient beside those that steer it already.
    #[must_use]
    pub fn steered(self, gradient: Tensor<D>) -> Self {
        let gradient = match self.gradient {
            Some(other) => other + gradient,
            None => gradient,
        };
        Self { gradient: Some(gradient), ..self }
    }

    /// Applies the gradient to `x_0`: the noise estimate moves by −√(1 − ᾱ)·gradient (Dhariwal &
    /// Nichol 2021, algorithm 2), and thereby `x_0` by (1 − ᾱ)/√ᾱ·gradient.
    ///
    /// At the noisiest step of a cosine schedule that factor is 20,000. `x_0` is therefore kept
    /// within its limit; the reference does not limit it.
    #[must_use]
    pub fn guided(mut self, step: &Step) -> Self {
        if let Some(gradient) = self.gradient.take() {
            let shift = gradient * ((1.0 - step.alpha_bar) / step.alpha_bar.sqrt());
            self.unclamped = self.unclamped.map(|unclamped| unclamped + shift.clone());
            self.x_0 = self.x_0 + shift;
            if let Some(limit) = self.limit {
                self.x_0 = clamp_keeping_nan(self.x_0, limit);
            }
        }
        self
    }

    /// The noise in `x_t` if this prediction is the clean sample: (x_t − √ᾱ·x_0) / √(1 − ᾱ).
    pub fn epsilon(&self, x_t: Tensor<D>, step: &Step) -> Tensor<D> {
        noise_beside(&self.x_0, x_t, step)
    }

    /// The noise that was predicted, which clamping did not change.
    pub(crate) fn unclamped_epsilon(&self, x_t: Tensor<D>, step: &Step) -> Tensor<D> {
        noise_beside(self.unclamped.as_ref().unwrap_or(&self.x_0), x_t, step)
    }
}

/// (x_t − √ᾱ·x_0) / √(1 − ᾱ).
fn noise_beside<const D: usize>(x_0: &Tensor<D>, x_t: Tensor<D>, step: &Step) -> Tensor<D> {
    (x_t - x_0.clone() * step.alpha_bar.sqrt()) / (1.0 - step.alpha_bar).sqrt()
}

impl<const D: usize> Prediction<D> {
    /// The sample at another noise level, with this clean sample and that noise: DDIM's step without
    /// randomness, in either direction (Song et al. 2021, eq. 12).
    pub(crate) fn at(&self, epsilon: Tensor<D>, alpha_bar: f64) -> Tensor<D> {
        self.x_0.clone() * alpha_bar.sqrt() + epsilon * (1.0 - alpha_bar).sqrt()
    }
}

impl Parameterization {
    /// The clean sample, from the network's output at this step.
    pub fn x_0<const D: usize>(self, x_t: Tensor<D>, output: Tensor<D>, step: &Step) -> Tensor<D> {
        let (signal, noise) = (step.alpha_bar.sqrt(), (1.0 - step.alpha_bar).sqrt());
        match self {
            Self::Sample => output,
            Self::Epsilon => (x_t - output * noise) / signal,
            Self::V => x_t * signal - output * noise,
        }
    }

    /// The network's target for a known clean sample and noise; `signal` is √ᾱ and `noise` √(1 −
    /// ᾱ), broadcast over the batch.
    pub fn target<const D: usize>(
        self,
        x_0: Tensor<D>,
        epsilon: Tensor<D>,
        signal: Tensor<D>,
        noise: Tensor<D>,
    ) -> Tensor<D> {
        match self {
            Self::Sample => x_0,
            Self::Epsilon => epsilon,
            Self::V => epsilon * signal - x_0 * noise,
        }
    }
}

/// Values kept in [−limit, limit]. What is not finite becomes NaN instead of the limit, behind which it
/// would not be noticed.
pub fn clamp_keeping_nan<const D: usize>(x: Tensor<D>, limit: f64) -> Tensor<D> {
    // of a finite number, zero with its sign, which changes nothing
    let trace = x.clone() * 0.0;
    x.clamp(-limit, limit) + trace
}

/// The bounds between which `LearnedRange` interpolates: logs of the least variance and of beta.
pub(crate) fn log_variance_range(step: &Step) -> (f64, f64) {
    (step.least_variance.max(1e-20).ln(), step.beta.max(1e-20).ln())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::{BetaSchedule, NoiseSchedule};

    #[test]
    fn a_limit_hides_nothing() {
        let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2.0, -3.0, 0.25, -0.0, 0.0];
        let x = Tensor::<1>::from_floats(values, &burn::tensor::Device::flex());
        let kept: Vec<f32> = clamp_keeping_nan(x, 1.0).into_data().iter::<f32>().collect();
        assert!(kept[..3].iter().all(|value| value.is_nan()), "{kept:?}");
        let bits = kept[3..].iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits, [1.0f32, -1.0, 0.25, -0.0, 0.0].map(f32::to_bits));
    }

    #[test]
    fn every_parameterization_returns_the_sample_it_was_made_from() {
        let device = Device::flex();
        let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
        let x_0 = Tensor::<2>::random([4, 8], Distribution::Uniform(-1.0, 1.0), &device);
        let epsilon = Tensor::<2>::random([4, 8], Distribution::Normal(0.0, 1.0), &device);
        for index in [0, 1, 10, 500, 900, 990, 998, 999] {
            let step = schedule.step(index);
            let x_t = schedule.add_noise(x_0.clone(), epsilon.clone(), &[index; 4]);
            let signal = schedule.gather(&[index; 4], &device, |s| s.alpha_bar.sqrt());
            let noise = schedule.gather(&[index; 4], &device, |s| (1.0 - s.alpha_bar).sqrt());
            for kind in [Parameterization::Sample, Parameterization::V, Parameterization::Epsilon] {
                let output =
                    kind.target(x_0.clone(), epsilon.clone(), signal.clone(), noise.clone());
                let back = kind.x_0(x_t.clone(), output, &step);
                let error = (back - x_0.clone()).abs().max().into_scalar::<f32>() as f64;
                // epsilon divides by √ᾱ, which is 5e-5 at the last cosine step
                let tolerance = match kind {
                    Parameterization::Epsilon => 1e-6 / step.alpha_bar.sqrt(),
                    _ => 1e-6,
                };
                assert!(error < tolerance, "{kind:?} at {index}: {error}");
            }
        }
    }
}

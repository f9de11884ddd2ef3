//! Guidance by the gradient of a score: of a CLIP, of a classifier, of anything that autodiff can
//! differentiate.

use burn::tensor::Tensor;

use crate::{Denoiser, Prediction, Step};

/// A log-density of samples, up to a constant, in operations that can be differentiated.
pub trait Score<const D: usize> {
    /// The score of each sample, `[batch]`.
    ///
    /// # Shapes
    /// - `sample`: `[batch, ..]`, as noisy as `step` says or clean, by the [`Reading`]
    fn score(&self, sample: Tensor<D>, step: &Step) -> Tensor<1>;
}

/// What scores read, and so what their gradient goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// The noisy sample: for scores that were trained on such (Dhariwal & Nichol 2021, section 4;
    /// GLIDE's noised CLIP).
    Noisy,
    /// The denoiser's estimate of the clean sample, through the denoiser: right for scores that
    /// know clean samples alone. It keeps every layer's values of one call until the gradient is
    /// taken.
    Denoised,
    /// The same estimate, but the gradient goes through the score alone, times √ᾱ: what the
    /// denoiser would make of it if samples were independent values of variance 1. It costs less.
    /// (The factor 1/√ᾱ, which some use, is that of a sample of which nothing is known; at the
    /// noisiest step of a cosine schedule it is 20,000.)
    Estimate,
}

/// A denoiser that is steered by gradients of scores, which add up. Samplers differ in what they do
/// with a gradient: see [`Prediction::gradient`].
///
/// Networks that are differentiated, that of the denoiser with [`Reading::Denoised`] and those of
/// the scores, have to be on an autodiff device ([`burn::module::Module::train`]).
pub struct Scored<'a, M, const D: usize> {
    /// The denoiser to steer.
    pub inner: M,
    /// The scores, each with its scale.
    pub scores: Vec<(Box<dyn Score<D> + 'a>, f64)>,
    /// What the scores read.
    pub reading: Reading,
}

impl<const D: usize, M: Denoiser<D>> Denoiser<D> for Scored<'_, M, D> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        let (prediction, gradient) = match self.reading {
            Reading::Noisy => {
                let gradient = self.gradient(x_t.clone(), step);
                (self.inner.denoise(x_t, step), gradient)
            }
            Reading::Estimate => {
                let prediction = self.inner.denoise(x_t, step);
                let gradient = self.gradient(prediction.x_0.clone(), step);
                (prediction, gradient * step.alpha_bar.sqrt())
            }
            Reading::Denoised => {
                let leaf = x_t.autodiff().require_grad();
                let prediction = self.inner.denoise(leaf.clone(), step);
                let gradient = derivative(&leaf, self.total(prediction.x_0.clone(), step));
                (without_graph(prediction), gradient)
            }
        };
        prediction.steered(gradient)
    }
}

impl<const D: usize, M> Scored<'_, M, D> {
    /// The gradient with respect to what the scores read.
    fn gradient(&self, sample: Tensor<D>, step: &Step) -> Tensor<D> {
        let leaf = sample.autodiff().require_grad();
        derivative(&leaf, self.total(leaf.clone(), step))
    }

    /// The scores of all samples: each depends on its own alone.
    fn total(&self, sample: Tensor<D>, step: &Step) -> Tensor<1> {
        let scaled = |(score, scale): &(Box<dyn Score<D> + '_>, f64)| {
            score.score(sample.clone(), step).sum() * *scale
        };
        let zero = Tensor::zeros([1], &sample.device());
        self.scores.iter().map(scaled).fold(zero, |sum, score| sum + score)
    }
}

/// Zero where the value does not depend on the leaf.
fn derivative<const D: usize>(leaf: &Tensor<D>, value: Tensor<1>) -> Tensor<D> {
    let zero = || leaf.clone().inner().zeros_like();
    leaf.grad(&value.backward()).unwrap_or_else(zero)
}

/// The same values, no longer to be differentiated.
fn without_graph<const D: usize>(prediction: Prediction<D>) -> Prediction<D> {
    Prediction {
        x_0: prediction.x_0.inner(),
        log_variance: prediction.log_variance.map(Tensor::inner),
        gradient: prediction.gradient.map(Tensor::inner),
        limit: prediction.limit,
        unclamped: prediction.unclamped.map(Tensor::inner),
    }
}

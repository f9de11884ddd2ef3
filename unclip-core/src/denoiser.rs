//! From a raw network to a decoded prediction. [`Parameterized`] is the only place where a
//! network's output is given its meaning.

use burn::tensor::Tensor;

use crate::prediction::log_variance_range;
use crate::{Parameterization, Prediction, Step, VarianceType};

/// A raw network whose conditions are already bound: noisy input and timestep in, undecoded
/// output out.
pub trait Network<const D: usize> {
    /// Runs on a batch, each row at its own timestep.
    ///
    /// # Shapes
    /// - `x_t`: `[batch, channels, ..]`
    /// - `timesteps`: `[batch]`, values of the training schedule
    /// - result: `x_t`'s shape, with twice the channels where the variance is learned
    fn forward(&self, x_t: Tensor<D>, timesteps: Tensor<1>) -> Tensor<D>;
}

impl<const D: usize, F> Network<D> for F
where
    F: Fn(Tensor<D>, Tensor<1>) -> Tensor<D>,
{
    fn forward(&self, x_t: Tensor<D>, timesteps: Tensor<1>) -> Tensor<D> {
        self(x_t, timesteps)
    }
}

/// A network that can be boxed, for stages that choose between guided and plain at run time.
impl<const D: usize> Network<D> for Box<dyn Network<D> + '_> {
    fn forward(&self, x_t: Tensor<D>, timesteps: Tensor<1>) -> Tensor<D> {
        (**self).forward(x_t, timesteps)
    }
}

/// Predicts the clean sample that is hidden in a noisy one.
pub trait Denoiser<const D: usize> {
    /// Predicts the clean sample in `x_t`, which is as noisy as `step` says.
    ///
    /// # Shapes
    /// - `x_t` and the predicted `x_0`: `[batch, channels, ..]`
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D>;
}

impl<const D: usize, M: Denoiser<D> + ?Sized> Denoiser<D> for &M {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        (**self).denoise(x_t, step)
    }
}

impl<const D: usize, M: Denoiser<D> + ?Sized> Denoiser<D> for Box<M> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        (**self).denoise(x_t, step)
    }
}

/// Decodes a network's output into a [`Prediction`].
#[derive(Debug, Clone)]
pub struct Parameterized<N> {
    /// The network.
    pub network: N,
    /// What its output means.
    pub parameterization: Parameterization,
    /// Whether it also gives a variance, and how.
    pub variance: VarianceType,
}

impl<const D: usize, N: Network<D>> Denoiser<D> for Parameterized<N> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        let [batch, channels] = [x_t.dims()[0], x_t.dims()[1]];
        let timesteps = Tensor::full([batch], step.timestep as f32, &x_t.device());
        let output = self.network.forward(x_t.clone(), timesteps);
        let (output, log_variance) = if !self.variance.is_learned() {
            (output, None)
        } else {
            let raw = output.clone().narrow(1, channels, channels);
            let log_variance = decode_log_variance(self.variance, raw, step);
            (output.narrow(1, 0, channels), Some(log_variance))
        };
        let x_0 = self.parameterization.x_0(x_t, output, step);
        Prediction { log_variance, ..Prediction::new(x_0) }
    }
}

fn decode_log_variance<const D: usize>(
    kind: VarianceType,
    raw: Tensor<D>,
    step: &Step,
) -> Tensor<D> {
    match kind {
        VarianceType::LearnedRange => {
            let (low, high) = log_variance_range(step, None);
            interpolate_log_variance(raw, low, high)
        }
        _ => raw,
    }
}

/// f·high + (1 − f)·low with f = (raw + 1) / 2 (Improved DDPM, eq. 15).
fn interpolate_log_variance<const D: usize>(raw: Tensor<D>, low: f64, high: f64) -> Tensor<D> {
    (raw + 1.0) * ((high - low) / 2.0) + low
}

/// Keeps the predicted sample in [−limit, limit]; every sampler derives epsilon afterwards, and a
/// guidance gradient, whether added before or after this, does not lead out of the range.
#[derive(Debug, Clone)]
pub struct Clamped<M> {
    /// The denoiser whose prediction is clamped.
    pub inner: M,
    /// Largest magnitude of x_0; `None` leaves the prediction alone.
    pub limit: Option<f64>,
}

impl<const D: usize, M: Denoiser<D>> Denoiser<D> for Clamped<M> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        let prediction = self.inner.denoise(x_t, step);
        match self.limit {
            None => prediction,
            Some(limit) => {
                let x_0 = prediction.x_0.clamp(-limit, limit);
                Prediction { x_0, limit: Some(limit), ..prediction }
            }
        }
    }
}

//! From a raw network to a decoded prediction. [`Parameterized`] is the only place where a
//! network's output is given its meaning.

use burn::tensor::Tensor;

use crate::prediction::{clamp_keeping_nan, log_variance_range};
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
    /// Which variance the steps have, and whether the network gives it.
    pub variance: VarianceType,
}

impl<const D: usize, N: Network<D>> Denoiser<D> for Parameterized<N> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        let [batch, channels] = [x_t.dims()[0], x_t.dims()[1]];
        let timesteps = Tensor::full([batch], step.timestep as f32, &x_t.device());
        let output = self.network.forward(x_t.clone(), timesteps);
        let log_variance = self.variance.is_learned().then(|| {
            let raw = output.clone().narrow(1, channels, channels);
            decode_log_variance(self.variance, raw, step)
        });
        // a variance that was learned and is not used is left out here too
        let x_0 = self.parameterization.x_0(x_t, output.narrow(1, 0, channels), step);
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
            let (low, high) = log_variance_range(step);
            interpolate_log_variance(raw, low, high)
        }
        _ => raw,
    }
}

/// f·high + (1 − f)·low with f = (raw + 1) / 2 (Improved DDPM, eq. 15).
fn interpolate_log_variance<const D: usize>(raw: Tensor<D>, low: f64, high: f64) -> Tensor<D> {
    (raw + 1.0) * ((high - low) / 2.0) + low
}

/// Keeps the predicted sample in [−limit, limit]; every sampler but one derives epsilon afterwards,
/// and a guidance gradient, whether added before or after this, does not lead out of the range.
///
/// With a quantile it is dynamic (Imagen, Saharia et al. 2022, section 2.3): if less than that share
/// of a sample's values lies within the limit, the sample is first shrunk until just that share does.
/// That keeps strong guidance from saturating colors.
#[derive(Debug, Clone)]
pub struct Clamped<M> {
    /// The denoiser whose prediction is clamped.
    pub inner: M,
    /// Largest magnitude of x_0; `None` leaves the prediction alone.
    pub limit: Option<f64>,
    /// Share of a sample's values that are within the limit, from 0 to 1, for a dynamic limit.
    pub quantile: Option<f64>,
}

impl<M> Clamped<M> {
    /// The same with another quantile, or none.
    #[must_use]
    pub fn with_quantile(self, quantile: Option<f64>) -> Self {
        Self { quantile, ..self }
    }
}

impl<const D: usize, M: Denoiser<D>> Denoiser<D> for Clamped<M> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        let prediction = self.inner.denoise(x_t, step);
        let Some(limit) = self.limit else { return prediction };
        let unclamped = Some(prediction.x_0.clone());
        let x_0 = match self.quantile {
            None => prediction.x_0,
            Some(quantile) => shrunk(prediction.x_0, limit, quantile),
        };
        let x_0 = clamp_keeping_nan(x_0, limit);
        Prediction { x_0, limit: Some(limit), unclamped, ..prediction }
    }
}

/// Samples, each divided by what brings this share of its magnitudes within the limit; those that
/// are within it stay.
fn shrunk<const D: usize>(x_0: Tensor<D>, limit: f64, quantile: f64) -> Tensor<D> {
    let shape = x_0.dims();
    let values = x_0.shape().num_elements() / shape[0].max(1);
    let rows: Tensor<2> = x_0.reshape([shape[0], values]);
    let sorted = rows.clone().abs().sort(1);
    // between two values, as numpy's quantile is by default
    let place = quantile * (values - 1) as f64;
    let (below, share) = (place.floor() as usize, place.fract());
    let at = |place: usize| sorted.clone().narrow(1, place.min(values - 1), 1);
    let threshold = at(below) * (1.0 - share) + at(below + 1) * share;
    (rows / (threshold / limit).clamp_min(1.0)).reshape(shape)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::BetaSchedule;

    /// Predicts the same whatever it gets.
    struct Fixed(Tensor<2>);

    impl Denoiser<2> for Fixed {
        fn denoise(&self, _: Tensor<2>, _: &Step) -> Prediction<2> {
            Prediction::new(self.0.clone())
        }
    }

    #[test]
    fn a_dynamic_limit_shrinks_what_is_too_loud_and_nothing_else() {
        let device = Device::flex();
        // numpy.quantile(abs(row), 0.8) of the rows: 2.2, 0.82, 5.0
        let rows = [
            [0.5, -1.0, 1.5, -2.0, 2.0, -3.0],
            [0.1, -0.2, 0.3, 0.4, -0.8, 0.9],
            [5.0, 5.0, 5.0, 5.0, -5.0, 5.0],
        ];
        let x = Tensor::<2>::from_floats(rows, &device);
        let schedule = crate::NoiseSchedule::new(BetaSchedule::SquaredCosine, 10).unwrap();
        let step = schedule.step(5);
        let x_0 = |quantile| {
            let clamped = Clamped { inner: Fixed(x.clone()), limit: Some(1.0), quantile };
            let data = clamped.denoise(x.clone(), &step).x_0.into_data();
            data.iter::<f32>().collect::<Vec<_>>()
        };
        let close = |found: &[f32], expected: &[f32]| {
            let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(close, "{found:?}, expected {expected:?}");
        };
        let found = x_0(Some(0.8));
        let first: Vec<f32> = rows[0].iter().map(|v: &f32| (v / 2.0).clamp(-1.0, 1.0)).collect();
        close(&found[..6], &first);
        close(&found[6..12], &rows[1]);
        close(&found[12..], &[1.0, 1.0, 1.0, 1.0, -1.0, 1.0]);
        // the largest of all values: nothing is cut
        close(&x_0(Some(1.0))[..6], &rows[0].map(|v| v / 3.0));
        close(&x_0(None)[..6], &[0.5, -1.0, 1.0, -1.0, 1.0, -1.0]);
    }
}

//! Training losses of diffusion networks. Every loss is per item, `[batch]`, averaged over the
//! item's elements; the caller averages over the batch.

use burn::tensor::Tensor;

use crate::prediction::log_variance_range;
use crate::sampler::posterior_mean;
use crate::{Network, NoiseSchedule, Parameterization, Stage, VarianceType, Weighting};

/// One training draw: a clean batch, its noise, and how far each row is noised.
#[derive(Debug, Clone)]
pub struct Noised<const D: usize> {
    /// The clean batch, `[batch, channels, ..]`.
    pub x_0: Tensor<D>,
    /// The noise that was mixed in, of the same shape.
    pub epsilon: Tensor<D>,
    /// x_t, of the same shape.
    pub x_t: Tensor<D>,
    /// Position of each row in the training schedule.
    pub indices: Vec<usize>,
}

impl<const D: usize> Noised<D> {
    /// Mixes `epsilon` into `x_0` at the given positions of the schedule.
    pub fn new(
        schedule: &NoiseSchedule,
        x_0: Tensor<D>,
        epsilon: Tensor<D>,
        indices: Vec<usize>,
    ) -> Self {
        let x_t = schedule.add_noise(x_0.clone(), epsilon.clone(), &indices);
        Self { x_0, epsilon, x_t, indices }
    }

    /// The target for the network's output.
    pub fn target(&self, schedule: &NoiseSchedule, kind: Parameterization) -> Tensor<D> {
        let device = self.x_0.device();
        let signal = schedule.gather(&self.indices, &device, |s| s.alpha_bar.sqrt());
        let noise = schedule.gather(&self.indices, &device, |s| (1.0 - s.alpha_bar).sqrt());
        kind.target(self.x_0.clone(), self.epsilon.clone(), signal, noise)
    }

    /// Weight of each row's squared error, `[batch]`.
    pub fn weights(
        &self,
        schedule: &NoiseSchedule,
        kind: Parameterization,
        weighting: Weighting,
    ) -> Tensor<1> {
        schedule.gather(&self.indices, &self.x_0.device(), |step| {
            let snr = step.alpha_bar / (1.0 - step.alpha_bar).max(f64::MIN_POSITIVE);
            weighting.weight(kind, snr)
        })
    }
}

/// The training loss of a stage: the mean squared error of its prediction, plus the variational
/// bound if its variance is learned (Improved DDPM).
///
/// The weighting is that of the squared error; the bound counts as it is.
///
/// # Shapes
/// - result: `[batch]`
///
/// # Panics
/// For [`VarianceType::Learned`]: published models learn a [`VarianceType::LearnedRange`].
pub fn training_loss<const D: usize, S: Stage<D>>(
    stage: &S,
    network: &S::Network,
    condition: &S::Condition,
    schedule: &NoiseSchedule,
    noised: &Noised<D>,
    weighting: Weighting,
) -> Tensor<1> {
    let config = stage.diffusion();
    let kind = config.parameterization;
    assert!(config.variance != VarianceType::Learned, "only a range of variances is trained");
    let timesteps = schedule.gather_timesteps(&noised.indices, &noised.x_t.device());
    let output = stage.bind(network, condition).forward(noised.x_t.clone(), timesteps);
    let weights = noised.weights(schedule, kind, weighting);
    if config.variance.is_learned() {
        let (simple, bound) = hybrid_loss(schedule, kind, noised, output);
        return simple * weights + bound;
    }
    // a variance that is given and not used is not trained
    let output = output.narrow(1, 0, noised.x_0.dims()[1]);
    mean_squared_error(output, noised.target(schedule, kind)) * weights
}

/// Mean squared error per item: `[batch]`, of two `[batch, ..]`.
pub fn mean_squared_error<const D: usize>(output: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
    let difference = output - target;
    mean_per_item(difference.clone() * difference)
}

/// The hybrid loss of Improved DDPM (Nichol & Dhariwal 2021, section 3.1) for a network with
/// `LearnedRange` variance: the mean squared error of the prediction, plus the variational bound in
/// bits, weighted by T/1000, whose gradient reaches only the variance.
///
/// # Shapes
/// - `output`: `[batch, 2·channels, ..]`, prediction first, variance second
/// - result: two of `[batch]`, the simple term and the weighted bound
pub fn hybrid_loss<const D: usize>(
    schedule: &NoiseSchedule,
    kind: Parameterization,
    noised: &Noised<D>,
    output: Tensor<D>,
) -> (Tensor<1>, Tensor<1>) {
    let channels = noised.x_0.dims()[1];
    let prediction = output.clone().narrow(1, 0, channels);
    let raw_variance = output.narrow(1, channels, channels);
    let simple = mean_squared_error(prediction.clone(), noised.target(schedule, kind));
    let bound = variational_bound(schedule, kind, noised, prediction.detach(), raw_variance);
    (simple, bound * (schedule.len() as f64 / 1000.0))
}

/// The term of the variational bound at each row's timestep, in bits per dimension: the KL
/// divergence of the model's reverse step from the true one, or at the first timestep the negative
/// log-likelihood of the 8-bit value.
fn variational_bound<const D: usize>(
    schedule: &NoiseSchedule,
    kind: Parameterization,
    noised: &Noised<D>,
    prediction: Tensor<D>,
    raw_variance: Tensor<D>,
) -> Tensor<1> {
    let device = noised.x_0.device();
    let low: Tensor<D> = schedule.gather(&noised.indices, &device, |s| log_variance_range(&s).0);
    let high: Tensor<D> = schedule.gather(&noised.indices, &device, |s| log_variance_range(&s).1);
    let log_variance = (raw_variance + 1.0) * 0.5 * (high - low.clone()) + low.clone();
    let (mean, true_mean) = posterior_means(schedule, kind, noised, prediction);
    let divergence = normal_kl(true_mean, low, mean.clone(), log_variance.clone());
    let likelihood = discretized_nll(noised.x_0.clone(), mean, log_variance);
    let first: Tensor<D> = schedule.gather(&noised.indices, &device, |s| f64::from(s.is_last()));
    let nats = divergence * (first.clone() * -1.0 + 1.0) + likelihood * first;
    mean_per_item(nats) / std::f64::consts::LN_2
}

/// Posterior means from the predicted and from the true clean sample.
fn posterior_means<const D: usize>(
    schedule: &NoiseSchedule,
    kind: Parameterization,
    noised: &Noised<D>,
    prediction: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    let rows = |tensor: &Tensor<D>, row: usize| tensor.clone().narrow(0, row, 1);
    let (mut predicted, mut known) = (Vec::new(), Vec::new());
    for (row, &index) in noised.indices.iter().enumerate() {
        let step = schedule.step(index);
        let x_t = rows(&noised.x_t, row);
        let x_0 = kind.x_0(x_t.clone(), rows(&prediction, row), &step);
        predicted.push(posterior_mean(x_0, x_t.clone(), &step));
        known.push(posterior_mean(rows(&noised.x_0, row), x_t, &step));
    }
    (Tensor::cat(predicted, 0), Tensor::cat(known, 0))
}

/// KL divergence of two diagonal normals, in nats, elementwise.
fn normal_kl<const D: usize>(
    mean_1: Tensor<D>,
    log_variance_1: Tensor<D>,
    mean_2: Tensor<D>,
    log_variance_2: Tensor<D>,
) -> Tensor<D> {
    let distance = (mean_1 - mean_2).powf_scalar(2.0) * (log_variance_2.clone() * -1.0).exp();
    let difference = log_variance_1 - log_variance_2;
    (difference.clone().exp() - difference - 1.0 + distance) * 0.5
}

/// Negative log-likelihood, in nats, of values on the 8-bit grid of [−1, 1] under a normal whose
/// distribution function is approximated by a tanh, as in the reference implementation.
fn discretized_nll<const D: usize>(
    x: Tensor<D>,
    mean: Tensor<D>,
    log_variance: Tensor<D>,
) -> Tensor<D> {
    let inverse_std = (log_variance * -0.5).exp();
    let centered = x.clone() - mean;
    let above = normal_cdf((centered.clone() + 1.0 / 255.0) * inverse_std.clone());
    let below = normal_cdf((centered - 1.0 / 255.0) * inverse_std);
    let log_above = above.clone().clamp_min(1e-12).log();
    let log_not_below = (below.clone() * -1.0 + 1.0).clamp_min(1e-12).log();
    let log_between = (above - below).clamp_min(1e-12).log();
    let log_probability = log_between
        .mask_where(x.clone().lower_elem(-0.999), log_above)
        .mask_where(x.greater_elem(0.999), log_not_below);
    log_probability * -1.0
}

fn normal_cdf<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let cubic = x.clone() * x.clone() * x.clone() * 0.044715 + x;
    ((cubic * (2.0 / std::f64::consts::PI).sqrt()).tanh() + 1.0) * 0.5
}

/// The mean over everything but the batch.
fn mean_per_item<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    let batch = x.dims()[0];
    let elements = x.shape().num_elements() / batch;
    x.reshape([batch, elements]).mean_dim(1).reshape([batch])
}

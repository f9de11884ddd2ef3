//! The timestep as a vector: sinusoids, then a small network.

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};

use crate::ops::{linear, silu};

/// Longest wavelength of the sinusoids.
const MAX_PERIOD: f64 = 10_000.0;

/// Sinusoids of the timesteps, cosines first: cos(t·ω_k), sin(t·ω_k) with
/// ω_k = 10000^(−k / (dim/2)).
///
/// # Shapes
/// - `timesteps`: `[batch]`
/// - result: `[batch, dim]`; an odd `dim` is padded with a zero
///
/// Source: Transformer (Vaswani et al. 2017) as laid out by guided-diffusion and Karlo.
pub fn timestep_embedding(timesteps: Tensor<1>, dim: usize) -> Tensor<2> {
    let half = dim / 2;
    let angles = angles(timesteps, half, MAX_PERIOD.ln() / half as f64);
    let mut parts = vec![angles.clone().cos(), angles.clone().sin()];
    if dim % 2 == 1 {
        parts.push(angles.narrow(1, 0, 1).zeros_like());
    }
    Tensor::cat(parts, 1)
}

/// Sinusoids of the timesteps, sines first: sin(t·ω_k), cos(t·ω_k) with
/// ω_k = 10000^(−k / (dim/2 − 1)).
///
/// # Shapes
/// - `timesteps`: `[batch]`
/// - result: `[batch, dim]`, for an even `dim` above 2
///
/// Source: DALLE2-pytorch.
pub fn sine_first_embedding(timesteps: Tensor<1>, dim: usize) -> Tensor<2> {
    let half = dim / 2;
    let rate = MAX_PERIOD.ln() / (half - 1) as f64;
    let angles = angles(timesteps, half, rate);
    Tensor::cat(vec![angles.clone().sin(), angles.cos()], 1)
}

/// Timesteps times `n` frequencies exp(−rate·k): `[batch, n]`.
fn angles(timesteps: Tensor<1>, n: usize, rate: f64) -> Tensor<2> {
    let frequencies: Vec<f32> = (0..n).map(|k| (-rate * k as f64).exp() as f32).collect();
    let device = timesteps.device();
    let frequencies = Tensor::<1>::from_data(TensorData::new(frequencies, [n]), &device);
    timesteps.unsqueeze_dim::<2>(1) * frequencies.unsqueeze_dim::<2>(0)
}

/// Two linear layers with a SiLU between them, over the sinusoids.
#[derive(Module, Debug)]
pub struct TimestepEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    sinusoids: usize,
}

impl TimestepEmbedding {
    /// From `sinusoids` sinusoids to a vector of `d_embedding`.
    pub fn new(sinusoids: usize, d_embedding: usize, device: &Device) -> Self {
        Self {
            linear_1: LinearConfig::new(sinusoids, d_embedding).init(device),
            linear_2: LinearConfig::new(d_embedding, d_embedding).init(device),
            sinusoids,
        }
    }

    /// Sinusoids of the timesteps, through two linear layers.
    ///
    /// # Shapes
    /// - `timesteps`: `[batch]`
    /// - result: `[batch, d_embedding]`
    pub fn forward(&self, timesteps: Tensor<1>) -> Tensor<2> {
        let x = timestep_embedding(timesteps, self.sinusoids);
        linear(&self.linear_2, silu(linear(&self.linear_1, x)))
    }
}

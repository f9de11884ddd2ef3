//! The one forward loop: from a clean sample to the noise that DDIM would start from.

use burn::tensor::Tensor;

use crate::{Denoiser, NoiseSchedule};

/// Deterministic DDIM encoding: returns the x_T from which [`sample`](crate::sample) with
/// [`Ddim`](crate::Ddim) at eta 0 gives `x_0` back, the better the more steps the schedule has.
///
/// Each step reads DDIM's equation 12 the other way, with the noise estimate of the cleaner end
/// (Song et al. 2021, section 4.3; the decoder's half of unCLIP's bipartite latent).
///
/// # Shapes
/// - `x_0`, result: `[batch, channels, ..]`
pub fn invert<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    schedule: &NoiseSchedule,
    x_0: Tensor<D>,
) -> Tensor<D> {
    let mut x_t = x_0;
    let mut from = schedule.step(0);
    // the cleanest noise level stands for the clean sample itself
    for index in 1..schedule.len() {
        let prediction = denoiser.denoise(x_t.clone(), &from);
        let to = schedule.step(index);
        let epsilon = prediction.epsilon(x_t, &from);
        x_t = prediction.x_0 * to.alpha_bar.sqrt() + epsilon * (1.0 - to.alpha_bar).sqrt();
        from = to;
    }
    x_t
}

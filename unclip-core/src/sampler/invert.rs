//! The one forward loop: from a clean sample to the noise that DDIM would start from.

use burn::tensor::Tensor;

use crate::{Denoiser, Interrupted, NoiseSchedule, Observer, StepEvent};

/// Deterministic DDIM encoding: returns the x_T from which [`sample`](crate::sample) with
/// [`Ddim`](crate::Ddim) at eta 0 gives `x_0` back, more accurately the more steps the schedule
/// has.
///
/// Each step applies DDIM's equation 12 in reverse, with the noise estimate of the cleaner end
/// (Song et al. 2021, section 4.3; the decoder's half of unCLIP's bipartite latent). The observer
/// is called after each step; there is one fewer than the schedule has.
///
/// # Shapes
/// - `x_0`, result: `[batch, ..]`
///
/// # Errors
/// [`Interrupted`] when the observer asked to stop.
pub fn invert<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    schedule: &NoiseSchedule,
    x_0: Tensor<D>,
    observer: &mut dyn Observer<D>,
) -> Result<Tensor<D>, Interrupted> {
    let total = schedule.len() - 1;
    let mut x_t = x_0;
    // the cleanest noise level stands for the clean sample itself
    for index in 0..total {
        let (from, to) = (schedule.step(index), schedule.step(index + 1));
        let prediction = denoiser.denoise(x_t.clone(), &from).guided(&from);
        let epsilon = prediction.epsilon(x_t, &from);
        x_t = prediction.at(epsilon, to.alpha_bar);
        let x_0 = &prediction.x_0;
        let event = StepEvent { index, total, timestep: from.timestep, x_0 };
        if observer.on_step(event).is_break() {
            return Err(Interrupted { done: index + 1, total });
        }
    }
    Ok(x_t)
}

//! Another network for the last step.

use burn::tensor::Tensor;
use unclip_core::{Denoiser, Prediction, Step};

/// One denoiser for all steps but the last, which another takes. Karlo's second network was tuned
/// with an adversarial loss for exactly that step.
#[derive(Debug, Clone)]
pub struct LastStep<A, B> {
    /// All steps but the last.
    pub first: A,
    /// The last.
    pub last: B,
}

impl<const D: usize, A: Denoiser<D>, B: Denoiser<D>> Denoiser<D> for LastStep<A, B> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        match step.is_last() {
            true => self.last.denoise(x_t, step),
            false => self.first.denoise(x_t, step),
        }
    }
}

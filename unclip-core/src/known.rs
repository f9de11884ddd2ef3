//! Samples of which a part is known.

use burn::tensor::Tensor;

use crate::{Denoiser, Prediction, Step};

/// Puts what is known of the clean sample in the place of what is predicted for it (GLIDE's
/// inpainting, Nichol et al. 2021, section 2.4 and its code).
///
/// [`Kept`](crate::Kept) is the other way to keep a part: it replaces the noisy sample itself.
#[derive(Debug, Clone)]
pub struct Known<M, const D: usize> {
    /// The denoiser whose prediction is replaced in part.
    pub inner: M,
    /// The clean sample, of the shape of `x_t`.
    pub x_0: Tensor<D>,
    /// 1 where it is known, 0 elsewhere: `[batch, 1 or channels, ..]`.
    pub mask: Tensor<D>,
}

impl<const D: usize, M: Denoiser<D>> Denoiser<D> for Known<M, D> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        let prediction = self.inner.denoise(x_t, step);
        let drawn = prediction.x_0 * (1.0 - self.mask.clone());
        let x_0 = drawn + self.x_0.clone() * self.mask.clone();
        // the noise that was predicted is not beside what is known
        Prediction { x_0, unclamped: None, ..prediction }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{BetaSchedule, DiffusionConfig, NoiseSchedule, Parameterization};

    #[test]
    fn what_is_known_takes_the_place_of_the_prediction() {
        let device = Device::flex();
        let row = |values: [f32; 3]| Tensor::<2>::from_floats([values], &device);
        let config = DiffusionConfig::cosine(Parameterization::Sample);
        let network = |x_t: Tensor<2>, _: Tensor<1>| x_t * 0.5;
        let known = Known {
            inner: config.denoiser(network),
            x_0: row([0.25, 9.0, -1.0]),
            mask: row([1.0, 0.0, 1.0]),
        };
        let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 10).unwrap();
        let found = known.denoise(row([1.0, 1.5, 0.0]), &schedule.step(5)).x_0.into_data();
        assert_eq!(found.iter::<f32>().collect::<Vec<_>>(), [0.25, 0.75, -1.0]);
    }
}

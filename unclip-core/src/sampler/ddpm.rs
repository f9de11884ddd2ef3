//! Ancestral sampling.

use burn::tensor::Tensor;

use super::method::{Known, Reverse, Sampler, SamplingMethod, Stepped, plain};
use crate::{Prediction, Step, VarianceType, Variances};

pub(super) const KNOWN: Known =
    Known { spellings: "ddpm", names: &["ddpm"], parse: |parameter| plain(Ddpm, parameter) };

/// DDPM (Ho et al. 2020, eq. 6 and 7): the posterior mean of (x_0, x_t), plus noise of the
/// variance Σ that the network was trained for.
///
/// A guidance gradient moves the mean by Σ·gradient (Dhariwal & Nichol 2021, algorithm 1).
#[derive(Debug, Clone, Copy)]
pub struct Ddpm;

impl SamplingMethod for Ddpm {
    fn spelling(&self) -> String {
        "ddpm".into()
    }

    fn remembers_steps(&self) -> bool {
        false
    }

    fn start(&self, variances: &Variances<'_>) -> Box<dyn Sampler> {
        let kind = variances.kind;
        Ancestral::boxed(move |prediction, step| Deviation::new(kind, prediction, step))
    }
}

/// Takes ancestral steps of a deviation.
pub(super) struct Ancestral<F>(F);

impl<F: Fn(&Prediction<2>, &Step) -> Deviation + 'static> Ancestral<F> {
    pub(super) fn boxed(deviation: F) -> Box<dyn Sampler> {
        Box::new(Self(deviation))
    }
}

/// The posterior mean √ᾱ_prev·β/(1 − ᾱ)·x_0 + √α·(1 − ᾱ_prev)/(1 − ᾱ)·x_t, with α = 1 − β.
pub(crate) fn posterior_mean<const D: usize>(
    x_0: Tensor<D>,
    x_t: Tensor<D>,
    step: &Step,
) -> Tensor<D> {
    let from_x_t = (1.0 - step.beta).sqrt() * (1.0 - step.alpha_bar_prev) / (1.0 - step.alpha_bar);
    x_0 * weight_of_x_0(step) + x_t * from_x_t
}

/// The weight of x_0 in the posterior mean.
pub(super) fn weight_of_x_0(step: &Step) -> f64 {
    step.alpha_bar_prev.sqrt() * step.beta / (1.0 - step.alpha_bar)
}

impl<F: Fn(&Prediction<2>, &Step) -> Deviation> Sampler for Ancestral<F> {
    /// Takes an ancestral step.
    ///
    /// # Panics
    /// If the variance is learned and the denoiser gives none.
    fn step(&mut self, x_t: Tensor<2>, reverse: &mut Reverse<'_>) -> Stepped {
        let step = reverse.step;
        let prediction = reverse.denoise(x_t.clone(), &step);
        let epsilon = reverse.noise(&x_t);
        let x_0 = prediction.x_0.clone();
        let deviation = (self.0)(&prediction, &step);
        let mut x_prev = posterior_mean(prediction.x_0, x_t, &step);
        if let Some(gradient) = prediction.gradient {
            x_prev = x_prev + deviation.scale(deviation.scale(gradient));
        }
        if let Some(epsilon) = epsilon {
            x_prev = x_prev + deviation.scale(epsilon);
        }
        Stepped { x_prev, x_0 }
    }
}

/// The square root of Σ: one number, or one for each value.
pub(super) enum Deviation {
    Fixed(f64),
    Learned(Box<Tensor<2>>),
}

impl Deviation {
    fn new(variance: VarianceType, prediction: &Prediction<2>, step: &Step) -> Self {
        match variance {
            VarianceType::FixedLarge => Self::Fixed(step.beta.sqrt()),
            VarianceType::FixedSmall => Self::Fixed(step.posterior_variance().max(1e-20).sqrt()),
            VarianceType::Learned | VarianceType::LearnedRange => {
                let log_variance = prediction.log_variance.clone();
                let log_variance = log_variance.expect("a network of learned variance gives one");
                Self::Learned(Box::new((log_variance * 0.5).exp()))
            }
        }
    }

    fn scale(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Fixed(deviation) => x * *deviation,
            Self::Learned(deviation) => x * (**deviation).clone(),
        }
    }
}

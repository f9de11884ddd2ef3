//! Sampling that can be undone to the last digits.

use burn::tensor::Tensor;

use super::method::{Known, Reverse, Sampler, SamplingMethod, Stepped, plain};
use super::walk::as_rows;
use crate::{Denoiser, Interrupted, NoiseSchedule, Observer, Step, StepEvent, Variances};

pub(super) const KNOWN: Known =
    Known { spellings: "belm", names: &["belm", "o_belm"], parse: |it| plain(Belm, it) };

/// O-BELM (Wang et al. 2024, "BELM: Bidirectional Explicit Linear Multi-step Sampler"): a
/// deterministic method of second order with one call a step, whose steps can be solved for the
/// noisier sample. [`invert_exactly`] does that.
///
/// A step needs the two samples before it. The first one, which has only one, is DDIM's.
#[derive(Debug, Clone, Copy)]
pub struct Belm;

impl SamplingMethod for Belm {
    fn spelling(&self) -> String {
        "belm".into()
    }

    fn draws_noise(&self) -> bool {
        false
    }

    fn start(&self, _: &Variances<'_>) -> Box<dyn Sampler> {
        Box::new(Walk { noisier: None, second: None, is_exact: false })
    }
}

/// What [`invert_exactly`] gives: the two noisiest samples, from which the walk starts again.
#[derive(Debug, Clone)]
pub struct ExactStart<const D: usize> {
    /// The noisiest sample.
    pub x_t: Tensor<D>,
    /// The sample one step cleaner.
    pub x_prev: Tensor<D>,
}

impl<const D: usize> ExactStart<D> {
    /// The sampler that goes on from here: [`sample`](crate::sample) with it, from
    /// [`x_t`](Self::x_t), gives back the sample that was inverted, if nothing else changed.
    pub fn sampler(&self) -> Box<dyn Sampler> {
        let second = Some(as_rows(self.x_prev.clone()));
        Box::new(Walk { noisier: None, second, is_exact: true })
    }
}

struct Walk {
    /// The sample of the step before, and where it was.
    noisier: Option<(Step, Tensor<2>)>,
    /// The second sample of an exact start, until it is reached.
    second: Option<Tensor<2>>,
    /// Whether the walk undoes [`invert_exactly`], for which the cleanest level stands for the
    /// clean sample itself.
    is_exact: bool,
}

/// Signal and noise of a level: α = √ᾱ, and σ̄ = √(1 − ᾱ)/√ᾱ.
fn level(alpha_bar: f64) -> (f64, f64) {
    let alpha = alpha_bar.sqrt();
    (alpha, (1.0 - alpha_bar).sqrt() / alpha)
}

impl Sampler for Walk {
    fn step(&mut self, x_t: Tensor<2>, reverse: &mut Reverse<'_>) -> Stepped {
        let step = reverse.step;
        if let Some(second) = self.second.take() {
            self.noisier = Some((step, x_t.clone()));
            return Stepped { x_prev: second, x_0: x_t };
        }
        if self.is_exact && reverse.next.is_none() {
            return Stepped { x_prev: x_t.clone(), x_0: x_t };
        }
        let prediction = reverse.denoise(x_t.clone(), &step).guided(&step);
        let epsilon = prediction.epsilon(x_t.clone(), &step);
        let x_prev = match (&self.noisier, reverse.next) {
            (Some((before, x_before)), Some(next)) => {
                let levels = [before.alpha_bar, step.alpha_bar, next.alpha_bar].map(level);
                belm(levels, x_before.clone(), x_t.clone(), epsilon)
            }
            // DDIM's, which ends at the clean sample
            _ => prediction.at(epsilon, step.alpha_bar_prev),
        };
        self.noisier = Some((step, x_t));
        Stepped { x_prev, x_0: prediction.x_0 }
    }
}

/// Equation 18 of the paper: from x_{i+1} and x_i, with the noise in x_i, to x_{i−1}. Read from the
/// other end it is the same equation, since h changes its sign with the direction.
///
/// `levels` are those of x_{i+1}, x_i and x_{i−1}.
fn belm<const D: usize>(
    levels: [(f64, f64); 3],
    x_far: Tensor<D>,
    x_near: Tensor<D>,
    epsilon: Tensor<D>,
) -> Tensor<D> {
    let [(alpha_far, sigma_far), (alpha_near, sigma_near), (alpha_to, sigma_to)] = levels;
    let (h_far, h) = (sigma_far - sigma_near, sigma_near - sigma_to);
    let ratio = h / h_far;
    let squared = ratio * ratio;
    x_far * (squared * alpha_to / alpha_far) + x_near * ((1.0 - squared) * alpha_to / alpha_near)
        - epsilon * (h * (1.0 + ratio) * alpha_to)
}

/// The way back of [`Belm`]: the start from which it gives `x_0` again, exact but for round-off. It
/// needs one call a step, as [`invert`](crate::invert) does.
///
/// On the way to noise, round-off grows with the distance of neighboring levels in √(1 − ᾱ)/√ᾱ, and
/// shrinks again on the way back. Hundreds of steps, whose first levels are very near each other,
/// lose digits by that.
///
/// Guidance and clamping do not spoil exactness, only what the start looks like: far from noise
/// where the denoiser's answers change much from one step to the next.
///
/// The last step of a cosine schedule is a thousand times as long as the one before it, and its
/// round-off is multiplied by the square of that: leave it out
/// ([`NoiseSchedule::cleanest`](crate::NoiseSchedule::cleanest)).
///
/// # Shapes
/// - `x_0`, both results: `[batch, ..]`
///
/// # Errors
/// [`Interrupted`] when the observer asked to stop.
///
/// # Panics
/// If the schedule has fewer than two steps.
pub fn invert_exactly<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    schedule: &NoiseSchedule,
    x_0: Tensor<D>,
    observer: &mut dyn Observer<D>,
) -> Result<ExactStart<D>, Interrupted> {
    let total = schedule.len() - 1;
    assert!(total > 0, "an exact start has two samples");
    let mut cleaner: Option<(Step, Tensor<D>)> = None;
    let mut x_t = x_0;
    for index in 0..total {
        let (from, to) = (schedule.step(index), schedule.step(index + 1));
        let prediction = denoiser.denoise(x_t.clone(), &from).guided(&from);
        let epsilon = prediction.epsilon(x_t.clone(), &from);
        let x_next = match cleaner {
            Some((before, x_before)) => {
                let levels = [before.alpha_bar, from.alpha_bar, to.alpha_bar].map(level);
                belm(levels, x_before, x_t.clone(), epsilon)
            }
            None => prediction.at(epsilon, to.alpha_bar),
        };
        let x_0 = &prediction.x_0;
        let event = StepEvent { index, total, timestep: from.timestep, x_0 };
        if observer.on_step(event).is_break() {
            return Err(Interrupted { done: index + 1, total });
        }
        cleaner = Some((from, x_t));
        x_t = x_next;
    }
    let (_, x_prev) = cleaner.unwrap_or_else(|| unreachable!("at least one step"));
    Ok(ExactStart { x_t, x_prev })
}

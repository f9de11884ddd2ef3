//! The one reverse loop.

use burn::tensor::Tensor;

use super::method::{Reverse, Sampler, Stepped, draw};
use crate::{
    Denoiser, Interrupted, NoiseSchedule, NoiseSource, Observer, Prediction, Step, StepEvent,
};

/// Walks a schedule from its noisiest step to its cleanest and returns the sample.
///
/// `x_t` is the start: pure noise, or an encoded sample. [`NoiseSchedule::cleanest`] starts the
/// walk further down. The observer is called after every step and may stop the loop.
///
/// # Shapes
/// - `x_t`, result: `[batch, ..]`
///
/// # Errors
/// [`Interrupted`] when the observer asked to stop.
pub fn sample<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    sampler: &mut dyn Sampler,
    schedule: &NoiseSchedule,
    x_t: Tensor<D>,
    noise: &mut dyn NoiseSource,
    observer: &mut dyn Observer<D>,
) -> Result<Tensor<D>, Interrupted> {
    let moves = (0..schedule.len()).rev().map(Move::Down);
    let walk = Walk { schedule, moves: moves.collect(), kept: None };
    walk.go(denoiser, sampler, x_t, noise, observer)
}

/// A step of a walk over a schedule's levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// A reverse step from the level of this place to the next cleaner one.
    Down(usize),
    /// Noise is added, to the level of this place from the next cleaner one.
    Up(usize),
}

/// A walk over the levels of a schedule.
pub(super) struct Walk<'a> {
    pub(super) schedule: &'a NoiseSchedule,
    pub(super) moves: Vec<Move>,
    /// What stays as it is, if anything does.
    pub(super) kept: Option<KeptRows>,
}

impl Walk<'_> {
    pub(super) fn go<const D: usize>(
        self,
        denoiser: &dyn Denoiser<D>,
        sampler: &mut dyn Sampler,
        x_t: Tensor<D>,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer<D>,
    ) -> Result<Tensor<D>, Interrupted> {
        let Self { schedule, moves, kept } = self;
        let total = moves.iter().filter(|it| matches!(it, Move::Down(_))).count();
        let shape = x_t.dims();
        let rows = Rows { denoiser, shape };
        let (mut x_t, mut done) = (as_rows(x_t), 0);
        for place in moves {
            let index = match place {
                Move::Down(index) => index,
                Move::Up(index) => {
                    x_t = noisier(x_t, &schedule.step(index), noise, &shape);
                    continue;
                }
            };
            let mut reverse = Reverse::new(&rows, schedule, index, noise, &shape);
            let step = reverse.step;
            let Stepped { x_prev, x_0 } = sampler.step(x_t, &mut reverse);
            x_t = match &kept {
                Some(kept) => kept.put_into(x_prev, &step, noise, &shape),
                None => x_prev,
            };
            let x_0 = &x_0.reshape(shape);
            let event = StepEvent { index: done, total, timestep: step.timestep, x_0 };
            done += 1;
            if observer.on_step(event).is_break() {
                return Err(Interrupted { done, total });
            }
        }
        Ok(x_t.reshape(shape))
    }
}

/// A denoiser of samples of any shape, as samplers see it.
struct Rows<'a, const D: usize> {
    denoiser: &'a dyn Denoiser<D>,
    shape: [usize; D],
}

impl<const D: usize> Denoiser<2> for Rows<'_, D> {
    fn denoise(&self, x_t: Tensor<2>, step: &Step) -> Prediction<2> {
        let Prediction { x_0, log_variance, gradient, limit, unclamped } =
            self.denoiser.denoise(x_t.reshape(self.shape), step);
        Prediction {
            x_0: as_rows(x_0),
            log_variance: log_variance.map(as_rows),
            gradient: gradient.map(as_rows),
            limit,
            unclamped: unclamped.map(as_rows),
        }
    }
}

pub(super) fn as_rows<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let batch = x.dims()[0];
    let values = x.shape().num_elements() / batch;
    x.reshape([batch, values])
}

/// What stays as it is, as rows of numbers.
pub(super) struct KeptRows {
    pub(super) x_0: Tensor<2>,
    pub(super) mask: Tensor<2>,
    pub(super) noise: Option<Tensor<2>>,
}

impl KeptRows {
    /// The kept part in a sample that was stepped from `step`.
    fn put_into(
        &self,
        x_prev: Tensor<2>,
        step: &Step,
        noise: &mut dyn NoiseSource,
        shape: &[usize],
    ) -> Tensor<2> {
        let level = step.alpha_bar_prev;
        let known = if step.is_last() {
            self.x_0.clone()
        } else {
            let own = self.noise.clone();
            let epsilon = own.unwrap_or_else(|| draw(noise, step.index, shape, &x_prev));
            self.x_0.clone() * level.sqrt() + epsilon * (1.0 - level).sqrt()
        };
        // a choice and no mixture: what is kept stays to the last bit
        x_prev.mask_where(self.mask.clone().greater_elem(0.5), known)
    }
}

/// One step of the forward process, to the level of `step`.
fn noisier(
    x_prev: Tensor<2>,
    step: &Step,
    noise: &mut dyn NoiseSource,
    shape: &[usize],
) -> Tensor<2> {
    let epsilon = draw(noise, step.index, shape, &x_prev);
    x_prev * (1.0 - step.beta).sqrt() + epsilon * step.beta.sqrt()
}

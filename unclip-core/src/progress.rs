//! What the reverse loop reports, and how it is stopped.

use std::ops::ControlFlow;

use burn::tensor::Tensor;

/// One finished reverse step.
#[derive(Debug)]
pub struct StepEvent<'a, const D: usize> {
    /// Steps done before this one, from 0.
    pub index: usize,
    /// Steps in all.
    pub total: usize,
    /// Timestep of the training schedule that was just used.
    pub timestep: usize,
    /// The network's current estimate of the clean sample: a preview.
    pub x_0: &'a Tensor<D>,
}

/// Called after every reverse step, and may stop the loop. `()` observes nothing.
pub trait Observer<const D: usize> {
    /// Called after a step; `Break` stops the loop.
    fn on_step(&mut self, event: StepEvent<'_, D>) -> ControlFlow<()>;
}

impl<const D: usize> Observer<D> for () {
    fn on_step(&mut self, _: StepEvent<'_, D>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl<const D: usize, F> Observer<D> for F
where
    F: FnMut(StepEvent<'_, D>) -> ControlFlow<()>,
{
    fn on_step(&mut self, event: StepEvent<'_, D>) -> ControlFlow<()> {
        self(event)
    }
}

/// The observer asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped after step {done} of {total}")]
pub struct Interrupted {
    /// Steps done.
    pub done: usize,
    /// Steps that were planned.
    pub total: usize,
}

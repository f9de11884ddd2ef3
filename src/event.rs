//! What a user hears while a picture is made.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use burn::tensor::Tensor;

/// A stage of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Caption to text embedding, in one call.
    TextEncoder,
    /// Text embedding to image embedding.
    Prior,
    /// Image embedding to a small picture.
    Decoder,
    /// A small picture to a larger one, by its place in the cascade.
    Upsampler(usize),
}

impl Stage {
    /// The noise stream of a stage: each has its own, so that the steps of one do not change the
    /// noise of the next.
    pub(crate) fn noise_stream(self) -> u64 {
        match self {
            Self::TextEncoder => 0,
            Self::Prior => 1,
            Self::Decoder => 2,
            Self::Upsampler(place) => 3 + place as u64,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TextEncoder => f.write_str("text_encoder"),
            Self::Prior => f.write_str("prior"),
            Self::Decoder => f.write_str("decoder"),
            Self::Upsampler(place) => write!(f, "upsampler.{place}"),
        }
    }
}

/// One finished reverse step.
#[derive(Debug)]
pub struct Event<'a> {
    /// The stage at work.
    pub stage: Stage,
    /// Steps done before this one, from 0.
    pub index: usize,
    /// Steps of this stage in all.
    pub total: usize,
    /// Timestep of the training schedule.
    pub timestep: usize,
    /// Time that the step took, the network's call included.
    pub elapsed: Duration,
    /// The pictures as they look now, `[batch, 3, height, width]`; none in the prior.
    pub preview: Option<&'a Tensor<4>>,
}

/// Hears of every reverse step and may stop the work. `()` hears nothing.
pub trait Observer {
    /// Called after a step; `Break` ends the call with [`Error::Stopped`](crate::Error::Stopped).
    fn on_step(&mut self, event: &Event<'_>) -> ControlFlow<()>;
}

impl Observer for () {
    fn on_step(&mut self, _: &Event<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

impl<F: FnMut(&Event<'_>) -> ControlFlow<()>> Observer for F {
    fn on_step(&mut self, event: &Event<'_>) -> ControlFlow<()> {
        self(event)
    }
}

//! Progress reports while a picture is being made.

use std::ops::ControlFlow;
use std::time::Duration;

use burn::tensor::Tensor;
use image::RgbImage;

use crate::StageId;

/// One finished step of a diffusion stage.
#[derive(Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The stage at work.
    pub stage: StageId,
    /// Steps of this stage done before this one, from 0.
    pub index: usize,
    /// Steps of this stage in all.
    pub total: usize,
    /// Steps of the whole call done before this one, over all stages.
    pub call_index: usize,
    /// Steps of the whole call; `None` if stages are driven one by one, so that the total is
    /// unknown.
    pub call_total: Option<usize>,
    /// Timestep of the training schedule.
    pub timestep: usize,
    /// Time that the step took, including its network calls.
    pub elapsed: Duration,
    /// The pictures as they look now, `[batch, 3, height, width]` in [−1, 1]; `None` in the prior.
    pub preview: Option<&'a Tensor<4>>,
}

impl Event<'_> {
    /// The pictures as they look now; `None` in the prior. Reading them from a GPU waits for it to
    /// finish.
    pub fn pictures(&self) -> Option<Vec<RgbImage>> {
        self.preview.map(|preview| unclip_core::image::to_rgb(preview.clone()))
    }
}

/// Called after every step; returning `Break` stops the work, and the call ends with
/// [`Error::Stopped`](crate::Error::Stopped).
pub type Observer<'a> = dyn FnMut(&Event<'_>) -> ControlFlow<()> + 'a;

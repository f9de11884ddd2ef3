//! What a user hears while a picture is made.

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
    /// Steps of the whole call in all; `None` if stages are driven one by one, where nobody knows
    /// what comes next.
    pub call_total: Option<usize>,
    /// Timestep of the training schedule.
    pub timestep: usize,
    /// Time that the step took, the network's calls included.
    pub elapsed: Duration,
    /// The pictures as they look now, `[batch, 3, height, width]` in [−1, 1]; none in the prior.
    pub preview: Option<&'a Tensor<4>>,
}

impl Event<'_> {
    /// The pictures as they look now; none in the prior. Reading them from a GPU waits for it.
    pub fn pictures(&self) -> Option<Vec<RgbImage>> {
        self.preview.map(|preview| unclip_core::image::to_rgb(preview.clone()))
    }
}

/// Hears of every step and may stop the work: `Break` ends the call with
/// [`Error::Stopped`](crate::Error::Stopped).
pub type Observer<'a> = dyn FnMut(&Event<'_>) -> ControlFlow<()> + 'a;

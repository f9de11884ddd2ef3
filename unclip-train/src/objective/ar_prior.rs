//! The autoregressive prior.

use burn::tensor::{Device, Tensor, TensorData};
use unclip_prior::ArPrior;

use super::batch::Batch;
use super::contract::Objective;
use super::frozen::{Captions, FrozenClip, Heard, Views};
use super::source::Source;
use crate::TrainError;
use crate::evaluation::{Evaluation, HeldOut, mean_loss};

/// Training of the autoregressive prior. Some of the captions are dropped (paper, section 2.2: 10 %), and
/// with them the similarity; it is also not told for as many of the others, so that guidance may lead
/// away from any caption.
#[derive(Debug)]
pub struct ArPriorObjective {
    /// Data and draws.
    pub source: Source,
    /// What it learns from.
    pub clip: FrozenClip,
    /// The share of captions that are dropped.
    pub drop_caption: f64,
}

/// Captions, some of them dropped, and pictures to embed.
#[derive(Debug)]
pub struct ArPriorBatch {
    views: Views,
    captions: Captions,
    /// 1 in the rows whose similarity is not told.
    unknown: TensorData,
}

impl Batch for ArPriorBatch {
    fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            views: self.views.narrow(start, len),
            captions: self.captions.narrow(start, len),
            unknown: Batch::narrow(&self.unknown, start, len),
        }
    }
}

impl Objective for ArPriorObjective {
    type Network = ArPrior;
    type Batch = ArPriorBatch;

    fn batch(&self, step: u64) -> Result<ArPriorBatch, TrainError> {
        let (heard, mut draws) = self.clip.hear(&self.source, step, self.drop_caption)?;
        let Heard { views, captions, dropped } = heard;
        let untold = draws.chances(dropped.len(), self.drop_caption);
        let unknown: Vec<i32> =
            dropped.iter().zip(untold).map(|(a, b)| i32::from(*a || b)).collect();
        let n = unknown.len();
        Ok(ArPriorBatch { views, captions, unknown: TensorData::new(unknown, [n]) })
    }

    fn loss(&self, prior: &ArPrior, batch: ArPriorBatch) -> Tensor<1> {
        let image = self.clip.image(batch.views);
        let text = self.clip.text(batch.captions);
        let unknown = Tensor::from_data(batch.unknown, &self.source.device);
        prior.loss(&text, &image, unknown).mean()
    }

    fn evaluate(&self, prior: &ArPrior, held_out: &HeldOut) -> Result<Evaluation, TrainError> {
        let own = Self { source: held_out.source.clone(), clip: self.clip.asked(), ..*self };
        mean_loss(&own, prior, held_out)
    }

    fn on(&self, device: &Device) -> Self {
        Self { source: self.source.on(device), clip: self.clip.on(device), ..*self }
    }
}

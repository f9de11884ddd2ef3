//! The autoregressive prior.

use burn::tensor::{Tensor, TensorData};
use unclip_clip::Tokens;
use unclip_prior::ArPrior;

use super::frozen::FrozenClip;
use super::source::{Objective, Source, captions};
use crate::TrainError;
use crate::data::whole_pictures;
use crate::shown::Lesson;

/// Training of the autoregressive prior. 10 % of the captions are dropped (paper, section 2.2), and
/// with them the similarity; it is also not told for 10 % of the others, so that guidance may lead
/// away from any caption.
#[derive(Debug)]
pub struct ArPriorObjective {
    /// Data and draws.
    pub source: Source,
    /// What it learns from.
    pub clip: FrozenClip,
}

/// Captions, some of them dropped, and pictures to embed.
#[derive(Debug)]
pub struct ArPriorBatch {
    tokens: Tokens,
    images: TensorData,
    /// 1 in the rows whose similarity is not told.
    unknown: TensorData,
}

impl Objective for ArPriorObjective {
    type Network = ArPrior;
    type Batch = ArPriorBatch;

    fn batch(&self, step: u64) -> Result<ArPriorBatch, TrainError> {
        const DROPPED: f64 = 0.1;
        let (items, mut draws) = self.source.step(step, self.clip.side(), Lesson::Mixed)?;
        let dropped = draws.chances(items.len(), DROPPED);
        let untold = draws.chances(items.len(), DROPPED);
        let unknown: Vec<i32> =
            dropped.iter().zip(untold).map(|(a, b)| i32::from(*a || b)).collect();
        Ok(ArPriorBatch {
            tokens: self.clip.tokenizer.encode(&captions(&items, &dropped)),
            images: whole_pictures(&items, self.clip.side()),
            unknown: TensorData::new(unknown, [items.len()]),
        })
    }

    fn loss(&self, prior: &ArPrior, batch: ArPriorBatch) -> Tensor<1> {
        let image = self.clip.embed_images(batch.images);
        let text = self.clip.embed_captions(&batch.tokens);
        let unknown = Tensor::from_data(batch.unknown, &self.source.device);
        prior.loss(&text, &image, unknown).mean()
    }
}

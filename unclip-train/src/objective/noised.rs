//! CLIP's image tower for noised pictures.

use burn::tensor::{Tensor, TensorData};
use unclip_clip::loss::odds_loss;
use unclip_clip::{NoisedImageEncoder, Tokens};
use unclip_core::NoiseSchedule;

use super::frozen::FrozenClip;
use super::source::{Noise, Objective, Source, captions};
use crate::TrainError;
use crate::data::whole_pictures;
use crate::shown::Lesson;

/// Training of an image tower that reads noised pictures, against the text tower of a CLIP that is
/// trained already.
#[derive(Debug)]
pub struct NoisedObjective {
    /// Data and draws.
    pub source: Source,
    /// What it learns from.
    pub clip: FrozenClip,
    /// The schedule of the decoder that it is to guide.
    pub schedule: NoiseSchedule,
    /// Side of the decoder's pictures.
    pub side: usize,
}

/// Captions, and their pictures under noise.
#[derive(Debug)]
pub struct NoisedBatch {
    tokens: Tokens,
    images: TensorData,
    noise: Noise,
}

impl Objective for NoisedObjective {
    type Network = NoisedImageEncoder;
    type Batch = NoisedBatch;

    fn batch(&self, step: u64) -> Result<NoisedBatch, TrainError> {
        let (items, mut draws) = self.source.step(step, self.side as u32, Lesson::Mixed)?;
        let all = vec![false; items.len()];
        Ok(NoisedBatch {
            tokens: self.clip.tokenizer.encode(&captions(&items, &all)),
            images: whole_pictures(&items, self.side as u32),
            noise: Noise::draw(
                [items.len(), 3, self.side, self.side],
                self.schedule.len(),
                &mut draws,
            ),
        })
    }

    fn loss(&self, encoder: &NoisedImageEncoder, batch: NoisedBatch) -> Tensor<1> {
        let text = self.clip.embed_captions(&batch.tokens);
        let images: Tensor<4> = self.source.tensor(batch.images);
        let noised = batch.noise.mixed(&self.schedule, images);
        let device = noised.x_t.device();
        let timesteps = self.schedule.gather(&noised.indices, &device, |step| step.timestep as f64);
        let image = encoder.forward(noised.x_t, timesteps);
        odds_loss(image.0, text.pooled)
    }
}

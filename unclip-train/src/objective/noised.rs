//! CLIP's image tower for noised pictures.

use burn::tensor::{Device, Tensor, TensorData};
use unclip_clip::NoisedImageEncoder;
use unclip_clip::loss::odds_loss;
use unclip_core::NoiseSchedule;

use super::batch::Batch;
use super::contract::Objective;
use super::frozen::{Captions, FrozenClip};
use super::pairs::{Among, Pairs};
use super::source::{Noise, Source};
use crate::TrainError;
use crate::data::whole_pictures;
use crate::evaluation::{Evaluation, HeldOut, mean_loss};
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
    captions: Captions,
    images: TensorData,
    noise: Noise,
}

impl Batch for NoisedBatch {
    fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            captions: self.captions.narrow(start, len),
            images: Batch::narrow(&self.images, start, len),
            noise: self.noise.narrow(start, len),
        }
    }
}

impl NoisedObjective {
    fn embed(&self, encoder: &NoisedImageEncoder, batch: NoisedBatch) -> Pairs {
        let text = self.clip.text(batch.captions).pooled;
        let images: Tensor<4> = self.source.tensor(batch.images);
        let noised = batch.noise.mixed(&self.schedule, images);
        let device = noised.x_t.device();
        let timesteps = self.schedule.gather(&noised.indices, &device, |step| step.timestep as f64);
        Pairs { text, image: encoder.forward(noised.x_t, timesteps).0 }
    }
}

impl Objective for NoisedObjective {
    type Network = NoisedImageEncoder;
    type Batch = NoisedBatch;

    fn batch(&self, step: u64) -> Result<NoisedBatch, TrainError> {
        let (items, mut draws) = self.source.step(step, self.side as u32, Lesson::Mixed)?;
        let all = vec![false; items.len()];
        let shape = [items.len(), 3, self.side, self.side];
        Ok(NoisedBatch {
            captions: self.clip.captions(&items, &all)?,
            images: whole_pictures(&items, self.side as u32),
            noise: Noise::draw(shape, self.schedule.len(), &mut draws),
        })
    }

    fn loss(&self, encoder: &NoisedImageEncoder, batch: NoisedBatch) -> Tensor<1> {
        let Pairs { text, image } = self.embed(encoder, batch);
        odds_loss(image, text)
    }

    fn evaluate(
        &self,
        encoder: &NoisedImageEncoder,
        held_out: &HeldOut,
    ) -> Result<Evaluation, TrainError> {
        let (source, clip) = (held_out.source.clone(), self.clip.asked());
        let own = Self { source, clip, schedule: self.schedule.clone(), ..*self };
        mean_loss(&own, encoder, held_out)
    }

    fn on(&self, device: &Device) -> Self {
        let (source, clip) = (self.source.on(device), self.clip.on(device));
        Self { source, clip, schedule: self.schedule.clone(), ..*self }
    }

    const CONTRASTS: bool = true;

    fn pairs(&self, encoder: &NoisedImageEncoder, batch: NoisedBatch) -> Option<Pairs> {
        Some(self.embed(encoder, batch))
    }

    fn loss_among(
        &self,
        encoder: &NoisedImageEncoder,
        part: NoisedBatch,
        among: &Among,
    ) -> Tensor<1> {
        let Pairs { text, image } = self.embed(encoder, part);
        let (text, image) = among.joined(text, image);
        among.share(odds_loss(image, text))
    }
}

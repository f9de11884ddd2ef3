//! The diffusion prior.

use burn::tensor::{Tensor, TensorData};
use unclip_clip::Tokens;
use unclip_core::loss::training_loss;
use unclip_core::{InvalidSetting, NoiseSchedule, Stage};
use unclip_prior::{DiffusionPrior, DiffusionPriorConfig};

use super::frozen::FrozenClip;
use super::source::{Noise, Objective, Source, captions};
use crate::TrainError;
use crate::data::whole_pictures;
use crate::shown::Lesson;

/// Training of the diffusion prior, with 10 % of the captions dropped (paper, section 2.2).
#[derive(Debug)]
pub struct PriorObjective {
    source: Source,
    clip: FrozenClip,
    config: DiffusionPriorConfig,
    schedule: NoiseSchedule,
}

/// Captions, some of them dropped, and pictures to embed.
#[derive(Debug)]
pub struct PriorBatch {
    tokens: Tokens,
    images: TensorData,
    noise: Noise,
}

impl PriorObjective {
    /// The objective of these data, this CLIP and these sizes.
    ///
    /// # Errors
    /// A schedule that cannot be built; a prior of DALLE2-pytorch, which learns otherwise what stands for
    /// no caption.
    pub fn new(
        source: Source,
        clip: FrozenClip,
        config: DiffusionPriorConfig,
    ) -> Result<Self, InvalidSetting> {
        if config.laion.is_some() {
            let expected = "absent: a prior of DALLE2-pytorch is not trained here";
            return Err(InvalidSetting::new("laion", "given", expected));
        }
        let schedule = config.diffusion.training_schedule()?;
        Ok(Self { source, clip, config, schedule })
    }
}

impl Objective for PriorObjective {
    type Network = DiffusionPrior;
    type Batch = PriorBatch;

    fn batch(&self, step: u64) -> Result<PriorBatch, TrainError> {
        const DROP_CAPTION: f64 = 0.1;
        let (items, mut draws) = self.source.step(step, self.clip.side(), Lesson::Mixed)?;
        let dropped = draws.chances(items.len(), DROP_CAPTION);
        let shape = [items.len(), self.config.d_embedding];
        Ok(PriorBatch {
            tokens: self.clip.tokenizer.encode(&captions(&items, &dropped)),
            images: whole_pictures(&items, self.clip.side()),
            noise: Noise::draw(shape, self.schedule.len(), &mut draws),
        })
    }

    fn loss(&self, prior: &DiffusionPrior, batch: PriorBatch) -> Tensor<1> {
        let image = self.clip.embed_images(batch.images);
        let text = self.clip.embed_captions(&batch.tokens);
        let noised = batch.noise.mixed(&self.schedule, self.config.sample_of(prior, &image));
        training_loss(&self.config, prior, &text, &self.schedule, &noised, f64::INFINITY).mean()
    }
}

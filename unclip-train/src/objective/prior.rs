//! The diffusion prior.

use burn::tensor::{Device, Tensor};
use unclip_core::loss::training_loss;
use unclip_core::{InvalidSetting, NoiseSchedule, Stage, Weighting, normalize};
use unclip_prior::{DiffusionPrior, DiffusionPriorConfig};

use super::batch::Batch;
use super::contract::Objective;
use super::frozen::{Captions, FrozenClip, Heard, Views};
use super::source::{Noise, Source};
use crate::TrainError;
use crate::evaluation::{Evaluation, HeldOut, Levels, drawn, loss_of, retrieval};
use crate::shown::Lesson;

/// Training of the diffusion prior, with some of the captions dropped (paper, section 2.2: 10 %).
#[derive(Debug)]
pub struct PriorObjective {
    source: Source,
    clip: FrozenClip,
    config: DiffusionPriorConfig,
    drop_caption: f64,
    weighting: Weighting,
    schedule: NoiseSchedule,
}

/// Captions, some of them dropped, and pictures to embed.
#[derive(Debug)]
pub struct PriorBatch {
    views: Views,
    captions: Captions,
    noise: Noise,
}

impl Batch for PriorBatch {
    fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            views: self.views.narrow(start, len),
            captions: self.captions.narrow(start, len),
            noise: self.noise.narrow(start, len),
        }
    }
}

impl PriorObjective {
    /// The objective of these data, this CLIP and these sizes, with the share of captions that are
    /// dropped.
    ///
    /// # Errors
    /// A schedule that cannot be built; a prior of DALLE2-pytorch, which learns otherwise what stands for
    /// no caption.
    pub fn new(
        source: Source,
        clip: FrozenClip,
        config: DiffusionPriorConfig,
        (drop_caption, weighting): (f64, Weighting),
    ) -> Result<Self, InvalidSetting> {
        if config.laion.is_some() {
            let expected = "absent: a prior of DALLE2-pytorch is not trained here";
            return Err(InvalidSetting::new("laion", "given", expected));
        }
        let schedule = config.diffusion.training_schedule()?;
        Ok(Self { source, clip, config, drop_caption, weighting, schedule })
    }
}

impl PriorObjective {
    fn with(&self, source: Source) -> Self {
        Self {
            source,
            clip: self.clip.clone(),
            config: self.config.clone(),
            schedule: self.schedule.clone(),
            ..*self
        }
    }

    fn levels(&self, prior: &DiffusionPrior, batch: PriorBatch) -> Levels {
        let (config, schedule) = (&self.config, &self.schedule);
        let image = self.clip.image(batch.views);
        let text = self.clip.text(batch.captions);
        let noised = batch.noise.mixed(schedule, config.sample_of(prior, &image));
        let losses = training_loss(config, prior, &text, schedule, &noised, self.weighting);
        Levels { losses, indices: noised.indices, timesteps: schedule.len() }
    }
}

impl Objective for PriorObjective {
    type Network = DiffusionPrior;
    type Batch = PriorBatch;

    fn batch(&self, step: u64) -> Result<PriorBatch, TrainError> {
        let (heard, mut draws) = self.clip.hear(&self.source, step, self.drop_caption)?;
        let Heard { views, captions, dropped } = heard;
        let shape = [dropped.len(), self.config.d_embedding];
        let noise = Noise::draw(shape, self.schedule.len(), &mut draws);
        Ok(PriorBatch { views, captions, noise })
    }

    fn loss(&self, prior: &DiffusionPrior, batch: PriorBatch) -> Tensor<1> {
        self.levels(prior, batch).losses.mean()
    }

    fn evaluate(
        &self,
        prior: &DiffusionPrior,
        held_out: &HeldOut,
    ) -> Result<Evaluation, TrainError> {
        let own = Self { clip: self.clip.asked(), ..self.with(held_out.source.clone()) };
        let evaluation = loss_of(&own, prior, held_out, Self::levels)?;
        let (mut found, mut images) = (Vec::new(), Vec::new());
        for step in held_out.steps() {
            let (items, _) = held_out.source.step(step, self.clip.side(), Lesson::Mixed)?;
            let captions: Vec<&str> = items.iter().map(|item| item.caption()).collect();
            let text = self.clip.embed_captions(&self.clip.tokenizer.encode(&captions));
            images.push(self.clip.embed_items(&items).0);
            found.push(drawn(&self.config, prior, &text, (None, &self.clip.device))?.0);
        }
        let (found, image) = (Tensor::cat(found, 0), Tensor::cat(images, 0));
        let [n, _] = image.dims();
        let cosine = (normalize(found.clone()) * normalize(image.clone())).sum_dim(1).mean();
        let evaluation = evaluation.with("cosine", cosine.into_scalar::<f64>(), n);
        Ok(retrieval(evaluation, found, image))
    }

    fn on(&self, device: &Device) -> Self {
        Self { clip: self.clip.on(device), ..self.with(self.source.on(device)) }
    }
}

//! The decoder.

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use unclip_core::image::to_rgb;
use unclip_core::loss::training_loss;
use unclip_core::{InvalidSetting, NoiseSchedule, Weighting};
use unclip_decoder::{CaptionKind, Condition, Decoder, DecoderConfig, Null};

use super::batch::Batch;
use super::contract::Objective;
use super::frozen::{Captions, FrozenClip, Views};
use super::source::{Noise, Source};
use crate::data::{kept, whole_pictures};
use crate::evaluation::{Evaluation, HeldOut, Levels, drawn, loss_of, stacked};
use crate::shown::Lesson;
use crate::{TrainError, worn_pictures};

/// The shares of rows from which what a decoder reads is dropped, so that it learns to draw from both,
/// from either, and from none. The paper (section 2.1) drops 10 % of the embeddings and 50 % of the
/// captions, each for itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// Rows without embedding and caption.
    pub both: f64,
    /// Rows with the caption alone.
    pub image: f64,
    /// Rows with the embedding alone, as in variations.
    pub caption: f64,
}

impl Dropped {
    /// The paper's shares.
    pub const PAPER: Self = Self { both: 0.05, image: 0.05, caption: 0.45 };

    /// Checks that they are shares, and together no more than all.
    ///
    /// # Errors
    /// The first that is not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let Self { both, image, caption } = *self;
        for (name, share) in [("both", both), ("image", image), ("caption", caption)] {
            InvalidSetting::check_range(name, share, 0.0, 1.0)?;
        }
        InvalidSetting::check_range("both + image + caption", both + image + caption, 0.0, 1.0)
    }

    /// What is dropped of a row by a lot from 0 to 1: embedding, caption.
    fn of(&self, lot: f32) -> [bool; 2] {
        let [image, both, caption] =
            [self.image, self.image + self.both, self.image + self.both + self.caption]
                .map(|end| end as f32);
        [lot < both, (image..caption).contains(&lot)]
    }
}

/// Training of the decoder.
#[derive(Debug)]
pub struct DecoderObjective {
    source: Source,
    clip: FrozenClip,
    config: DecoderConfig,
    schedule: NoiseSchedule,
    options: DecoderOptions,
}

/// What a decoder is trained on beside pictures.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecoderOptions {
    /// The share of pictures that are worn before they are embedded.
    pub worn: f64,
    /// What is dropped.
    pub dropped: Dropped,
    /// How much rows count.
    pub weighting: Weighting,
}

/// Pictures, and what they are drawn from.
#[derive(Debug)]
pub struct DecoderBatch {
    images: TensorData,
    /// The pictures whose embeddings the decoder gets.
    views: Views,
    /// 0 in the rows whose embedding is dropped.
    kept: TensorData,
    captions: Captions,
    noise: Noise,
}

impl Batch for DecoderBatch {
    fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            images: Batch::narrow(&self.images, start, len),
            views: self.views.narrow(start, len),
            kept: Batch::narrow(&self.kept, start, len),
            captions: self.captions.narrow(start, len),
            noise: self.noise.narrow(start, len),
        }
    }
}

impl DecoderObjective {
    /// The objective of these data, this CLIP and these sizes.
    ///
    /// # Errors
    /// A schedule that cannot be built; a decoder of another kind than the paper's.
    pub fn new(
        source: Source,
        clip: FrozenClip,
        config: DecoderConfig,
        options: DecoderOptions,
    ) -> Result<Self, InvalidSetting> {
        if config.captions != CaptionKind::Masked {
            let (found, expected) = (config.captions, "masked: no other kind is trained here");
            return Err(InvalidSetting::new("captions", format!("{found:?}"), expected));
        }
        let schedule = config.diffusion.training_schedule()?;
        Ok(Self { source, clip, config, schedule, options })
    }
}

impl DecoderObjective {
    fn with(&self, source: Source) -> Self {
        Self {
            source,
            clip: self.clip.clone(),
            config: self.config.clone(),
            schedule: self.schedule.clone(),
            ..*self
        }
    }

    fn levels(&self, decoder: &Decoder, batch: DecoderBatch) -> Levels {
        let (config, schedule) = (&self.config, &self.schedule);
        let image = self.clip.image(batch.views);
        let image = decoder.drop_images(&image, self.source.tensor(batch.kept));
        let condition = Condition::new(image, self.clip.text(batch.captions));
        let noised = batch.noise.mixed(schedule, self.source.tensor::<4>(batch.images));
        let weighting = self.options.weighting;
        let losses = training_loss(config, decoder, &condition, schedule, &noised, weighting);
        Levels { losses, indices: noised.indices, timesteps: schedule.len() }
    }

    /// Pictures that are held out, what is drawn from their embeddings and captions, and what the prior and
    /// the decoder draw from captions, below each other.
    fn shown(&self, decoder: &Decoder, held_out: &HeldOut) -> Result<Option<RgbImage>, TrainError> {
        if held_out.shown == 0 {
            return Ok(None);
        }
        let (clip, side) = (&self.clip, self.config.unet.image_size() as u32);
        let items = held_out.shown(clip.side().max(side))?;
        let own: Vec<&str> = items.iter().map(|item| item.caption()).collect();
        let text = |captions: &[&str]| clip.embed_captions(&clip.tokenizer.encode(captions));
        let draw = |image, captions: &[&str]| -> Result<Vec<RgbImage>, TrainError> {
            let condition = Condition::new(image, text(captions));
            let null = Null::from(text(&vec![""; captions.len()]));
            let made = drawn(&self.config, decoder, &condition, (Some(&null), &clip.device))?;
            Ok(to_rgb(made))
        };
        let truth = Tensor::from_data(whole_pictures(&items, side), &clip.device);
        let mut rows = vec![to_rgb(truth), draw(clip.embed_items(&items), &own)?];
        if let Some((config, prior)) = &held_out.prior {
            let captions = held_out.captions_of(&items);
            let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
            let null = text(&vec![""; captions.len()]);
            let condition = text(&captions);
            let image = drawn(config, prior, &condition, (Some(&null), &clip.device))?;
            rows.push(draw(image, &captions)?);
        }
        Ok(stacked(&rows))
    }
}

impl Objective for DecoderObjective {
    type Network = Decoder;
    type Batch = DecoderBatch;

    fn batch(&self, step: u64) -> Result<DecoderBatch, TrainError> {
        let side = self.config.unet.image_size();
        let largest = self.clip.side().max(side as u32);
        let (items, mut draws) = self.source.step(step, largest, Lesson::Mixed)?;
        let lots: Vec<f32> = items.iter().map(|_| draws.within(0.0..1.0)).collect();
        let dropped = lots.iter().map(|lot| self.options.dropped.of(*lot));
        let (no_image, no_caption): (Vec<bool>, Vec<bool>) = dropped.map(<_>::into).unzip();
        // draws of its own: the noise does not depend on what wears
        let mut wear = draws.split(1).swap_remove(0);
        let views = match self.clip.kept_views(&items)? {
            Some(kept) => kept,
            None => {
                let worn = self.options.worn;
                Views::Pictures(worn_pictures(&items, self.clip.side(), worn, &mut wear))
            }
        };
        let shape = [items.len(), self.config.channels, side, side];
        Ok(DecoderBatch {
            images: whole_pictures(&items, side as u32),
            views,
            kept: kept(&no_image),
            captions: self.clip.captions(&items, &no_caption)?,
            noise: Noise::draw(shape, self.schedule.len(), &mut draws),
        })
    }

    fn loss(&self, decoder: &Decoder, batch: DecoderBatch) -> Tensor<1> {
        self.levels(decoder, batch).losses.mean()
    }

    fn evaluate(&self, decoder: &Decoder, held_out: &HeldOut) -> Result<Evaluation, TrainError> {
        let own = Self { clip: self.clip.asked(), ..self.with(held_out.source.clone()) };
        let evaluation = loss_of(&own, decoder, held_out, Self::levels)?;
        Ok(Evaluation { pictures: self.shown(decoder, held_out)?, ..evaluation })
    }

    fn on(&self, device: &Device) -> Self {
        Self { clip: self.clip.on(device), ..self.with(self.source.on(device)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_dropped_as_they_say() {
        let of = |dropped: Dropped| {
            let mut counts = [0; 4];
            for lot in 0..1000 {
                let [image, caption] = dropped.of((lot as f32 + 0.5) / 1000.0);
                counts[usize::from(image) + 2 * usize::from(caption)] += 1;
            }
            counts
        };
        assert_eq!(of(Dropped::PAPER), [450, 50, 450, 50]);
        assert_eq!(of(Dropped { both: 0.1, image: 0.1, caption: 0.45 }), [350, 100, 450, 100]);
        let too_many = Dropped { both: 0.5, image: 0.5, caption: 0.5 };
        let error = too_many.validate().expect_err("more than all").to_string();
        assert!(error.contains("both + image + caption is 1.5"), "{error}");
    }
}

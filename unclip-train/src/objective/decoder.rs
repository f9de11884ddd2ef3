//! The decoder.

use std::ops::Range;

use burn::tensor::{Tensor, TensorData};
use unclip_clip::Tokens;
use unclip_core::loss::training_loss;
use unclip_core::{InvalidSetting, NoiseSchedule};
use unclip_decoder::{CaptionKind, Condition, Decoder, DecoderConfig};

use super::frozen::FrozenClip;
use super::source::{Noise, Objective, Source, captions};
use crate::data::{kept, whole_pictures};
use crate::shown::Lesson;
use crate::{TrainError, worn_pictures};

/// Training of the decoder. Each of its two inputs is dropped from some rows, so that it learns to
/// draw from both, from either, and from none: a tenth has neither, a tenth the caption alone, 45 %
/// the embedding alone, as in variations. (The paper, section 2.1, drops 10 % of the embeddings and
/// 50 % of the captions: also 45 % with the embedding alone, and a twentieth with the caption
/// alone.) The embeddings are of pictures of which half are worn.
#[derive(Debug)]
pub struct DecoderObjective {
    source: Source,
    clip: FrozenClip,
    config: DecoderConfig,
    schedule: NoiseSchedule,
    worn: f64,
}

/// Pictures, and what they are drawn from.
#[derive(Debug)]
pub struct DecoderBatch {
    images: TensorData,
    /// The pictures whose embeddings the decoder gets.
    worn: TensorData,
    /// 0 in the rows whose embedding is dropped.
    kept: TensorData,
    tokens: Tokens,
    noise: Noise,
}

impl DecoderObjective {
    /// The objective of these data, this CLIP and these sizes, with the share of pictures that are worn
    /// before they are embedded.
    ///
    /// # Errors
    /// A schedule that cannot be built; a decoder of another kind than the paper's.
    pub fn new(
        source: Source,
        clip: FrozenClip,
        config: DecoderConfig,
        worn: f64,
    ) -> Result<Self, InvalidSetting> {
        if config.captions != CaptionKind::Masked {
            let (found, expected) = (config.captions, "masked: no other kind is trained here");
            return Err(InvalidSetting::new("captions", format!("{found:?}"), expected));
        }
        let schedule = config.diffusion.training_schedule()?;
        Ok(Self { source, clip, config, schedule, worn })
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
        let dropped = |range: Range<f32>| lots.iter().map(|lot| range.contains(lot)).collect();
        let no_image: Vec<bool> = dropped(0.0..0.2);
        let no_caption: Vec<bool> = dropped(0.1..0.65);
        let worn = worn_pictures(&items, self.clip.side(), self.worn, &mut draws);
        let shape = [items.len(), self.config.channels, side, side];
        Ok(DecoderBatch {
            images: whole_pictures(&items, side as u32),
            worn,
            kept: kept(&no_image),
            tokens: self.clip.tokenizer.encode(&captions(&items, &no_caption)),
            noise: Noise::draw(shape, self.schedule.len(), &mut draws),
        })
    }

    fn loss(&self, decoder: &Decoder, batch: DecoderBatch) -> Tensor<1> {
        const MAX_SNR: f64 = 5.0;
        let image = self.clip.embed_images(batch.worn);
        let image = decoder.drop_images(&image, self.source.tensor(batch.kept));
        let condition = Condition::new(image, self.clip.embed_captions(&batch.tokens));
        let noised = batch.noise.mixed(&self.schedule, self.source.tensor::<4>(batch.images));
        training_loss(&self.config, decoder, &condition, &self.schedule, &noised, MAX_SNR).mean()
    }
}

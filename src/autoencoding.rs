//! Between what a decoder samples and pictures; what stands for no picture where none was learned.

use std::time::Instant;

use burn::tensor::Tensor;
use unclip_core::{ImageEmbedding, InvalidSetting, TextEmbedding};

use crate::finite::finite;
use crate::{Bundle, Error, Run, StageCost, StageId, StageOptions};

impl Run<'_> {
    /// Pictures of what the decoder sampled, `[batch, 3, height, width]` in [−1, 1]: through the
    /// autoencoder, of a model that has one.
    ///
    /// # Shapes
    /// - `sample`: `[batch, channels, height, width]`, the decoder's channels
    ///
    /// # Errors
    /// Weights that cannot be read; values that are not finite.
    pub fn pictures(&mut self, sample: Tensor<4>) -> Result<Tensor<4>, Error> {
        let pictures = match &self.bundle.autoencoder {
            None => sample,
            Some(slot) => {
                let (autoencoder, loading) = slot.network(self.placement)?;
                let start = Instant::now();
                // a limit would hide what is not finite
                let pictures = finite(slot.id(), autoencoder.decode(sample.clone()))?;
                let pictures = pictures.clamp(-1.0, 1.0);
                let cost = StageCost::of_one_call(slot.id(), loading, start, &autoencoder);
                self.costs.push(cost.of_rows(sample.dims()[0]));
                self.trace.latent = Some(sample);
                pictures
            }
        };
        self.trace.decoder = Some(pictures.clone());
        Ok(pictures)
    }

    /// What the decoder would have to sample for pictures, `[batch, 3, height, width]` in [−1, 1]:
    /// the most probable latents, of a model that has an autoencoder. Sides are multiples of its
    /// factor.
    ///
    /// # Errors
    /// Weights that cannot be read; values that are not finite.
    pub fn samples_of(&mut self, pictures: Tensor<4>) -> Result<Tensor<4>, Error> {
        let Some(slot) = &self.bundle.autoencoder else { return Ok(pictures) };
        let (autoencoder, loading) = slot.network(self.placement)?;
        let start = Instant::now();
        let latents = finite(slot.id(), autoencoder.encode(pictures).mean)?;
        let cost = StageCost::of_one_call(slot.id(), loading, start, &autoencoder);
        self.costs.push(cost.of_rows(latents.dims()[0]));
        Ok(latents)
    }

    /// What guidance of a decoder that has learned no null image leads away from, one row for each
    /// seed: what the prior made of the negative prompt, or CLIP's embedding of a picture of nothing
    /// but the mean color (Kandinsky 2).
    pub(crate) fn negative_embedding(&mut self) -> Result<ImageEmbedding, Error> {
        if let Some(drawn) = &self.negative_drawn {
            return Ok(drawn.clone());
        }
        if !self.negative_prompt.is_empty() && !self.bundle.decoder.config().reads_captions() {
            let expected = "none: the decoder of this model reads no captions, and no prior has \
                            drawn an embedding of it in this run";
            let found = format!("{:?}", self.negative_prompt);
            return Err(InvalidSetting::new("negative prompt", found, expected).into());
        }
        let blank = match self.blank.take() {
            Some(blank) => blank,
            None => {
                let slot = self.bundle.image_encoder()?;
                let side = slot.config().image_size;
                let (tower, loading) = slot.network(self.placement)?;
                let start = Instant::now();
                let image =
                    tower.forward(Tensor::zeros([1, 3, side, side], &self.placement.device));
                self.costs.push(StageCost::of_one_call(slot.id(), loading, start, &tower));
                ImageEmbedding(finite(slot.id(), image.0)?)
            }
        };
        Ok(self.blank.insert(blank).repeat_rows(self.seeds.len()))
    }

    /// A caption for the decoder alone, one row for each seed; `None` of a decoder that reads none.
    pub(crate) fn decoder_caption(
        &mut self,
        caption: &str,
    ) -> Result<Option<TextEmbedding>, Error> {
        if !self.bundle.decoder.config().reads_captions() {
            return Ok(None);
        }
        let rows = self.seeds.len();
        self.encode(&[caption]).map(|text| Some(text.repeat_rows(rows)))
    }

    /// Whether the prior has to draw an embedding of the negative prompt as well.
    pub(crate) fn draws_negative(&self) -> bool {
        let needs = self.bundle.decoder.config().needs_null_image();
        let is_said = !self.negative_prompt.is_empty() && self.negative_image.is_none();
        self.wants_negative && needs && is_said
    }
}

impl Bundle {
    /// Refuses a negative prompt where guidance leads away from what the model has learned to stand for
    /// no caption.
    pub(crate) fn check_negative(&self, prompt: &str) -> Result<(), InvalidSetting> {
        let prior = self.prior.as_ref().is_some_and(|it| it.config().has_null_caption());
        if prompt.is_empty() || !(prior || self.decoder.config().has_null_caption()) {
            return Ok(());
        }
        let expected = "none: guidance of this model leads away from what it has learned to stand \
                        for no caption";
        Err(InvalidSetting::new("negative prompt", format!("{prompt:?}"), expected))
    }

    /// Refuses a caption that only the decoder would read, if it reads none.
    pub(crate) fn check_caption(&self, caption: &str) -> Result<(), InvalidSetting> {
        if caption.is_empty() || self.decoder.config().reads_captions() {
            return Ok(());
        }
        let expected = "absent: the decoder of this model reads no captions beside an embedding; \
                        its prior makes embeddings of captions";
        Err(InvalidSetting::new("caption", format!("{caption:?}"), expected))
    }

    /// Refuses a scale of the picture apart from the caption's, if the decoder reads no captions.
    pub(crate) fn check_image_guidance(
        &self,
        decoder: &StageOptions,
    ) -> Result<(), InvalidSetting> {
        match decoder.image_guidance {
            Some(_) if !self.decoder.config().reads_captions() => {
                let expected = "absent: the decoder of this model reads no captions beside it";
                Err(InvalidSetting::new("guidance of caption and picture apart", "given", expected))
            }
            Some(_) if !self.decoder.config().reads_images() => {
                let expected = "absent: the decoder of this model reads no image embedding";
                Err(InvalidSetting::new("guidance of caption and picture apart", "given", expected))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what a decoder of pictures alone can do.
    pub(crate) fn expect_no_latents(&self, what: &str) -> Result<(), InvalidSetting> {
        match &self.autoencoder {
            Some(slot) => {
                let found = format!("a model with an {}", slot.id());
                let expected = format!("a {} that makes pictures, not latents", StageId::Decoder);
                Err(InvalidSetting::new(what, found, expected))
            }
            None => Ok(()),
        }
    }
}

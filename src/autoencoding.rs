//! Between what a decoder samples and pictures, and what a decoder without captions leads away from.

use std::time::Instant;

use burn::tensor::Tensor;
use unclip_core::{ImageEmbedding, InvalidSetting};

use crate::finite::finite;
use crate::{Bundle, Error, Run, StageCost, StageId, StageOptions};

impl Run<'_> {
    /// Pictures of what the decoder sampled, `[batch, 3, height, width]` in [−1, 1]: through the
    /// autoencoder, of a model that has one.
    ///
    /// # Errors
    /// Weights that cannot be read; values that are not finite.
    pub fn pictures(&mut self, sample: Tensor<4>) -> Result<Tensor<4>, Error> {
        let pictures = match &self.bundle.autoencoder {
            None => sample,
            Some(slot) => {
                let (autoencoder, loading) = slot.network(self.placement)?;
                let start = Instant::now();
                let pictures = autoencoder.decode(sample.clone()).clamp(-1.0, 1.0);
                let pictures = finite(slot.id(), pictures)?;
                self.costs.push(StageCost::of_one_call(slot.id(), loading, start, &autoencoder));
                self.trace.latent = Some(sample);
                pictures
            }
        };
        self.trace.decoder = Some(pictures.clone());
        Ok(pictures)
    }

    /// What the decoder would have to sample for pictures, `[batch, 3, height, width]` in [−1, 1]:
    /// the most probable latents, of a model that has an autoencoder.
    ///
    /// # Errors
    /// Weights that cannot be read; values that are not finite.
    pub fn samples_of(&mut self, pictures: Tensor<4>) -> Result<Tensor<4>, Error> {
        let Some(slot) = &self.bundle.autoencoder else { return Ok(pictures) };
        let (autoencoder, loading) = slot.network(self.placement)?;
        let start = Instant::now();
        let latents = finite(slot.id(), autoencoder.encode(pictures).mean)?;
        self.costs.push(StageCost::of_one_call(slot.id(), loading, start, &autoencoder));
        Ok(latents)
    }

    /// What guidance of a decoder without captions leads away from, one row for each seed: what the
    /// prior made of the negative prompt, or CLIP's embedding of a picture of nothing but the mean
    /// color (Kandinsky 2).
    pub(crate) fn negative_embedding(&mut self) -> Result<ImageEmbedding, Error> {
        if let Some(drawn) = &self.negative_drawn {
            return Ok(drawn.clone());
        }
        let slot = self.bundle.image_encoder()?;
        let side = slot.config().image_size;
        let (tower, loading) = slot.network(self.placement)?;
        let start = Instant::now();
        let image = tower.forward(Tensor::zeros([1, 3, side, side], &self.placement.device));
        self.costs.push(StageCost::of_one_call(slot.id(), loading, start, &tower));
        let image = ImageEmbedding(finite(slot.id(), image.0)?).repeat_rows(self.seeds.len());
        self.negative_drawn = Some(image.clone());
        Ok(image)
    }

    /// Whether the prior has to draw an embedding of the negative prompt as well.
    pub(crate) fn draws_negative(&self) -> bool {
        !self.bundle.decoder.config().reads_captions() && !self.negative_prompt.is_empty()
    }
}

impl Bundle {
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
            Some(scale) if !self.decoder.config().reads_captions() => {
                let expected = "absent: the decoder of this model reads no captions beside it";
                Err(InvalidSetting::new("image guidance", scale, expected))
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

//! Whether the stages of a model belong together.

use unclip_clip::{Padding, TextEncoderConfig, TextTower, Tokenizer};
use unclip_core::InvalidSetting;
use unclip_core::image::PICTURE_CHANNELS;

use crate::bundle::{MAX_SIDE, agree, missing};
use crate::{Bundle, Error, Slot, StageId, TextReader};

impl Bundle {
    /// Checks that every stage speaks of the same CLIP, and that widths agree.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let decoder = self.decoder.config();
        if let Some(TextReader { tokenizer, encoder, .. }) = &self.text {
            check_words(encoder.id(), tokenizer, encoder.config())?;
        }
        if let Some(found) = decoder.d_text {
            let text = self.text()?.encoder.config();
            let id = StageId::TextEncoder;
            same_size((id, text.transformer.d_model), (StageId::Decoder, found), "d_text")?;
            self.check_pooled(text)?;
        }
        self.check_guests()?;
        self.check_spaces()?;
        self.check_autoencoder()?;
        self.check_upsampler_texts()?;
        self.check_classes()?;
        if let Some(image) = &self.noised_image_encoder {
            let side = (StageId::Decoder, decoder.unet.image_size());
            same_size(side, (image.id(), image.config().image_size), "image_size")?;
        }
        if let Ok(text) = self.clip_text() {
            self.check_clip_text(&text.encoder)?;
        } else if self.prior.is_some() || self.ar_prior.is_some() {
            return Err(missing(&self.origin, StageId::PriorTextEncoder));
        }
        self.check_sizes()
    }

    /// Checks that a decoder which reads a caption's embedding gets one of its width. One with an
    /// augmentation reads the tokens alone.
    fn check_pooled(&self, text: &TextEncoderConfig) -> Result<(), Error> {
        let decoder = self.decoder.config();
        if decoder.augmentation.is_some() {
            return Ok(());
        }
        let projected = text.projected.to_string();
        agree(StageId::Decoder, "true", StageId::TextEncoder, &projected, "projected")?;
        let own = (StageId::TextEncoder, text.d_embedding);
        same_size(own, (StageId::Decoder, decoder.d_embedding), "d_embedding")
    }

    /// Refuses stages that a decoder has no use for.
    fn check_guests(&self) -> Result<(), InvalidSetting> {
        let decoder = self.decoder.config();
        let refused = |stage: StageId, why: &str| {
            Err(InvalidSetting::new(stage.to_string(), "given", format!("absent: {why}")))
        };
        let of_images = [
            self.prior.as_ref().map(Slot::id),
            self.ar_prior.as_ref().map(Slot::id),
            self.image_encoder.as_ref().map(Slot::id),
            self.noised_image_encoder.as_ref().map(Slot::id),
        ];
        if let Some(stage) = of_images.into_iter().flatten().next()
            && !decoder.reads_images()
        {
            return refused(stage, "the decoder of this model reads no image embedding");
        }
        let has_pictures = self.autoencoder.is_none() && decoder.channels == PICTURE_CHANNELS;
        match &self.classifier {
            Some(classifier) if decoder.classes().is_none() || !has_pictures => {
                refused(classifier.id(), "the decoder draws no pictures of classes")
            }
            _ => Ok(()),
        }
    }

    /// Checks that all that knows classes knows as many of them.
    fn check_classes(&self) -> Result<(), Error> {
        let decoder = (StageId::Decoder, self.decoder.config().classes().unwrap_or(0));
        if let Some(classifier) = &self.classifier {
            let (id, config) = (classifier.id(), classifier.config());
            if decoder.1 > 0 {
                same_size(decoder, (id, config.classes), "classes")?;
            }
            let side = (StageId::Decoder, self.decoder.config().unet.image_size());
            same_size(side, (id, config.unet.image_size), "image_size")?;
        }
        for upsampler in &self.upsamplers {
            if let Some(classes) = upsampler.config().classes {
                same_size(decoder, (upsampler.id(), classes), "classes")?;
            }
        }
        let (found, expected) = (self.class_names.len(), self.classes().unwrap_or(0));
        if found > 0 && found != expected {
            let expected = format!("{expected}, one for each class");
            return Err(
                InvalidSetting::new("number of names in classes.txt", found, expected).into()
            );
        }
        Ok(())
    }

    /// Checks that each upsampler that reads captions has a tower for it, and no other has one.
    fn check_upsampler_texts(&self) -> Result<(), Error> {
        for (upsampler, text) in self.upsamplers.iter().zip(&self.upsampler_texts) {
            let (id, config) = (upsampler.id(), upsampler.config());
            let StageId::Upsampler(place) = id else { continue };
            let of_text = StageId::UpsamplerTextEncoder(place);
            let Some(text) = text.as_ref().map(Slot::config) else {
                config.d_text.map_or(Ok(()), |_| Err(missing(&self.origin, of_text)))?;
                continue;
            };
            let read = self.text()?;
            check_words(of_text, &read.tokenizer, text)?;
            let length = read.encoder.config().context_length;
            let own = (of_text, text.context_length);
            same_size((StageId::TextEncoder, length), own, "context_length")?;
            let d_text = (id, config.d_text.unwrap_or(0));
            same_size((of_text, text.transformer.d_model), d_text, "d_text")?;
            let d_embedding = (id, config.unet.d_embedding());
            same_size((of_text, text.d_embedding), d_embedding, "d_embedding")?;
        }
        Ok(())
    }

    /// Checks CLIP's text tower, and the priors that read its states.
    fn check_clip_text(&self, tower: &Slot<TextEncoderConfig>) -> Result<(), Error> {
        let (id, text) = (tower.id(), tower.config());
        if let Some(TextReader { tokenizer, .. }) = &self.prior_text {
            check_words(id, tokenizer, text)?;
        }
        let (d_text, length) = (text.transformer.d_model, text.context_length);
        same_size((id, text.d_embedding), (StageId::Decoder, self.d_embedding()), "d_embedding")?;
        let check = |prior, found: [usize; 3]| {
            same_size((id, text.d_embedding), (prior, found[0]), "d_embedding")?;
            same_size((id, d_text), (prior, found[1]), "d_text")?;
            same_size((id, length), (prior, found[2]), "context_length")
        };
        if let Some(it) = self.prior.as_ref().map(Slot::config) {
            check(StageId::Prior, [it.d_embedding, it.d_text, it.context_length])?;
        }
        if let Some(it) = self.ar_prior.as_ref().map(Slot::config) {
            check(StageId::ArPrior, [it.d_embedding, it.d_text, it.context_length])?;
        }
        Ok(())
    }

    /// Checks that the stages name the same CLIP, and that its pictures' embeddings are as wide as
    /// the decoder's.
    fn check_spaces(&self) -> Result<(), Error> {
        let tower = self.clip_text().map(|it| (it.encoder.id(), it.encoder.embedding_space()));
        let own = (StageId::Decoder, self.decoder.embedding_space());
        let (first, expected) = tower.unwrap_or(own);
        let space =
            |stage: StageId, found: &str| agree(first, expected, stage, found, "embedding_space");
        space(own.0, own.1)?;
        if let Some(prior) = &self.prior {
            space(StageId::Prior, prior.embedding_space())?;
        }
        if let Some(prior) = &self.ar_prior {
            space(StageId::ArPrior, prior.embedding_space())?;
        }
        let width = (StageId::Decoder, self.d_embedding());
        if let Some(image) = &self.image_encoder {
            space(image.id(), image.embedding_space())?;
            same_size(width, (image.id(), image.config().d_embedding), "d_embedding")?;
        }
        if let Some(image) = &self.noised_image_encoder {
            space(image.id(), image.embedding_space())?;
            same_size(width, (image.id(), image.config().d_embedding), "d_embedding")?;
        }
        Ok(())
    }

    /// Checks that what the decoder samples becomes a picture.
    fn check_autoencoder(&self) -> Result<(), Error> {
        let sampled = self.decoder.config().channels;
        let made = match self.autoencoder.as_ref().map(Slot::config) {
            Some(config) => config.stored_channels(),
            None if sampled != PICTURE_CHANNELS => {
                return Err(missing(&self.origin, StageId::Autoencoder));
            }
            None => PICTURE_CHANNELS,
        };
        let (expected, found) = (sampled.to_string(), made.to_string());
        agree(StageId::Decoder, &expected, StageId::Autoencoder, &found, "channels")
    }

    /// Checks that each upsampler can take the size that the stage before it gives.
    fn check_sizes(&self) -> Result<(), Error> {
        let side = self.image_size();
        if side > MAX_SIDE {
            let (name, expected) = ("side of this model's pictures", format!("at most {MAX_SIDE}"));
            return Err(InvalidSetting::new(name, side, expected).into());
        }
        let mut side = self.small_size();
        for upsampler in &self.upsamplers {
            let config = upsampler.config();
            side *= config.factor;
            let multiple = config.unet.size_multiple();
            if !side.is_multiple_of(multiple) {
                let found = format!("a picture side of {side}");
                let expected = format!("a multiple of {multiple}");
                agree(StageId::Decoder, &found, upsampler.id(), &expected, "size")?;
            }
        }
        Ok(())
    }
}

/// Checks that a tower knows as many tokens as its tokenizer.
fn check_words(
    stage: StageId,
    tokenizer: &Tokenizer,
    config: &TextEncoderConfig,
) -> Result<(), Error> {
    let (expected, found) = (config.vocab_size.to_string(), tokenizer.vocab_size().to_string());
    agree(stage, &expected, "tokenizer", &found, "vocab_size")?;
    let found = match tokenizer.padding() {
        Padding::Pad => "XLM-RoBERTa",
        Padding::Learned => "GPT-2",
        _ => "CLIP",
    };
    let expected = match config.tower {
        TextTower::Clip => "CLIP",
        TextTower::Multilingual { .. } => "XLM-RoBERTa",
        TextTower::Glide => "GPT-2",
    };
    agree(stage, expected, "tokenizer", found, "kind")?;
    match config.tower {
        TextTower::Multilingual { padding, .. } => {
            let (expected, found) = (padding.to_string(), tokenizer.pad().to_string());
            agree(stage, &expected, "tokenizer", &found, "pad_token_id")
        }
        _ => Ok(()),
    }
}

/// Checks that a size is the same in two stages.
fn same_size(
    (first, expected): (StageId, usize),
    (second, found): (StageId, usize),
    field: &'static str,
) -> Result<(), Error> {
    agree(first, &expected.to_string(), second, &found.to_string(), field)
}

//! Captions to embeddings, for decoder and prior.

use std::time::Instant;

use unclip_clip::{TextEncoderConfig, Tokenizer};
use unclip_core::{InvalidSetting, TextEmbedding};

use crate::finite::finite;
use crate::{Error, Run, Slot, StageCost, TextReader};

impl<'a> Run<'a> {
    /// Embeds captions for the decoder, one row each, and in most models for the prior too
    /// ([`encode_for_prior`](Self::encode_for_prior)). The negative prompt is embedded with them, so
    /// that the text encoder runs only once.
    ///
    /// # Errors
    /// No caption; weights that cannot be read.
    pub fn encode<S: AsRef<str>>(&mut self, captions: &[S]) -> Result<TextEmbedding, Error> {
        if captions.is_empty() {
            return Err(InvalidSetting::new("captions", 0, "at least 1").into());
        }
        let against = self.clip_against.iter().map(String::as_str);
        let all = captions.iter().map(AsRef::as_ref).chain([self.negative_prompt]).chain(against);
        let (text, mut dropped) = self.encode_by_own(&all.collect::<Vec<_>>())?;
        self.captions = captions.iter().map(|caption| caption.as_ref().into()).collect();
        self.null = Some(text.narrow(captions.len(), 1));
        if !self.clip_against.is_empty() {
            self.against = Some(text.narrow(captions.len() + 1, self.clip_against.len()));
        }
        dropped.truncate(captions.len() + 1);
        self.dropped_negative = dropped.pop().flatten();
        self.dropped = dropped;
        Ok(text.narrow(0, captions.len()))
    }

    /// Embeds captions for the prior, one row each: what [`encode`](Self::encode) gave for them, if
    /// that is known, or else, and of a model whose decoder has a text tower of its own, by CLIP's.
    ///
    /// # Errors
    /// As [`encode`](Self::encode); a model without CLIP's text tower.
    pub fn encode_for_prior<S: AsRef<str>>(
        &mut self,
        captions: &[S],
        encoded: Option<&TextEmbedding>,
    ) -> Result<TextEmbedding, Error> {
        if self.bundle.prior_text.is_none() {
            self.bundle.clip_text()?;
            return encoded.map_or_else(|| self.encode(captions), |text| Ok(text.clone()));
        }
        let all = captions.iter().map(AsRef::as_ref).chain([self.prior_negative_prompt()]);
        let (text, mut dropped) =
            self.encode_all(self.bundle.clip_text()?, &all.collect::<Vec<_>>())?;
        self.prior_null = Some(text.narrow(captions.len(), 1));
        // of two towers, the one that reads less is told of
        let negative = dropped.pop().flatten();
        if encoded.is_some() {
            self.dropped_negative = longer(self.dropped_negative.take(), negative);
            let of_both = std::mem::take(&mut self.dropped).into_iter().zip(dropped);
            self.dropped = of_both.map(|(own, other)| longer(own, other)).collect();
        } else {
            self.dropped = dropped;
        }
        Ok(text.narrow(0, captions.len()))
    }

    /// Embeds the captions last encoded for the upsampler at this place, one row for each seed; the
    /// empty one if there was none. `None` of an upsampler that reads no captions.
    pub(crate) fn encode_for_upsampler(
        &mut self,
        place: usize,
    ) -> Result<Option<TextEmbedding>, Error> {
        let bundle = self.bundle;
        let Some(slot) = &bundle.upsampler_texts[place] else { return Ok(None) };
        let captions = match self.captions.as_slice() {
            [] => vec![String::new()],
            captions => captions.to_vec(),
        };
        let captions: Vec<&str> = captions.iter().map(String::as_str).collect();
        let (text, _) = self.encode_with((&bundle.text()?.tokenizer, slot), &captions)?;
        let rows = self.seeds.len();
        if !rows.is_multiple_of(captions.len()) {
            let expected = format!("a part of the {rows} seeds: equally many for each caption");
            return Err(
                InvalidSetting::new("captions last encoded", captions.len(), expected).into()
            );
        }
        let text = text.repeat_rows(rows / captions.len());
        Ok(Some(text))
    }

    fn encode_by_own(
        &mut self,
        captions: &[&str],
    ) -> Result<(TextEmbedding, Vec<Option<String>>), Error> {
        self.encode_all(self.bundle.text()?, captions)
    }

    fn encode_all(
        &mut self,
        reader: &TextReader,
        captions: &[&str],
    ) -> Result<(TextEmbedding, Vec<Option<String>>), Error> {
        self.encode_with((&reader.tokenizer, &reader.encoder), captions)
    }

    /// The embeddings of captions, and what of each did not fit.
    fn encode_with(
        &mut self,
        (tokenizer, slot): (&Tokenizer, &Slot<TextEncoderConfig>),
        captions: &[&str],
    ) -> Result<(TextEmbedding, Vec<Option<String>>), Error> {
        let (tower, loading) = slot.network(self.placement)?;
        let start = Instant::now();
        let tokens = tokenizer.encode(captions);
        let text = tower.forward(&tokens, &self.placement.device);
        let cost = StageCost::of_one_call(slot.id(), loading, start, &tower);
        self.costs.push(cost.of_rows(captions.len()));
        let text = TextEmbedding { pooled: finite(slot.id(), text.pooled)?, ..text };
        let dropped = (0..captions.len()).map(|row| tokens.dropped(row).map(String::from));
        Ok((text, dropped.collect()))
    }

    /// Embeds the negative prompt: the null condition, one row for each seed.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn null(&mut self) -> Result<TextEmbedding, Error> {
        let null = match self.null.take() {
            Some(null) => null,
            None => {
                let (null, mut dropped) = self.encode_by_own(&[self.negative_prompt])?;
                self.dropped_negative = dropped.pop().flatten();
                null
            }
        };
        Ok(self.null.insert(null).repeat_rows(self.seeds.len()))
    }

    /// What the prior is led away from.
    fn prior_negative_prompt(&self) -> &'a str {
        if self.bundle.prior_reads_negative() { self.negative_prompt } else { "" }
    }

    /// As [`null`](Self::null), for the prior.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn null_for_prior(&mut self) -> Result<TextEmbedding, Error> {
        if self.bundle.prior_text.is_none() {
            return self.null();
        }
        let null = match self.prior_null.take() {
            Some(null) => null,
            None => {
                let prompt = self.prior_negative_prompt();
                self.encode_all(self.bundle.clip_text()?, &[prompt])?.0
            }
        };
        Ok(self.prior_null.insert(null).repeat_rows(self.seeds.len()))
    }

    /// Embeds the captions that CLIP has to choose from, if there are any.
    #[cfg(feature = "autodiff")]
    pub(crate) fn against(&mut self) -> Result<Option<TextEmbedding>, Error> {
        if self.clip_against.is_empty() || self.against.is_some() {
            return Ok(self.against.clone());
        }
        let captions: Vec<&str> = self.clip_against.iter().map(String::as_str).collect();
        let (against, _) = self.encode_by_own(&captions)?;
        Ok(Some(self.against.insert(against).clone()))
    }
}

/// The longer of two ends of a caption.
fn longer(first: Option<String>, second: Option<String>) -> Option<String> {
    let length = |it: &Option<String>| it.as_ref().map_or(0, String::len);
    if length(&second) > length(&first) { second } else { first }
}

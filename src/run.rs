//! Driving the stages one by one.

use std::borrow::Cow;
use std::time::Instant;

use burn::tensor::Tensor;
use unclip_core::{ImageEmbedding, InvalidSetting, TextEmbedding, normalize};
use unclip_decoder::{Condition, DecoderConfig};
use unclip_nn::Placement;
use unclip_prior::DiffusionPriorConfig;
use unclip_upsample::UpsamplerConfig;

use crate::finite::finite;
use crate::{
    Bound, Bundle, Error, Observer, RecordedNoise, StageCost, StageSettings, Start, Trace,
};

/// One batch of pictures on its way through the stages, made by
/// [`UnClip::run`](crate::UnClip::run).
///
/// Each method is one stage. What passes between them can be inspected, kept and replaced, which is
/// how to build variations, interpolations and the like. [`bind_prior`](Self::bind_prior) and its
/// siblings stop once the condition is fixed: for starts other than pure noise, for inversion to
/// noise, and for loops of your own.
pub struct Run<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) placement: &'a Placement,
    pub(crate) seeds: Cow<'a, [u64]>,
    pub(crate) observer: Option<&'a mut Observer<'a>>,
    pub(crate) noise: Option<&'a RecordedNoise>,
    negative_prompt: &'a str,
    /// What guidance leads away from, once it is known: one row.
    null: Option<TextEmbedding>,
    /// Steps done so far, and in all, if somebody knows.
    pub(crate) progress: (usize, Option<usize>),
    /// For each of the captions last encoded, the end that did not fit into the model's context.
    pub dropped: Vec<Option<String>>,
    /// The end of the negative prompt that did not fit.
    pub dropped_negative: Option<String>,
    /// What each stage has cost so far.
    pub costs: Vec<StageCost>,
    /// What each stage has produced so far, if it was driven by `prior`, `decode` or `upsample`.
    pub trace: Trace,
}

impl<'a> Run<'a> {
    pub(crate) fn new(bundle: &'a Bundle, placement: &'a Placement, seeds: &'a [u64]) -> Self {
        Self {
            bundle,
            placement,
            seeds: seeds.into(),
            observer: None,
            noise: None,
            negative_prompt: "",
            null: None,
            progress: (0, None),
            dropped: Vec::new(),
            dropped_negative: None,
            costs: Vec::new(),
            trace: Trace::default(),
        }
    }

    /// Adds an observer, which is called after every step and may stop the work.
    #[must_use]
    pub fn with_observer(self, observer: &'a mut Observer<'a>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Takes the noise from a file instead of the seeds.
    #[must_use]
    pub fn with_noise(self, noise: &'a RecordedNoise) -> Self {
        Self { noise: Some(noise), ..self }
    }

    /// Sets the caption that guidance leads away from; by default the empty one.
    #[must_use]
    pub fn with_negative_prompt(self, negative_prompt: &'a str) -> Self {
        Self { negative_prompt, null: None, dropped_negative: None, ..self }
    }

    /// Announces how many steps will be taken in all, for
    /// [`Event::call_total`](crate::Event::call_total).
    #[must_use]
    pub fn with_steps(self, total: usize) -> Self {
        Self { progress: (0, Some(total)), ..self }
    }

    /// Embeds captions, one row each. The negative prompt is embedded with them, so that the text
    /// encoder runs only once.
    ///
    /// # Errors
    /// No caption; weights that cannot be read.
    pub fn encode<S: AsRef<str>>(&mut self, captions: &[S]) -> Result<TextEmbedding, Error> {
        if captions.is_empty() {
            return Err(InvalidSetting::new("captions", 0, "at least 1").into());
        }
        let both = captions.iter().map(AsRef::as_ref).chain([self.negative_prompt]);
        let (text, mut dropped) = self.encode_all(&both.collect::<Vec<_>>())?;
        self.null = Some(text.narrow(captions.len(), 1));
        self.dropped_negative = dropped.pop().flatten();
        self.dropped = dropped;
        Ok(text.narrow(0, captions.len()))
    }

    /// The embeddings of captions, and what of each did not fit.
    fn encode_all(
        &mut self,
        captions: &[&str],
    ) -> Result<(TextEmbedding, Vec<Option<String>>), Error> {
        let slot = &self.bundle.text_encoder;
        let (tower, loading) = slot.network(self.placement)?;
        let start = Instant::now();
        let tokens = self.bundle.tokenizer.encode(captions);
        let text = tower.forward(&tokens, &self.placement.device);
        self.costs.push(StageCost::of_one_call(slot.id(), loading, start, &tower));
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
                let (null, mut dropped) = self.encode_all(&[self.negative_prompt])?;
                self.dropped_negative = dropped.pop().flatten();
                null
            }
        };
        Ok(self.null.insert(null).repeat_rows(self.seeds.len()))
    }

    /// Runs the prior: text embeddings to image embeddings, `[seeds, d_embedding]`.
    ///
    /// # Errors
    /// Weights that cannot be read, a stop by the observer, or values that are not finite.
    ///
    /// # Panics
    /// If there is not one row for each seed.
    pub fn prior(
        &mut self,
        text: &TextEmbedding,
        settings: &StageSettings,
    ) -> Result<ImageEmbedding, Error> {
        self.best_prior(text, settings, 1)
    }

    /// As [`prior`](Self::prior), with several candidates for each row, of which the one closest to
    /// its caption is kept (paper, section 2.2, which takes the better of two). The first candidate
    /// is that of the seed.
    ///
    /// # Errors
    /// As [`prior`](Self::prior); no candidate; recorded noise for more than one.
    ///
    /// # Panics
    /// As [`prior`](Self::prior).
    pub fn best_prior(
        &mut self,
        text: &TextEmbedding,
        settings: &StageSettings,
        candidates: usize,
    ) -> Result<ImageEmbedding, Error> {
        if candidates == 0 || (candidates > 1 && self.noise.is_some()) {
            let expected = "at least 1, and no more with recorded noise";
            return Err(InvalidSetting::new("candidates", candidates, expected).into());
        }
        let bound = self.bind_prior(text, settings)?;
        let own = self.seeds.to_vec();
        let towards = normalize(text.pooled.clone());
        let mut best: Option<(Tensor<2>, Tensor<2>)> = None;
        for k in 0..candidates as u64 {
            // the golden ratio's bits: the seeds of neighboring pictures stay apart
            let other = |seed: &u64| seed ^ k.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.seeds = own.iter().map(other).collect();
            let drawn = self.sample(&bound, Start::default());
            self.seeds = own.clone().into();
            let image = drawn?.0;
            let cosine = (normalize(image.clone()) * towards.clone()).sum_dim(1);
            best = Some(match best {
                None => (image, cosine),
                Some((kept, closest)) => {
                    let is_closer = cosine.clone().greater(closest.clone());
                    let rows = is_closer.clone().expand(image.dims());
                    (kept.mask_where(rows, image), closest.mask_where(is_closer, cosine))
                }
            });
        }
        let (image, _) = best.unwrap_or_else(|| unreachable!("at least one"));
        self.trace.text = Some(text.clone());
        self.trace.prior = Some(ImageEmbedding(image.clone()));
        Ok(ImageEmbedding(image))
    }

    /// Runs the decoder: image embeddings and captions to small pictures, `[seeds, 3, side, side]`
    /// in [−1, 1].
    ///
    /// # Errors
    /// Weights that cannot be read, a stop by the observer, or values that are not finite.
    ///
    /// # Panics
    /// If there is not one row for each seed.
    pub fn decode(
        &mut self,
        condition: &Condition,
        settings: &StageSettings,
    ) -> Result<Tensor<4>, Error> {
        self.decode_from(Start::default(), condition, settings)
    }

    /// The same from another start than the seeds' noise.
    ///
    /// # Errors
    /// As [`decode`](Self::decode); more steps than there are.
    ///
    /// # Panics
    /// As [`decode`](Self::decode); if the start has another shape than the pictures.
    pub fn decode_from(
        &mut self,
        start: Start<4>,
        condition: &Condition,
        settings: &StageSettings,
    ) -> Result<Tensor<4>, Error> {
        let bound = self.bind_decoder(condition, settings)?;
        let pictures = self.sample(&bound, start)?;
        self.trace.text = Some(condition.text.clone());
        self.trace.decoder = Some(pictures.clone());
        Ok(pictures)
    }

    /// Runs as many upsamplers as there are settings for: small pictures to large ones.
    ///
    /// # Errors
    /// Weights that cannot be read, a stop by the observer, or values that are not finite.
    ///
    /// # Panics
    /// If there are more settings than upsamplers.
    pub fn upsample(
        &mut self,
        mut pictures: Tensor<4>,
        settings: &[StageSettings],
    ) -> Result<Tensor<4>, Error> {
        for (place, settings) in settings.iter().enumerate() {
            let bound = self.bind_upsampler(place, &pictures, settings)?;
            pictures = self.sample(&bound, Start::default())?;
            self.trace.upsamplers.push(pictures.clone());
        }
        Ok(pictures)
    }

    /// Loads the prior and fixes its captions, one for each seed.
    ///
    /// # Errors
    /// A model without a prior; weights that cannot be read.
    pub fn bind_prior(
        &mut self,
        text: &TextEmbedding,
        settings: &StageSettings,
    ) -> Result<Bound<'a, DiffusionPriorConfig, 2>, Error> {
        let slot = self.bundle.prior()?;
        let null = self.null_if_guided(settings)?;
        self.bind(slot, text, settings, null.as_ref())
    }

    /// Loads the decoder and fixes its conditions, one for each seed.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn bind_decoder(
        &mut self,
        condition: &Condition,
        settings: &StageSettings,
    ) -> Result<Bound<'a, DecoderConfig, 4>, Error> {
        let slot = &self.bundle.decoder;
        let null = self.null_if_guided(settings)?;
        self.bind(slot, condition, settings, null.as_ref())
    }

    /// Loads the upsampler at this place and fixes its small pictures, one for each seed.
    ///
    /// # Errors
    /// Weights that cannot be read.
    ///
    /// # Panics
    /// If the model has no upsampler there.
    pub fn bind_upsampler(
        &mut self,
        place: usize,
        low_res: &Tensor<4>,
        settings: &StageSettings,
    ) -> Result<Bound<'a, UpsamplerConfig, 4>, Error> {
        self.bind(&self.bundle.upsamplers[place], low_res, settings, None)
    }

    /// What guidance leads away from, if there is any.
    fn null_if_guided(&mut self, settings: &StageSettings) -> Result<Option<TextEmbedding>, Error> {
        if settings.guidance_scale == 1.0 { Ok(None) } else { self.null().map(Some) }
    }
}

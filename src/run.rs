//! Driving the stages one by one.

use burn::tensor::Tensor;
use image::RgbImage;
use std::borrow::Cow;
use unclip_core::{ImageEmbedding, InvalidSetting, TextEmbedding};
use unclip_decoder::{Condition, DecoderConfig, Null};
use unclip_nn::Placement;
use unclip_prior::DiffusionPriorConfig;
use unclip_upsample::{LowRes, UpsamplerConfig};

use crate::hole::KeptPicture;
use crate::{
    Bound, Bundle, ClipGuidance, Error, Gallery, Observer, RecordedNoise, StageCost, StageSettings,
    Start, Trace,
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
    gallery: Option<&'a Gallery>,
    pub(crate) negative_image: Option<&'a ImageEmbedding>,
    pub(crate) hint: Option<&'a RgbImage>,
    pub(crate) size: Option<[u32; 2]>,
    /// The level of noise in image embeddings, of a decoder that was trained on such; `None` for
    /// none at all, not even that of level 0.
    pub(crate) noise_level: Option<usize>,
    /// And captions, if they are not the conditions'.
    clip_guidance: Option<(ClipGuidance, Option<TextEmbedding>)>,
    pub(crate) negative_prompt: &'a str,
    /// What the prior made of the negative prompt, for a decoder without a learned null image.
    pub(crate) negative_drawn: Option<ImageEmbedding>,
    /// Whether the second half of the rows is of the negative prompt.
    pub(crate) is_doubled: bool,
    /// Whether a decoder will ask for it.
    pub(crate) wants_negative: bool,
    /// CLIP's embedding of a picture of nothing: one row, once it is known.
    pub(crate) blank: Option<ImageEmbedding>,
    pub(crate) clip_against: &'a [String],
    /// The captions last encoded, which upsamplers may read as well.
    pub(crate) captions: Vec<String>,
    /// The class of each picture, of a model of classes.
    pub(crate) classes: Option<Vec<usize>>,
    /// How strongly the classifier guides, if it does.
    pub(crate) classifier_scale: Option<f64>,
    /// What stays of a picture that is edited, for upsamplers that are told.
    pub(crate) kept: Option<KeptPicture>,
    /// What guidance leads away from, once it is known: one row.
    pub(crate) null: Option<TextEmbedding>,
    /// The same as the prior's own text tower reads it, if there is one.
    pub(crate) prior_null: Option<TextEmbedding>,
    /// What CLIP has to choose from, once it is known: one row each.
    pub(crate) against: Option<TextEmbedding>,
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
            gallery: None,
            negative_image: None,
            hint: None,
            size: None,
            noise_level: Some(0),
            clip_guidance: None,
            negative_prompt: "",
            negative_drawn: None,
            is_doubled: false,
            wants_negative: true,
            blank: None,
            clip_against: &[],
            captions: Vec::new(),
            classes: None,
            classifier_scale: None,
            kept: None,
            null: None,
            prior_null: None,
            against: None,
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

    /// Sets what the decoder's guidance leads away from beside the negative prompt: the embedding
    /// of a picture, one row.
    #[must_use]
    pub fn with_negative_image(self, image: &'a ImageEmbedding) -> Self {
        Self { negative_image: Some(image), ..self }
    }

    /// Sets the picture that a decoder with a hint follows; see
    /// [`GenerateOptions::hint`](crate::GenerateOptions::hint).
    #[must_use]
    pub fn with_hint(self, hint: &'a RgbImage) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// Sets the width and height of the pictures, which the model must be able to make; see
    /// [`GenerateOptions::size`](crate::GenerateOptions::size).
    #[must_use]
    pub fn with_size(self, size: [u32; 2]) -> Self {
        Self { size: Some(size), ..self }
    }

    /// Sets the level of noise in image embeddings; see
    /// [`GenerateOptions::noise_level`](crate::GenerateOptions::noise_level).
    #[must_use]
    pub fn with_noise_level(self, level: usize) -> Self {
        Self { noise_level: Some(level), ..self }
    }

    /// Lets CLIP guide the decoder toward the captions of its conditions, or toward others, one row
    /// for each seed.
    #[must_use]
    pub fn with_clip_guidance(self, guidance: ClipGuidance, to: Option<TextEmbedding>) -> Self {
        Self { clip_guidance: Some((guidance, to)), ..self }
    }

    /// Sets how strongly the model's classifier guides the decoder to the classes of its condition; it
    /// does not by default. [`Settings::classifier_scale`](crate::Settings::classifier_scale) is how strongly whole calls are guided.
    #[must_use]
    pub fn with_classifier_scale(self, scale: f64) -> Self {
        Self { classifier_scale: Some(scale).filter(|scale| *scale != 0.0), ..self }
    }

    /// Lets CLIP choose among these captions and the picture's own, as a classifier does, instead
    /// of comparing with its own alone.
    #[must_use]
    pub fn with_clip_against(self, captions: &'a [String]) -> Self {
        Self { clip_against: captions, against: None, ..self }
    }

    /// Sets the embeddings that the prior `Retrieval` takes the nearest of.
    #[must_use]
    pub fn with_gallery(self, gallery: &'a Gallery) -> Self {
        Self { gallery: Some(gallery), ..self }
    }

    pub(crate) fn gallery(&self) -> Result<&'a Gallery, InvalidSetting> {
        self.gallery.ok_or_else(|| {
            let expected = "stored embeddings, of which the nearest are taken";
            InvalidSetting::new("gallery for the prior retrieval", "absent", expected)
        })
    }

    /// Sets the caption that guidance leads away from; by default the empty one.
    #[must_use]
    pub fn with_negative_prompt(self, negative_prompt: &'a str) -> Self {
        Self {
            negative_prompt,
            null: None,
            prior_null: None,
            negative_drawn: None,
            dropped_negative: None,
            ..self
        }
    }

    /// Announces how many steps will be taken in all, for
    /// [`Event::call_total`](crate::Event::call_total).
    #[must_use]
    pub fn with_steps(self, total: usize) -> Self {
        Self { progress: (0, Some(total)), ..self }
    }

    /// Runs the decoder, and its autoencoder if it samples latents: image embeddings and captions to
    /// small pictures, `[seeds, 3, height, width]` in [−1, 1].
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
        let sample = self.sample(&bound, start)?;
        // never two networks at once
        drop(bound);
        if self.bundle.decoder.config().reads_captions() {
            self.trace.text.clone_from(&condition.text);
        }
        self.pictures(sample)
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
            let low_res = self.low_res(place, &pictures)?;
            if let Some(text) = &low_res.text {
                self.trace.upsampler_texts.push((place, text.clone()));
            }
            let bound = self.bind(&self.bundle.upsamplers[place], &low_res, settings, None)?;
            pictures = self.sample(&bound, Start::default())?;
            self.trace.upsamplers.push(pictures.clone());
        }
        Ok(pictures)
    }

    /// Loads the diffusion prior and fixes its captions, one for each seed.
    ///
    /// # Errors
    /// A model without a diffusion prior; weights that cannot be read.
    pub fn bind_prior(
        &mut self,
        text: &TextEmbedding,
        settings: &StageSettings,
    ) -> Result<Bound<'a, DiffusionPriorConfig, 2>, Error> {
        let slot = self.bundle.prior()?;
        if let Some(scale) = settings.image_guidance {
            let expected = "absent: only the decoder has a picture for a condition";
            return Err(InvalidSetting::new("image guidance of the prior", scale, expected).into());
        }
        self.bundle.check_negative(self.negative_prompt)?;
        self.bundle.check_prior_guidance(settings)?;
        let null = match settings.is_guided() {
            false => None,
            // what stands for no caption is learned, and others are not looked at
            true if slot.config().has_null_caption() => Some(text.clone()),
            true => Some(self.null_for_prior()?),
        };
        self.bind(slot, text, settings, null.as_ref())
    }

    /// Loads the decoder and fixes its conditions, one for each seed.
    ///
    /// # Errors
    /// Weights that cannot be read; a decoder that follows a hint, without one.
    pub fn bind_decoder(
        &mut self,
        condition: &Condition,
        settings: &StageSettings,
    ) -> Result<Bound<'a, DecoderConfig, 4>, Error> {
        let slot = &self.bundle.decoder;
        self.check_classes(condition)?;
        self.bundle.check_guidance(settings)?;
        let condition = &self.controlled(condition)?;
        self.classes.clone_from(&condition.classes);
        let null = self.null_if_guided(settings)?;
        let bound = self.bind(slot, condition, settings, null.as_ref())?;
        let bound = match &self.clip_guidance {
            #[cfg(feature = "autodiff")]
            Some((guidance, to)) => {
                let to = to.clone().or_else(|| condition.text.clone());
                let to = to.ok_or_else(|| {
                    crate::bundle::missing(&self.bundle.origin, crate::StageId::TextEncoder)
                })?;
                let guidance = *guidance;
                guidance.check(self.bundle)?;
                let against = self.against()?;
                let condition = (condition, null.as_ref());
                self.steer(bound, condition, guidance, (&to, against.as_ref()))?
            }
            #[cfg(not(feature = "autodiff"))]
            Some((guidance, _)) => {
                guidance.check(self.bundle)?;
                bound
            }
            None => bound,
        };
        self.guided_by_classifier(bound)
    }

    /// Loads the upsampler at this place and fixes its small pictures, one for each seed. One that
    /// reads captions reads those last [encoded](Self::encode), of which each has equally many seeds.
    ///
    /// # Errors
    /// Weights that cannot be read; an upsampler that is told classes, without such; one that reads
    /// captions, if those last encoded have not equally many seeds.
    ///
    /// # Panics
    /// If the model has no upsampler there.
    pub fn bind_upsampler(
        &mut self,
        place: usize,
        low_res: &Tensor<4>,
        settings: &StageSettings,
    ) -> Result<Bound<'a, UpsamplerConfig, 4>, Error> {
        let low_res = self.low_res(place, low_res)?;
        self.bind(&self.bundle.upsamplers[place], &low_res, settings, None)
    }

    /// What an upsampler reads.
    fn low_res(&mut self, place: usize, picture: &Tensor<4>) -> Result<LowRes, Error> {
        let text = self.encode_for_upsampler(place)?;
        let config = self.bundle.upsamplers[place].config();
        if config.classes.is_some() && self.classes.is_none() {
            let expected = "one for each picture, which the decoder was told before";
            return Err(InvalidSetting::new("classes of the upsampler", "absent", expected).into());
        }
        let [rows, _, height, _] = picture.dims();
        let side = height * config.factor;
        let kept = self.kept.as_ref().filter(|_| config.kept);
        let kept = kept.map(|it| it.at(side, &self.placement.device).repeat_dim(0, rows));
        Ok(LowRes { picture: picture.clone(), text, classes: self.classes.clone(), kept })
    }

    /// What guidance of the decoder leads away from, if there is any.
    fn null_if_guided(&mut self, settings: &StageSettings) -> Result<Option<Null>, Error> {
        if !settings.is_guided() {
            return Ok(None);
        }
        let config = self.bundle.decoder.config();
        let rows = self.seeds.len();
        let mut image = self.negative_image.map(|image| image.repeat_rows(rows));
        if config.needs_null_image() {
            image = Some(image.map_or_else(|| self.negative_embedding(), Ok)?);
            self.trace.negative.clone_from(&image);
        }
        self.bundle.check_negative(self.negative_prompt)?;
        let is_read = config.reads_captions() && !config.has_null_caption();
        let text = is_read.then(|| self.null()).transpose()?;
        Ok(Some(Null { text, image }))
    }
}

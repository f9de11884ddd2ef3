//! Options for making pictures, and the settings that they become for a given model.

use std::sync::Arc;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use unclip_core::{ImageEmbedding, InvalidSetting, Limit};

use crate::clip_guidance::check_choices;
use crate::priors::PriorRequest;
use crate::stage_options::setters;
use crate::{
    Bundle, ClipGuidance, Error, Gallery, PriorKind, PriorSettings, RecordedNoise, StageId,
    StageOptions, StageSettings,
};

/// Options for making pictures.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Seed of the first picture; picture k has the seed `seed + k`, wrapping.
    pub seed: u64,
    /// Number of pictures per caption (or variations per picture), 1 to [`Limit::Images`] in all.
    pub n: usize,
    /// A caption of what the picture should not show: guidance leads away from it. The default is
    /// the empty caption, which stands for any picture. Stable unCLIP's prior is not led by it.
    pub negative_prompt: String,
    /// A picture's embedding of what the picture should not look like, one row: guidance of the
    /// decoder leads away from it. By default none.
    pub negative_image: Option<ImageEmbedding>,
    /// Guidance of the decoder toward the caption by the model's own CLIP; by default none.
    pub clip_guidance: Option<ClipGuidance>,
    /// Captions among which CLIP has to choose the picture's own: it then guides as a classifier
    /// does, by the logarithm of the probability (Dhariwal & Nichol 2021). Without any, by what it
    /// says of the caption alone.
    pub clip_against: Vec<String>,
    /// How strongly the model's classifier guides the decoder to the class, of a model that has one
    /// (ADM); 0 is none. By default as the model says, where there is a class. It needs the feature
    /// `autodiff`, and holds the classifier beside the decoder.
    pub classifier_scale: Option<f64>,
    /// Embeddings that the prior draws for each picture, of which the one closest to the caption is
    /// kept; 1 to 64, by default 1.
    pub candidates: usize,
    /// A picture that the result follows, such as a depth map: of a model that was trained with such
    /// (ControlNet of Kandinsky 2.2), which needs one. Its largest part in the middle is taken that
    /// has the result's proportions.
    pub hint: Option<Arc<RgbImage>>,
    /// Width and height of the pictures in pixels, of a model that is not bound to one size: multiples
    /// of [`Bundle::size_multiple`]. By default the model's own.
    pub size: Option<[u32; 2]>,
    /// How much noise image embeddings get before the decoder reads them, of a decoder that was
    /// trained on such (Stable unCLIP), from 0, the default: more makes pictures less like them.
    pub noise_level: Option<usize>,
    /// Noise from a file, in place of the seeds' noise.
    pub noise: Option<Arc<RecordedNoise>>,
    /// Which prior; by default the diffusion prior, or the autoregressive one if the model has no
    /// other.
    pub prior_kind: Option<PriorKind>,
    /// Embeddings for the prior `Retrieval`.
    pub gallery: Option<Arc<Gallery>>,
    /// How many of the embeddings nearest to the caption `Retrieval` draws from; by default the
    /// nearest alone.
    pub neighbors: Option<usize>,
    /// The prior.
    pub prior: StageOptions,
    /// The decoder.
    pub decoder: StageOptions,
    /// Every upsampler. They have no null condition, so guidance is refused.
    pub upsampler: StageOptions,
}

/// Why some options have no part.
const NO_IMAGES: &str = "the decoder of this model reads no image embedding";

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            n: 1,
            negative_prompt: String::new(),
            negative_image: None,
            clip_guidance: None,
            clip_against: Vec::new(),
            classifier_scale: None,
            candidates: 1,
            hint: None,
            size: None,
            noise_level: None,
            noise: None,
            prior_kind: None,
            gallery: None,
            neighbors: None,
            prior: StageOptions::default(),
            decoder: StageOptions::default(),
            upsampler: StageOptions::default(),
        }
    }
}

impl GenerateOptions {
    setters! {
        /// Sets [`seed`](Self::seed).
        with_seed: seed: u64 = |seed| seed;
        /// Sets [`n`](Self::n).
        with_n: n: usize = |n| n;
        /// Sets [`negative_prompt`](Self::negative_prompt).
        with_negative_prompt: negative_prompt: impl Into<String> = |prompt| prompt.into();
        /// Sets [`negative_image`](Self::negative_image).
        with_negative_image: negative_image: ImageEmbedding = |image| Some(image);
        /// Sets [`clip_guidance`](Self::clip_guidance).
        with_clip_guidance: clip_guidance: ClipGuidance = |guidance| Some(guidance);
        /// Sets [`clip_against`](Self::clip_against).
        with_clip_against: clip_against: Vec<String> = |captions| captions;
        /// Sets [`classifier_scale`](Self::classifier_scale).
        with_classifier_scale: classifier_scale: f64 = |scale| Some(scale);
        /// Sets [`candidates`](Self::candidates).
        with_candidates: candidates: usize = |candidates| candidates;
        /// Sets [`hint`](Self::hint).
        with_hint: hint: RgbImage = |hint| Some(Arc::new(hint));
        /// Sets [`size`](Self::size).
        with_size: size: [u32; 2] = |size| Some(size);
        /// Sets [`noise_level`](Self::noise_level).
        with_noise_level: noise_level: usize = |level| Some(level);
        /// Sets [`noise`](Self::noise).
        with_noise: noise: Arc<RecordedNoise> = |noise| Some(noise);
        /// Sets [`prior_kind`](Self::prior_kind).
        with_prior_kind: prior_kind: PriorKind = |kind| Some(kind);
        /// Sets [`gallery`](Self::gallery).
        with_gallery: gallery: Arc<Gallery> = |gallery| Some(gallery);
        /// Sets [`neighbors`](Self::neighbors).
        with_neighbors: neighbors: usize = |neighbors| Some(neighbors);
        /// Sets [`prior`](Self::prior).
        with_prior: prior: StageOptions = |prior| prior;
        /// Sets [`decoder`](Self::decoder).
        with_decoder: decoder: StageOptions = |decoder| decoder;
        /// Sets [`upsampler`](Self::upsampler).
        with_upsampler: upsampler: StageOptions = |upsampler| upsampler;
    }

    /// Seeds of the pictures: first those of the first caption's pictures, then of the next
    /// caption's.
    ///
    /// # Errors
    /// No caption; or the number of pictures is 0 or over [`Limit::Images`].
    pub fn seeds(&self, captions: usize) -> Result<Vec<u64>, InvalidSetting> {
        if captions == 0 {
            return Err(InvalidSetting::new("captions or pictures", 0, "at least 1"));
        }
        let all = self.n.saturating_mul(captions);
        if all == 0 {
            return Err(InvalidSetting::new("n", 0, "at least 1"));
        }
        let name = match captions {
            1 => "n".to_string(),
            _ => format!("n, which is {} for each of {captions},", self.n),
        };
        Limit::Images.check_len(&name, all)?;
        let seeds = (0..self.n as u64).map(|k| self.seed.wrapping_add(k));
        Ok((0..captions).flat_map(|_| seeds.clone()).collect())
    }

    /// Refuses options of the prior where it has no part.
    pub(crate) fn expect_no_prior(&self, why: &str) -> Result<(), InvalidSetting> {
        let expected = format!("absent: {why}");
        let refuse = |name: &str, found: String| Err(InvalidSetting::new(name, found, &expected));
        if self.prior != StageOptions::default() {
            return refuse("prior options", self.prior.to_string());
        }
        if let Some(kind) = self.prior_kind {
            return refuse("prior", kind.to_string());
        }
        if let Some(gallery) = &self.gallery {
            return refuse("gallery", gallery.name().into());
        }
        if let Some(neighbors) = self.neighbors {
            return refuse("neighbors", neighbors.to_string());
        }
        match self.candidates {
            1 => Ok(()),
            found => {
                let expected = format!("1: {why}");
                Err(InvalidSetting::new("candidates", found, expected))
            }
        }
    }

    /// Refuses a size, a level of noise and a hint that the model's decoder cannot take, or lacks.
    pub(crate) fn check_control(&self, bundle: &Bundle) -> Result<(), InvalidSetting> {
        bundle.check_control(self.size, self.noise_level, self.hint.as_deref())
    }

    /// Refuses a size where another picture says it.
    pub(crate) fn expect_no_size(&self, why: &str) -> Result<(), InvalidSetting> {
        match self.size {
            Some([width, height]) => {
                let expected = format!("absent: {why}");
                Err(InvalidSetting::new("size", format!("{width} × {height}"), expected))
            }
            None => Ok(()),
        }
    }

    /// Guidance by CLIP, if there is any: a scale of 0 is none.
    pub(crate) fn guiding_clip(&self) -> Option<ClipGuidance> {
        self.clip_guidance.filter(|guidance| guidance.scale != 0.0)
    }

    /// Refuses more than one result for each input.
    pub(crate) fn expect_one_each(&self) -> Result<(), InvalidSetting> {
        match self.n {
            1 => Ok(()),
            n => Err(InvalidSetting::new("n", n, "1: there is one embedding for each row")),
        }
    }

    /// What is asked of the prior.
    pub(crate) fn prior_request(&self) -> Result<PriorRequest<'_>, InvalidSetting> {
        if self.candidates == 0 {
            return Err(InvalidSetting::new("candidates", 0, "at least 1"));
        }
        Limit::Images.check_len("candidates", self.candidates)?;
        Ok(PriorRequest {
            kind: self.prior_kind,
            options: &self.prior,
            gallery: self.gallery.as_deref(),
            neighbors: self.neighbors,
            candidates: self.candidates,
        })
    }

    /// Fills in what is open from the model, and checks everything.
    ///
    /// # Errors
    /// Names the first option that cannot be used.
    pub fn resolve(&self, bundle: &Bundle) -> Result<Settings, Error> {
        let upsampler = &self.upsampler;
        if upsampler.guidance_scale.is_some() || upsampler.guidance_range.is_some() {
            let found = match (upsampler.guidance_scale, upsampler.guidance_range) {
                (Some(scale), _) => scale.to_string(),
                (None, range) => range.map_or(String::new(), |range| range.to_string()),
            };
            let expected = "absent: upsamplers have no null condition";
            return Err(InvalidSetting::new("upsampler guidance", found, expected).into());
        }
        if bundle.upsamplers.is_empty() && *upsampler != StageOptions::default() {
            let expected = "absent: the model has no upsampler";
            return Err(InvalidSetting::new("upsampler options", upsampler, expected).into());
        }
        let decoder = &bundle.decoder;
        let upsamplers =
            bundle.upsamplers.iter().map(|it| upsampler.resolve(it.id(), &it.config().diffusion));
        let clip_guidance = self.guiding_clip();
        clip_guidance.map_or(Ok(()), |guidance| guidance.check(bundle))?;
        check_choices(bundle, clip_guidance, &self.clip_against)?;
        bundle.check_image_guidance(&self.decoder)?;
        if !decoder.config().reads_images() {
            self.expect_no_prior(NO_IMAGES)?;
        }
        let decoder = self.decoder.resolve(decoder.id(), &decoder.config().diffusion)?;
        bundle.check_guidance(&decoder)?;
        self.check_classifier(bundle)?;
        Ok(Settings {
            classifier_scale: self.classifier(bundle),
            clip_guidance,
            clip_against: self.clip_against.clone(),
            candidates: self.candidates,
            prior: self.prior_request()?.resolve(bundle)?,
            decoder,
            upsamplers: upsamplers.collect::<Result<_, _>>()?,
        })
    }
}

/// Settings of every stage, with nothing left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Settings {
    /// Guidance by CLIP, if there was any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_guidance: Option<ClipGuidance>,
    /// How strongly the classifier guided, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier_scale: Option<f64>,
    /// Captions among which CLIP had to choose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clip_against: Vec<String>,
    /// Embeddings of which the prior's best was kept.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub candidates: usize,
    /// The prior, if it is used.
    pub prior: Option<PriorSettings>,
    /// The decoder.
    pub decoder: StageSettings,
    /// Each upsampler.
    #[serde(alias = "upsample")]
    pub upsamplers: Vec<StageSettings>,
}

impl Settings {
    /// Refuses a negative prompt or picture that would do nothing, or that the model cannot take.
    pub(crate) fn check_negatives(
        &self,
        options: &GenerateOptions,
        bundle: &Bundle,
    ) -> Result<(), InvalidSetting> {
        let len = options.negative_prompt.len();
        Limit::CaptionBytes.check_len("length of the negative prompt", len)?;
        if let Some(ImageEmbedding(image)) = &options.negative_image {
            if !bundle.decoder.config().reads_images() {
                let expected = format!("absent: {NO_IMAGES}");
                return Err(InvalidSetting::new("negative picture", "an embedding", expected));
            }
            let (found, width) = (image.dims(), bundle.d_embedding());
            if found != [1, width] {
                let (name, found) = ("shape of the negative picture", format!("{found:?}"));
                return Err(InvalidSetting::new(name, found, format!("[1, {width}]")));
            }
            let StageSettings { guidance_scale, image_guidance, .. } = self.decoder;
            if image_guidance.unwrap_or(guidance_scale) == 1.0 {
                let expected = "absent: the decoder's guidance leads away from it, and there is \
                                none of pictures with a scale of 1";
                return Err(InvalidSetting::new("negative picture", "an embedding", expected));
            }
        }
        if self.leads_from_blank(options, bundle) && bundle.image_encoder.is_none() {
            let expected = "1: the model has no image_encoder to see what guidance leads away from";
            let scale = self.decoder.guidance_scale;
            return Err(InvalidSetting::new("decoder guidance", scale, expected));
        }
        let prior = self.prior.as_ref().map_or(1.0, PriorSettings::guidance_scale);
        let prompt = &options.negative_prompt;
        bundle.check_negative(prompt)?;
        let reads = bundle.decoder.config().reads_captions();
        if !prompt.is_empty() && options.negative_image.is_some() && !reads {
            let expected = "none beside a negative picture: the decoder of this model leads away \
                            from one embedding";
            return Err(InvalidSetting::new("negative prompt", format!("{prompt:?}"), expected));
        }
        if !prompt.is_empty() && self.prior.is_none() && !reads {
            let expected = "none: the decoder of this model reads no captions, and no prior has a \
                            part in this picture";
            return Err(InvalidSetting::new("negative prompt", format!("{prompt:?}"), expected));
        }
        let leads_prior = prior != 1.0 && bundle.prior_reads_negative();
        if prompt.is_empty() || leads_prior || self.decoder.is_guided() {
            return Ok(());
        }
        let expected = "none: guidance leads away from it, and no stage that reads it has a guidance \
                        scale other than 1";
        Err(InvalidSetting::new("negative prompt", format!("{prompt:?}"), expected))
    }

    /// Whether the decoder is led away from what CLIP sees in a picture of nothing.
    pub(crate) fn leads_from_blank(&self, options: &GenerateOptions, bundle: &Bundle) -> bool {
        let config = bundle.decoder.config();
        // the prior draws an embedding of it, if it has a part
        let is_drawn = self.prior.is_some() || !config.reads_captions();
        let is_drawn = is_drawn && !options.negative_prompt.is_empty();
        let has_other = is_drawn || options.negative_image.is_some();
        config.needs_null_image() && self.decoder.is_guided() && !has_other
    }

    /// Refuses a caption that is too long to be kept with pictures, and guidance by CLIP where there is
    /// no caption that it could lead to.
    pub(crate) fn check_caption(&self, caption: &str) -> Result<(), InvalidSetting> {
        Limit::CaptionBytes.check_len("length of the caption", caption.len())?;
        match self.clip_guidance {
            Some(guidance) if caption.is_empty() => {
                let expected = "absent: there is no caption that it could lead to";
                Err(InvalidSetting::new("CLIP guidance", guidance.scale, expected))
            }
            _ => Ok(()),
        }
    }

    /// Stages that have a part beside those that every picture needs, but for the image encoder of
    /// a picture.
    pub(crate) fn others(&self) -> Vec<StageId> {
        let prior = self.prior.as_ref().and_then(PriorSettings::stage);
        // whichever prior it is, it reads captions by this one, if there is one
        let reads = self.prior.as_ref().map(|_| StageId::PriorTextEncoder);
        let guide = self.clip_guidance.map(|guidance| guidance.gradient.stage());
        let classifier = self.classifier_scale.map(|_| StageId::Classifier);
        prior.into_iter().chain(reads).chain(guide).chain(classifier).collect()
    }

    /// The same where the prior has no part.
    pub(crate) fn without_prior(self) -> Self {
        Self { prior: None, ..self }
    }

    /// Reverse steps of all stages together.
    pub(crate) fn steps(&self) -> usize {
        let stages = [&self.decoder].into_iter().chain(&self.upsamplers);
        let prior = self.prior.as_ref().map_or(0, |prior| prior.steps() * self.candidates);
        prior + stages.map(|stage| stage.steps).sum::<usize>()
    }
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

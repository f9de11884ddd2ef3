//! Everything that is needed to make a picture again, kept in its file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unclip_clip::{Fit, Padding};
use unclip_core::InvalidSetting;
use unclip_nn::Precision;

use crate::{
    Bundle, Error, GenerateOptions, OpenOptions, PriorSettings, Settings, StageId, StageOptions,
    StageSettings,
};

/// What made pictures, as their recipes name it.
#[derive(Debug, Clone)]
pub(crate) struct MadeBy {
    pub(crate) model: String,
    pub(crate) weights: BTreeMap<String, String>,
    pub(crate) opened: OpenOptions,
    pub(crate) precision: Precision,
}

impl MadeBy {
    /// Reads what is needed of the weights: before any work, since it may fail.
    pub(crate) fn of(
        bundle: &Bundle,
        precision: Precision,
        of_picture: bool,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let (model, opened) = (bundle.name(), bundle.opened(of_picture));
        let mut others = settings.others();
        others.extend(of_picture.then_some(StageId::ImageEncoder));
        let weights = bundle.fingerprints(&others)?;
        Ok(Self { model, weights, opened, precision })
    }
}

/// The recipe of one picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recipe {
    /// The caption.
    pub prompt: String,
    /// The caption that guidance led away from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub negative_prompt: String,
    /// Name of the picture that this is a variation of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// How much that picture counts ([`Variation::strength`](crate::Variation::strength)).
    #[serde(default = "full", skip_serializing_if = "is_full")]
    pub strength: f64,
    /// Whether its embedding went through the prior.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub through_prior: bool,
    /// The share of the prior's steps that took it toward the caption
    /// ([`Variation::prior_strength`](crate::Variation::prior_strength)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_strength: Option<f64>,
    /// Name of the file that the noise came from, if it was not the seed's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<String>,
    /// Which row of that file: see [`RecordedNoise::row`](crate::RecordedNoise::row).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_row: Option<usize>,
    /// Whether guidance led away from a picture, which a recipe does not hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub negative_picture: bool,
    /// Whether it followed a picture, which a recipe does not hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hint: bool,
    /// Width and height in pixels, if they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<[u32; 2]>,
    /// The level of noise in its image embedding, if one was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise_level: Option<usize>,
    /// Whether more went into the picture than a recipe holds, so that it cannot be made again from
    /// it: [`Latents`](crate::Latents), or the picture that was edited.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// How captions were padded, and a `!` was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<Padding>,
    /// The same of the prior's captions, if its tokenizer is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_padding: Option<Padding>,
    /// How the picture that this is a variation of was fitted to a square.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit: Option<Fit>,
    /// Number format that the networks computed in.
    #[serde(default)]
    pub precision: Precision,
    /// The seed of this picture.
    pub seed: u64,
    /// The model's name ([`Bundle::name`]).
    pub model: String,
    /// Fingerprint of the weights of each stage used, by which [`check_model`](Self::check_model)
    /// detects another model of the same name.
    #[serde(default)]
    pub weights: BTreeMap<String, String>,
    /// Settings of every stage.
    #[serde(flatten)]
    pub settings: Settings,
    /// Version of this library.
    pub version: String,
}

impl Recipe {
    /// The recipe of a picture that a model makes of a caption, which is empty for variations.
    pub(crate) fn new(
        made_by: &MadeBy,
        options: &GenerateOptions,
        settings: &Settings,
        prompt: &str,
        (seed, row): (u64, usize),
    ) -> Self {
        let MadeBy { model, weights, opened, precision } = made_by.clone();
        Self {
            prompt: prompt.into(),
            negative_prompt: options.negative_prompt.clone(),
            picture: None,
            strength: full(),
            through_prior: false,
            prior_strength: None,
            noise: options.noise.as_ref().map(|noise| noise.name()),
            noise_row: options.noise.as_ref().map(|noise| noise.first_row() + row),
            negative_picture: options.negative_image.is_some(),
            hint: options.hint.is_some(),
            size: options.size,
            noise_level: options.noise_level,
            incomplete: false,
            padding: opened.padding,
            prior_padding: opened.prior_padding,
            fit: opened.fit,
            precision,
            seed,
            model,
            weights,
            settings: settings.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Checks that a model is the one that made the picture, by the weights of every stage used.
    /// Recipes of version 0.1.0 and before name no weights.
    ///
    /// # Errors
    /// [`Error::OtherModel`]; weights that cannot be read.
    pub fn check_model(&self, bundle: &Bundle) -> Result<(), Error> {
        if self.weights.is_empty() {
            return Ok(());
        }
        let mut others = self.settings.others();
        let of_picture = self.weights.contains_key(&StageId::ImageEncoder.to_string());
        others.extend(of_picture.then_some(StageId::ImageEncoder));
        let found = bundle.fingerprints(&others)?;
        let mut stages = self.weights.keys().chain(found.keys());
        let of = |weights: &BTreeMap<String, String>, stage: &String| {
            weights.get(stage).cloned().unwrap_or("absent".into())
        };
        match stages.find(|stage| self.weights.get(*stage) != found.get(*stage)) {
            None => self.check_settings(bundle),
            Some(stage) => Err(Error::OtherModel {
                made_by: self.model.clone(),
                model: bundle.origin.clone(),
                stage: stage.clone(),
                weights: of(&self.weights, stage),
                found: of(&found, stage),
            }),
        }
    }

    /// Refuses settings that no options would give with this model, and which would be passed over.
    fn check_settings(&self, bundle: &Bundle) -> Result<(), Error> {
        // whatever the prior is, the others do not follow from it
        let (prior, prior_kind) = (StageOptions::default(), None);
        let neighbors = None;
        let options = GenerateOptions { prior, prior_kind, neighbors, ..self.options() };
        let again = options.resolve(bundle)?;
        let all = |settings: &Settings| {
            std::iter::once(&settings.decoder)
                .chain(&settings.upsamplers)
                .cloned()
                .collect::<Vec<_>>()
        };
        let (own, again) = (all(&self.settings), all(&again));
        if own == again {
            return Ok(());
        }
        let places = 0..own.len().max(again.len());
        let differs = places.into_iter().find(|&place| own.get(place) != again.get(place));
        let name = match differs {
            Some(0) | None => "decoder of the recipe".to_string(),
            Some(place) => format!("upsampler.{} of the recipe", place - 1),
        };
        let shown = |all: &[StageSettings]| {
            let settings = differs.and_then(|place| all.get(place));
            settings.map_or("absent".into(), |it| serde_json::to_string(it).unwrap_or_default())
        };
        let expected = format!("{}, as this model is driven", shown(&again));
        Err(InvalidSetting::new(name, shown(&own), expected).into())
    }

    /// The options with which to open the model for this picture.
    pub fn open_options(&self) -> OpenOptions {
        OpenOptions {
            padding: self.padding,
            prior_padding: self.prior_padding,
            fit: self.fit,
            prior_model: None,
        }
    }

    /// The options that make this picture again, except for noise and embeddings from files.
    pub fn options(&self) -> GenerateOptions {
        let Settings {
            clip_guidance, clip_against, candidates, prior, decoder, upsamplers, ..
        } = &self.settings;
        GenerateOptions {
            seed: self.seed,
            n: 1,
            negative_prompt: self.negative_prompt.clone(),
            negative_image: None,
            clip_guidance: *clip_guidance,
            clip_against: clip_against.clone(),
            // of a model with a classifier, none is a choice too
            classifier_scale: Some(self.settings.classifier_scale.unwrap_or(0.0)),
            candidates: *candidates,
            hint: None,
            size: self.size,
            noise_level: self.noise_level,
            noise: None,
            prior_kind: prior.as_ref().map(PriorSettings::kind),
            gallery: None,
            neighbors: match prior {
                Some(PriorSettings::Retrieval(settings)) => Some(settings.neighbors),
                _ => None,
            },
            prior: prior.as_ref().map(PriorSettings::options).unwrap_or_default(),
            decoder: decoder.clone().into(),
            upsampler: shared(upsamplers),
        }
    }
}

fn full() -> f64 {
    1.0
}

fn is_full(strength: &f64) -> bool {
    *strength == full()
}

/// What all upsamplers have in common. Where they differ, the user left it to the model.
fn shared(upsamplers: &[StageSettings]) -> StageOptions {
    let Some(first) = upsamplers.first() else { return StageOptions::default() };
    fn same<T: PartialEq + Clone>(
        all: &[StageSettings],
        first: &StageSettings,
        of: fn(&StageSettings) -> &T,
    ) -> Option<T> {
        all.iter().all(|other| of(other) == of(first)).then(|| of(first).clone())
    }
    StageOptions {
        steps: same(upsamplers, first, |it| &it.steps),
        sampler: same(upsamplers, first, |it| &it.sampler),
        spacing: same(upsamplers, first, |it| &it.spacing),
        ..StageOptions::default()
    }
}

//! Everything that is needed to make a picture again, kept in its file.

use serde::{Deserialize, Serialize};
use unclip_nn::Precision;

use crate::{Bundle, Error, GenerateOptions, Settings, StageOptions, StageSettings};

/// The recipe of one picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Recipe {
    /// The caption.
    pub prompt: String,
    /// What guidance led away from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub negative_prompt: String,
    /// Name of the picture that this is a variation of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub picture: Option<String>,
    /// Name of the file that the noise came from, if it was not the seed's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noise: Option<String>,
    /// Number format in which the networks worked.
    #[serde(default)]
    pub precision: Precision,
    /// The seed of this picture.
    pub seed: u64,
    /// Name of the model's folder.
    pub model: String,
    /// Fingerprint of the model's CLIP, by which [`check_model`](Self::check_model) notices
    /// another model of the same name.
    pub embedding_space: String,
    /// Every stage.
    #[serde(flatten)]
    pub settings: Settings,
    /// Version of this library.
    pub version: String,
}

impl Recipe {
    /// The recipe of a picture that a model makes of a caption, which is empty for variations.
    pub(crate) fn new(
        (bundle, precision): (&Bundle, Precision),
        options: &GenerateOptions,
        settings: &Settings,
        prompt: &str,
        seed: u64,
    ) -> Self {
        // the folder's name and not its path, which is nobody else's business
        let model = bundle.origin.file_name().unwrap_or(bundle.origin.as_os_str());
        Self {
            prompt: prompt.into(),
            negative_prompt: options.negative_prompt.clone(),
            picture: None,
            noise: options.noise.as_ref().map(|noise| noise.name()),
            precision,
            seed,
            model: model.to_string_lossy().into_owned(),
            embedding_space: bundle.text_encoder.embedding_space().into(),
            settings: settings.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// Checks that a model is the one that the picture was made with, as far as CLIP tells.
    ///
    /// # Errors
    /// [`Error::Incompatible`].
    pub fn check_model(&self, bundle: &Bundle) -> Result<(), Error> {
        let found = bundle.text_encoder.embedding_space();
        if self.embedding_space == found {
            return Ok(());
        }
        Err(Error::Incompatible {
            first: format!("the picture of {}", self.model),
            second: bundle.origin.display().to_string(),
            field: "embedding_space",
            found_first: self.embedding_space.clone(),
            found_second: found.into(),
        })
    }

    /// The options that make this picture again.
    pub fn options(&self) -> GenerateOptions {
        let Settings { prior, decoder, upsamplers } = &self.settings;
        GenerateOptions {
            seed: self.seed,
            n: 1,
            negative_prompt: self.negative_prompt.clone(),
            noise: None,
            prior: prior.clone().map(StageOptions::from).unwrap_or_default(),
            decoder: decoder.clone().into(),
            upsampler: shared(upsamplers),
        }
    }
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

//! Everything that is needed to make a picture again, kept in its file.

use serde::{Deserialize, Serialize};
use unclip_nn::Precision;

use crate::{Bundle, Error, GenerateOptions, StageOptions, StageSettings};

/// The recipe of one picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
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
    /// The prior, if it had a part in this.
    pub prior: Option<StageSettings>,
    /// The decoder.
    pub decoder: StageSettings,
    /// Each upsampler.
    pub upsample: Vec<StageSettings>,
    /// Version of this library.
    pub version: String,
}

impl Settings {
    /// Fills what the options leave open from the model, and checks everything. Caption,
    /// picture and precision are still open.
    ///
    /// # Errors
    /// The first option that is out of range.
    pub fn resolve(bundle: &Bundle, options: &GenerateOptions) -> Result<Self, Error> {
        if let Some(scale) = options.upsample.guidance_scale {
            let expected = "absent: upsamplers have no condition";
            let name = "upsample guidance";
            return Err(unclip_core::InvalidSetting::new(name, scale, expected).into());
        }
        let prior = bundle
            .prior
            .as_ref()
            .map(|stage| options.prior.resolve("prior", &stage.manifest.config.diffusion));
        let decoder =
            options.decoder.resolve("decoder", &bundle.decoder.manifest.config.diffusion)?;
        let upsample = bundle
            .upsamplers
            .iter()
            .map(|stage| options.upsample.resolve("upsample", &stage.manifest.config.diffusion))
            .collect::<Result<_, _>>()?;
        // the folder's name and not its path, which is nobody else's business
        let name = bundle.origin.file_name().unwrap_or(bundle.origin.as_os_str());
        Ok(Self {
            prompt: String::new(),
            negative_prompt: options.negative_prompt.clone(),
            picture: None,
            noise: options.noise.as_ref().map(|noise| noise.name()),
            precision: Precision::default(),
            seed: options.seed,
            model: name.to_string_lossy().into_owned(),
            embedding_space: bundle.text_encoder.manifest.embedding_space.clone(),
            prior: prior.transpose()?,
            decoder,
            upsample,
            version: env!("CARGO_PKG_VERSION").into(),
        })
    }

    /// Checks that a model is the one that the picture was made with, as far as CLIP tells.
    ///
    /// # Errors
    /// [`Error::Incompatible`].
    pub fn check_model(&self, bundle: &Bundle) -> Result<(), Error> {
        let found = &bundle.text_encoder.manifest.embedding_space;
        if self.embedding_space == *found {
            return Ok(());
        }
        Err(Error::Incompatible {
            first: format!("the picture of {}", self.model),
            second: bundle.origin.display().to_string(),
            field: "embedding_space",
            found_first: self.embedding_space.clone(),
            found_second: found.clone(),
        })
    }

    /// The options that make this picture again.
    pub fn options(&self) -> GenerateOptions {
        // where upsamplers differ, the user left it to the model
        let all = |same: fn(&StageSettings, &StageSettings) -> bool| {
            self.upsample
                .first()
                .filter(|first| self.upsample.iter().all(|other| same(first, other)))
        };
        let upsample = StageOptions {
            steps: all(|a, b| a.steps == b.steps).map(|settings| settings.steps),
            guidance_scale: None,
            sampler: all(|a, b| a.sampler == b.sampler).map(|settings| settings.sampler),
        };
        GenerateOptions {
            seed: self.seed,
            n: 1,
            negative_prompt: self.negative_prompt.clone(),
            noise: None,
            prior: self.prior.map(StageOptions::from).unwrap_or_default(),
            decoder: self.decoder.into(),
            upsample,
        }
    }
}

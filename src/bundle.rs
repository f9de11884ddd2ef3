//! A model on disk, or inside the program: a folder with one subfolder for each stage.
//!
//! ```text
//! tokenizer/      vocab.json, merges.txt
//! text_encoder/   config.json, model.safetensors
//! image_encoder/  …  (only for tasks that start from a picture)
//! prior/          …
//! decoder/        …
//! upsampler.0/    …  (and upsampler.1, …: as many as there are)
//! ```
//! Folders of diffusers' layout (Karlo as it is published) are recognised by their
//! `model_index.json`, those of Karlo's own code by its names of files:
//!
//! ```text
//! tokenizer/      vocab.json, merges.txt
//! ViT-L-14.safetensors, ViT-L-14_stats.safetensors
//! prior-ckpt-step=01000000-of-01000000.safetensors
//! decoder-ckpt-step=01000000-of-01000000.safetensors
//! improved-sr-ckpt-step=1.2M.safetensors
//! ```
//! Opening reads and checks configurations and headers; weights are read when a stage is loaded.

use std::path::{Path, PathBuf};

use unclip_clip::{
    Fit, ImageEncoderConfig, Padding, TextEncoderConfig, Tokenizer, TokenizerOptions,
};
use unclip_core::InvalidSetting;
use unclip_decoder::DecoderConfig;
use unclip_nn::checkpoint::{LoadError, StageConfig, StageFiles};
use unclip_prior::DiffusionPriorConfig;
use unclip_upsample::UpsamplerConfig;

use crate::{Error, diffusers, original};

/// A stage that is part of the program.
#[cfg(feature = "bundled")]
macro_rules! embedded {
    ($stage:literal) => {
        StageFiles::embedded(
            $stage,
            include_bytes!(concat!("../assets/shapes/", $stage, "/config.json")),
            include_bytes!(concat!("../assets/shapes/", $stage, "/model.safetensors")),
        )
    };
}

/// Upsamplers that a model may have.
const MAX_UPSAMPLERS: usize = 8;
/// Largest side of a picture, in pixels.
const MAX_SIDE: usize = 1 << 13;

/// An opened model, checked for being complete and of one piece.
#[derive(Debug)]
pub struct Bundle {
    /// Where it came from.
    pub origin: PathBuf,
    /// Reads captions.
    pub tokenizer: Tokenizer,
    /// CLIP's text tower.
    pub text_encoder: StageFiles<TextEncoderConfig>,
    /// CLIP's image tower, if the model has it.
    pub image_encoder: Option<StageFiles<ImageEncoderConfig>>,
    /// The prior, if the model has it; only tasks that start from a picture do without.
    pub prior: Option<StageFiles<DiffusionPriorConfig>>,
    /// The decoder.
    pub decoder: StageFiles<DecoderConfig>,
    /// The upsamplers, in order.
    pub upsamplers: Vec<StageFiles<UpsamplerConfig>>,
}

/// What is read differently by different implementations of the same model. `None` is what the
/// model's own folder says, or else what diffusers does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// With which token a caption is filled up, and how a `!` in it is read.
    pub padding: Option<Padding>,
    /// How pictures are brought to the image encoder's square.
    pub fit: Option<Fit>,
}

impl Bundle {
    /// Opens a folder: of this crate's own layout, of diffusers', or of Karlo's own code, whose
    /// pickles have to be converted to safetensors first (`tools/convert_pickle.py`).
    ///
    /// # Errors
    /// A stage that is missing or damaged, or that was trained for another CLIP.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        Self::open_with(folder, &OpenOptions::default())
    }

    /// As [`open`](Self::open), with choices.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(folder: &Path, options: &OpenOptions) -> Result<Self, Error> {
        if !folder.is_dir() {
            let found = std::io::Error::other("no such folder; expected a model's");
            let source = std::fs::read_dir(folder).err().unwrap_or(found);
            return Err(LoadError::Io { path: folder.into(), source }.into());
        }
        if folder.join(diffusers::INDEX).exists() {
            return diffusers::open(folder, options);
        }
        if original::is_in(folder) {
            return original::open(folder, options);
        }
        let text_encoder: StageFiles<TextEncoderConfig> = stage(folder, "text_encoder")?;
        let reading = tokenizer_options(&text_encoder, options.padding);
        let mut image_encoder: Option<StageFiles<ImageEncoderConfig>> =
            optional_stage(folder, "image_encoder")?;
        if let (Some(files), Some(fit)) = (&mut image_encoder, options.fit) {
            files.manifest.config.fit = fit;
        }
        let bundle = Self {
            origin: folder.into(),
            tokenizer: Tokenizer::from_folder(&folder.join("tokenizer"), reading)?,
            text_encoder,
            image_encoder,
            prior: Some(stage(folder, "prior")?),
            decoder: stage(folder, "decoder")?,
            upsamplers: upsamplers(folder)?,
        };
        bundle.check()?;
        Ok(bundle)
    }

    /// The shapes model that is part of the program.
    ///
    /// # Errors
    /// None in a released version; a damaged build would be reported here.
    #[cfg(feature = "bundled")]
    pub fn shapes() -> Result<Self, Error> {
        let text_encoder: StageFiles<TextEncoderConfig> = embedded!("text_encoder")?;
        let options = tokenizer_options(&text_encoder, None);
        let bundle = Self {
            origin: "the bundled shapes model".into(),
            tokenizer: Tokenizer::from_bytes(
                Path::new("tokenizer"),
                include_bytes!("../assets/shapes/tokenizer/vocab.json"),
                include_bytes!("../assets/shapes/tokenizer/merges.txt"),
                options,
            )?,
            text_encoder,
            image_encoder: Some(embedded!("image_encoder")?),
            prior: Some(embedded!("prior")?),
            decoder: embedded!("decoder")?,
            upsamplers: vec![embedded!("upsampler.0")?, embedded!("upsampler.1")?],
        };
        bundle.check()?;
        Ok(bundle)
    }

    /// The prior.
    ///
    /// # Errors
    /// [`Error::MissingStage`] if the model has none.
    pub fn prior(&self) -> Result<&StageFiles<DiffusionPriorConfig>, Error> {
        self.prior.as_ref().ok_or_else(|| missing(&self.origin, "prior"))
    }

    /// CLIP's image tower.
    ///
    /// # Errors
    /// [`Error::MissingStage`] if the model has none.
    pub fn image_encoder(&self) -> Result<&StageFiles<ImageEncoderConfig>, Error> {
        self.image_encoder.as_ref().ok_or_else(|| missing(&self.origin, "image_encoder"))
    }

    /// Side of the pictures that the last stage gives, in pixels.
    pub fn image_size(&self) -> usize {
        let factors = self.upsamplers.iter().map(|stage| stage.manifest.config.factor);
        self.decoder.manifest.config.unet.image_size * factors.product::<usize>()
    }

    /// Checks that every stage speaks of the same CLIP, and that widths agree.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let text = &self.text_encoder.manifest;
        let decoder = &self.decoder.manifest;
        let mut spaces = vec![("decoder", &decoder.embedding_space)];
        if let Some(prior) = &self.prior {
            spaces.push(("prior", &prior.manifest.embedding_space));
        }
        if let Some(image) = &self.image_encoder {
            spaces.push(("image_encoder", &image.manifest.embedding_space));
        }
        for (stage, space) in spaces {
            agree("text_encoder", &text.embedding_space, stage, space, "embedding_space")?;
        }
        let text = &text.config;
        let width = |found: usize, stage: &str, field: &'static str, expected: usize| {
            agree("text_encoder", &expected.to_string(), stage, &found.to_string(), field)
        };
        width(decoder.config.d_embedding, "decoder", "d_embedding", text.d_embedding)?;
        width(decoder.config.d_text, "decoder", "d_text", text.transformer.d_model)?;
        if let Some(prior) = &self.prior {
            let prior = &prior.manifest.config;
            width(prior.d_embedding, "prior", "d_embedding", text.d_embedding)?;
            width(prior.d_text, "prior", "d_text", text.transformer.d_model)?;
            width(prior.context_length, "prior", "context_length", text.context_length)?;
        }
        if let Some(image) = &self.image_encoder {
            let found = image.manifest.config.d_embedding;
            width(found, "image_encoder", "d_embedding", text.d_embedding)?;
        }
        width(self.tokenizer.vocab_size(), "tokenizer", "vocab_size", text.vocab_size)?;
        self.check_sizes()
    }

    /// Checks that each upsampler can take the size that the stage before it gives.
    fn check_sizes(&self) -> Result<(), Error> {
        let side = self.image_size();
        if side > MAX_SIDE {
            let (name, expected) = ("side of this model's pictures", format!("at most {MAX_SIDE}"));
            return Err(InvalidSetting::new(name, side, expected).into());
        }
        let mut side = self.decoder.manifest.config.unet.image_size;
        for (place, upsampler) in self.upsamplers.iter().enumerate() {
            let config = &upsampler.manifest.config;
            side *= config.factor;
            let multiple = config.unet.size_multiple();
            if !side.is_multiple_of(multiple) {
                let found = format!("a picture side of {side}");
                let expected = format!("a multiple of {multiple}");
                agree("decoder", &found, &format!("upsampler.{place}"), &expected, "size")?;
            }
        }
        Ok(())
    }
}

fn tokenizer_options(
    text: &StageFiles<TextEncoderConfig>,
    padding: Option<Padding>,
) -> TokenizerOptions {
    let padding = padding.unwrap_or(TokenizerOptions::default().padding);
    TokenizerOptions { context_length: text.manifest.config.context_length, padding }
}

fn optional_stage<T: StageConfig>(
    folder: &Path,
    name: &str,
) -> Result<Option<StageFiles<T>>, Error> {
    let path = folder.join(name);
    match path.try_exists() {
        Ok(true) => Ok(Some(StageFiles::open(&path)?)),
        Ok(false) => Ok(None),
        Err(source) => Err(LoadError::Io { path, source }.into()),
    }
}

fn stage<T: StageConfig>(folder: &Path, name: &str) -> Result<StageFiles<T>, Error> {
    optional_stage(folder, name)?.ok_or_else(|| missing(folder, name))
}

/// The error for a stage that a task needs and the model lacks.
pub(crate) fn missing(model: &Path, stage: &str) -> Error {
    Error::MissingStage { model: model.into(), stage: stage.into() }
}

/// upsampler.0, upsampler.1 and so on, without a gap.
fn upsamplers(folder: &Path) -> Result<Vec<StageFiles<UpsamplerConfig>>, Error> {
    let mut stages = Vec::new();
    for place in 0..MAX_UPSAMPLERS {
        let name = format!("upsampler.{place}");
        match optional_stage(folder, &name)? {
            Some(stage) if stages.len() == place => stages.push(stage),
            Some(_) => {
                let stage = format!("upsampler.{}", stages.len());
                return Err(missing(folder, &stage));
            }
            None => {}
        }
    }
    Ok(stages)
}

/// Checks that two stages have the same value.
pub(crate) fn agree(
    first: &str,
    found_first: &str,
    second: &str,
    found_second: &str,
    field: &'static str,
) -> Result<(), Error> {
    if found_first == found_second {
        return Ok(());
    }
    Err(Error::Incompatible {
        first: first.into(),
        second: second.into(),
        field,
        found_first: found_first.into(),
        found_second: found_second.into(),
    })
}

//! LAION's models, in the files of DALLE2-pytorch, converted to safetensors.
//!
//! ```text
//! tokenizer/                      vocab.json, merges.txt of CLIP
//! ViT-L-14.safetensors            OpenAI's CLIP, in any of its layouts
//! prior/prior_config.json         latest.safetensors
//! decoder/decoder_config.json     latest.safetensors
//! upsampler/decoder_config.json   latest.safetensors; if there is one
//! ```
//! The folders are those that LAION published; `best` may stand for `latest`. The first U-Net of the
//! decoder's file draws. What enlarges are the others, or those of the upsampler's file, of which the
//! first is not read.

mod names;
mod network;
mod prior;
mod release;
mod schedules;
mod unets;

use std::path::{Path, PathBuf};

use unclip_clip::{Fit, Padding, TextEncoderConfig, Tokenizer, TokenizerOptions};
use unclip_core::InvalidSetting;
use unclip_decoder::DecoderConfig;
use unclip_nn::checkpoint::{LoadError, StageConfig, StageFiles, Weights};
use unclip_prior::DiffusionPriorConfig;

use super::diffusers::fields::{Fields, flat};
use super::layout::Layout;
use super::original::clip::{image_encoder, text_encoder};
use super::original::{is_there, weights};
use crate::bundle::{Parts, TextFiles, Upsampling, missing};
use crate::{Error, OpenOptions};

const PRIOR: &str = "prior";
const DECODER: &str = "decoder";
const UPSAMPLER: &str = "upsampler";
const PRIOR_CONFIG: &str = "prior_config.json";
const DECODER_CONFIG: &str = "decoder_config.json";
/// What the files of weights are called.
const WEIGHTS: [&str; 2] = ["latest", "best"];
/// CLIP, where no configuration names another.
const CLIP: &str = "ViT-L/14";

pub(super) struct Laion;

impl Layout for Laion {
    fn name(&self) -> &'static str {
        "laion"
    }

    /// Whether it has a configuration or weights of a decoder or a prior, converted or not.
    fn recognizes(&self, folder: &Path) -> bool {
        let stages = [(DECODER, DECODER_CONFIG), (PRIOR, PRIOR_CONFIG)];
        stages.iter().any(|(stage, config)| {
            let folder = folder.join(stage);
            let has_config = folder.join(config).symlink_metadata().is_ok();
            has_config || WEIGHTS.iter().any(|name| is_there(&folder, name))
        })
    }

    fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Parts, Error> {
        if !folder.join(DECODER).is_dir() {
            return Err(missing(folder, DECODER));
        }
        let read = Cascade::open(&folder.join(DECODER))?;
        let prior = PriorFields::read(folder)?;
        let clip = one_clip(prior.as_ref(), &read)?.replace(['/', '@'], "-");
        let text = text(folder, &clip, options)?;
        let context_length = text.encoder.manifest.config.context_length;
        let upsamplers = if folder.join(UPSAMPLER).symlink_metadata().is_ok() {
            let above = read.sides[0];
            Cascade::open(&folder.join(UPSAMPLER))?.upsamplers(Some(above))?
        } else {
            read.upsamplers(None)?
        };
        Ok(Parts {
            text: Some(text),
            image_encoder: image_encoder(folder, &clip, options.fit.unwrap_or(Fit::Lanczos), true)?,
            prior: prior.map(|it| it.open(context_length)).transpose()?,
            upsamplers,
            ..Parts::of(read.decoder()?)
        })
    }
}

/// CLIP's text tower and its tokenizer.
fn text(folder: &Path, clip: &str, options: &OpenOptions) -> Result<TextFiles, Error> {
    let encoder: StageFiles<TextEncoderConfig> = text_encoder(folder, clip, true)?;
    let reading = TokenizerOptions {
        context_length: encoder.manifest.config.context_length,
        padding: Some(options.padding.unwrap_or(Padding::Zero)),
    };
    let words = folder.join("tokenizer");
    Ok(TextFiles { tokenizer: Tokenizer::from_folder(&words, reading)?, words, encoder })
}

/// The CLIP that prior and decoder name, if they do.
fn one_clip<'a>(
    prior: Option<&'a PriorFields>,
    decoder: &'a Cascade,
) -> Result<&'a str, LoadError> {
    match (prior.and_then(|it| it.clip.as_deref()), decoder.clip.as_deref()) {
        (Some(prior), Some(own)) if prior != own => {
            let expected = format!("{prior}, which the prior's configuration names");
            Err(refused(&decoder.path(), "decoder.clip.model", own, expected))
        }
        (first, second) => Ok(first.or(second).unwrap_or(CLIP)),
    }
}

/// The error for a field of a configuration.
fn refused(
    path: &Path,
    field: &str,
    found: impl ToString,
    expected: impl Into<String>,
) -> LoadError {
    let source = InvalidSetting::new(field, found.to_string(), expected.into());
    LoadError::Config { path: path.into(), source }
}

/// A stage's configuration.
fn configuration(folder: &Path, name: &str) -> Result<Fields, LoadError> {
    let path = folder.join(name);
    if path.symlink_metadata().is_err() {
        let expected = "the configuration that belongs to the weights, under this name; newer \
                        checkpoints hold it, and tools/convert_pickle.py writes it";
        return Err(refused(folder, name, "absent", expected));
    }
    Fields::read(&path, None)
}

/// A prior's configuration, and the name of its CLIP if it gives one.
struct PriorFields {
    folder: PathBuf,
    fields: Fields,
    clip: Option<String>,
}

impl PriorFields {
    /// Those of the prior, if it is there.
    fn read(folder: &Path) -> Result<Option<Self>, LoadError> {
        let folder = folder.join(PRIOR);
        if folder.symlink_metadata().is_err() {
            return Ok(None);
        }
        let mut fields = configuration(&folder, PRIOR_CONFIG)?.object("prior")?;
        let clip = clip_of(&mut fields)?;
        Ok(Some(Self { folder, fields, clip }))
    }

    /// The prior, whose captions have so many tokens.
    fn open(self, context_length: usize) -> Result<StageFiles<DiffusionPriorConfig>, LoadError> {
        let path = self.fields.path().to_path_buf();
        let weights = stage_weights(&self.folder)?;
        let config = prior::config(self.fields, context_length, release::of_prior(&weights)?)?;
        let of_weights = (path.as_path(), "prior.");
        schedules::check(&weights, "noise_scheduler.betas", &config.diffusion, of_weights)?;
        let weights = names::prior(weights, &config)?;
        stage(&path, config, weights, ("prior.", &prior::NAMES))
    }
}

/// The name of OpenAI's CLIP that a configuration names, if it does.
fn clip_of(fields: &mut Fields) -> Result<Option<String>, LoadError> {
    if fields.is_null("clip") {
        return Ok(None);
    }
    let mut clip = fields.object("clip")?;
    clip.expect("make", "openai")?;
    clip.ignore(&["base_model_kwargs"]);
    let model: String = clip.take_or("model", CLIP.into())?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_/@".contains(c);
    let is_word = model.starts_with(|c: char| c.is_ascii_alphanumeric()) && model.len() < 64;
    if !is_word || !model.chars().all(is_name) {
        return Err(clip.error("model", model, "the name of one of OpenAI's models"));
    }
    clip.finish()?;
    Ok(Some(model))
}

/// The file of weights in a stage's folder.
fn stage_weights(folder: &Path) -> Result<Weights, LoadError> {
    match WEIGHTS.iter().find(|name| is_there(folder, name)) {
        Some(name) => weights(folder, name),
        None => {
            let expected = "latest.safetensors, or best.safetensors, as tools/convert_pickle.py \
                            writes it";
            Err(refused(folder, "weights", "absent", expected))
        }
    }
}

/// A stage. `names` are those of the configuration for ours: from its root, or in its object `within`.
fn stage<T: StageConfig>(
    path: &Path,
    config: T,
    weights: Weights,
    (within, names): (&str, &[(&str, &str)]),
) -> Result<StageFiles<T>, LoadError> {
    StageFiles::of(path, config, weights).map_err(|error| match error {
        LoadError::Config { path, source } => {
            let name = names.iter().find(|(ours, _)| *ours == flat(&source.name));
            // those with a dot are named from the root
            let theirs = |(_, theirs): &(&str, &str)| {
                let within = if theirs.contains('.') { "" } else { within };
                format!("{within}{theirs}")
            };
            let name = name.map_or(source.name.clone(), theirs);
            LoadError::Config { path, source: InvalidSetting { name, ..source } }
        }
        other => other,
    })
}

/// A decoder's folder: U-Nets for ever larger pictures.
struct Cascade {
    folder: PathBuf,
    unets: Vec<unets::Unet>,
    sides: Vec<usize>,
    clip: Option<String>,
}

impl Cascade {
    fn open(folder: &Path) -> Result<Self, Error> {
        let mut fields = configuration(folder, DECODER_CONFIG)?.object("decoder")?;
        let clip = clip_of(&mut fields)?;
        let weights = stage_weights(folder)?;
        let unets = unets::unets(fields, release::of_decoder(&weights)?)?;
        let path = folder.join(DECODER_CONFIG);
        names::check_unets(&weights, unets.len(), &path)?;
        for (place, unet) in unets.iter().enumerate() {
            let betas = format!("noise_schedulers.{place}.betas");
            schedules::check(&weights, &betas, unet.diffusion(), (&path, "decoder."))?;
        }
        let sides = unets.iter().map(|it| it.side).collect();
        Ok(Self { folder: folder.into(), unets, sides, clip })
    }

    fn path(&self) -> PathBuf {
        self.folder.join(DECODER_CONFIG)
    }

    /// What draws.
    fn decoder(&self) -> Result<StageFiles<DecoderConfig>, Error> {
        let unet = &self.unets[0];
        let weights = names::unet(stage_weights(&self.folder)?, 0, unet.reads_captions())?;
        let names = ("decoder.unets.0.", unets::NAMES.as_slice());
        Ok(stage(&self.path(), unet.decoder()?, weights, names)?)
    }

    /// What enlarges the pictures that come before; `above` is the side of those that another folder's
    /// decoder draws.
    fn upsamplers(&self, above: Option<usize>) -> Result<Vec<Upsampling>, Error> {
        let path = self.path();
        if let Some(above) = above {
            if self.sides.len() < 2 {
                let expected = "at least two U-Nets; the first of an upsampler's file is ignored";
                return Err(refused(&path, "decoder.unets", "a list of one", expected).into());
            }
            if self.sides[0] != above {
                let (found, field) = (self.sides[0], "decoder.image_sizes.0");
                let expected = format!("{above}, which the decoder draws");
                return Err(refused(&path, field, found, expected).into());
            }
        }
        let pairs = self.sides.windows(2).zip(&self.unets[1..]).enumerate();
        pairs
            .map(|(place, (sides, unet))| {
                let weights = names::unet(stage_weights(&self.folder)?, place + 1, false)?;
                let config = unet.upsampler(sides[0])?;
                let within = format!("decoder.unets.{}.", place + 1);
                let names = (within.as_str(), unets::NAMES.as_slice());
                Ok((stage(&path, config, weights, names)?, None))
            })
            .collect()
    }
}

//! Kandinsky 2.2 as it is published: two folders in diffusers' layout, that of the decoder and that
//! of the prior.
//!
//! ```text
//! kandinsky-2-2-decoder/
//!   model_index.json
//!   unet/, scheduler/, movq/
//! kandinsky-2-2-prior/
//!   model_index.json
//!   prior/, scheduler/, text_encoder/, tokenizer/, image_encoder/, image_processor/
//! ```
//! One folder with both as subfolders, of whatever names, is a model as well.

mod scheduler;
mod write;

use std::path::{Path, PathBuf};

use unclip_core::InvalidSetting;
use unclip_decoder::DecoderConfig;
use unclip_nn::Precision;
use unclip_nn::checkpoint::{LoadError, StageFiles, Weights};

use super::diffusers::autoencoder::autoencoder;
use super::diffusers::fields::Fields;
use super::diffusers::files::{INDEX, NETWORK};
use super::diffusers::networks::{self, Defaults};
use super::diffusers::{check_index, image_encoder, prior, required, stage, text};
use super::hub;
use super::layout::{Layout, Writer};
use crate::bundle::{Parts, missing};
use crate::{Bundle, Error, OpenOptions, StageId};

/// The pipelines of either folder.
const DECODERS: [&str; 1] = ["KandinskyV22Pipeline"];
const PRIORS: [&str; 2] = ["KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline"];

const DECODER_PARTS: [(&str, &[&str]); 3] = [
    ("unet", &["UNet2DConditionModel"]),
    ("scheduler", &["DDPMScheduler", "DDIMScheduler"]),
    ("movq", &["VQModel"]),
];

const PRIOR_PARTS: [(&str, &[&str]); 6] = [
    ("prior", &["PriorTransformer"]),
    ("scheduler", &["UnCLIPScheduler"]),
    ("text_encoder", &["CLIPTextModelWithProjection"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("image_encoder", &["CLIPVisionModelWithProjection"]),
    ("image_processor", &["CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"]),
];

/// The reference pipeline's defaults.
const DECODER: Defaults = Defaults { steps: 100, guidance_scale: 4.0 };

/// Context tokens that the U-Net makes of an embedding: no field says so.
const IMAGE_TOKENS: usize = 32;

pub(super) struct Kandinsky;

impl Layout for Kandinsky {
    fn name(&self) -> &'static str {
        "kandinsky"
    }

    fn recognizes(&self, folder: &Path) -> bool {
        let is_either =
            |folder: &Path| pipeline(folder).is_some_and(|name| name.starts_with("Kandinsky"));
        is_either(folder) || subfolders(folder).iter().any(|folder| is_either(folder))
    }

    fn takes_prior_model(&self) -> bool {
        true
    }

    fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Parts, Error> {
        let (decoder_folder, prior_folder) = both(folder, options)?;
        check_index(&decoder_folder, &DECODERS, &DECODER_PARTS)?;
        check_index(&prior_folder, &PRIORS, &PRIOR_PARTS)?;
        let (tokenizer, text_encoder) = text(&prior_folder, options)?;
        let d_text = text_encoder.manifest.config.transformer.d_model;
        Ok(Parts {
            words: prior_folder.join("tokenizer"),
            tokenizer,
            text_encoder,
            image_encoder: image_encoder(&prior_folder, "image_processor", options)?,
            noised_image_encoder: None,
            prior: prior(&prior_folder, "scheduler", d_text)?,
            ar_prior: None,
            decoder: decoder(&decoder_folder)?,
            autoencoder: Some(autoencoder(&required(&decoder_folder, "movq")?)?),
            upsamplers: Vec::new(),
        })
    }

    fn is_written(&self) -> bool {
        true
    }

    fn writer<'a>(&self, bundle: &'a Bundle, format: Precision) -> Result<Writer<'a>, Error> {
        let configs = write::configs(bundle, format)?;
        Ok(Box::new(move |target| write::write(bundle, &configs, target)))
    }
}

/// The name of the pipeline that a folder is of, if it says so.
fn pipeline(folder: &Path) -> Option<String> {
    let path = folder.join(INDEX);
    path.is_file().then(|| Fields::read(&path, None).ok().map(|it| it.class().to_string()))?
}

/// Folders in a folder, in the order of their names.
fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries.map(|it| it.path()).filter(|it| it.is_dir()).collect();
    found.sort();
    found
}

/// The folders of decoder and prior.
fn both(folder: &Path, options: &OpenOptions) -> Result<(PathBuf, PathBuf), Error> {
    let is_of = |folder: &PathBuf, names: &[&str]| {
        pipeline(folder).is_some_and(|name| names.contains(&name.as_str()))
    };
    let name = pipeline(folder);
    let prior = match &options.prior_model {
        Some(prior) => Some(hub::snapshot(prior)?.unwrap_or_else(|| prior.clone())),
        None => None,
    };
    if name.as_ref().is_some_and(|name| PRIORS.contains(&name.as_str())) {
        let found = format!("a prior ({})", folder.display());
        let expected = "the decoder's folder; this is the prior model";
        return Err(InvalidSetting::new("model", found, expected).into());
    }
    if name.is_some() {
        let prior = prior.ok_or_else(|| {
            let expected = "the folder of the prior, kandinsky-2-2-prior, beside the decoder's (--prior-model)";
            InvalidSetting::new("prior model", "absent", expected)
        })?;
        return Ok((folder.into(), prior));
    }
    let inside = subfolders(folder);
    let part = |names: &[&str], stage| {
        let found = inside.iter().find(|folder| is_of(folder, names)).cloned();
        found.ok_or_else(|| missing(folder, stage))
    };
    let decoder = part(&DECODERS, StageId::Decoder)?;
    Ok((decoder, prior.map_or_else(|| part(&PRIORS, StageId::Prior), Ok)?))
}

fn decoder(folder: &Path) -> Result<StageFiles<DecoderConfig>, LoadError> {
    let path = folder.join("unet");
    let (unet, d_embedding) = networks::image_unet(&path)?;
    let config = DecoderConfig {
        channels: LATENT_CHANNELS,
        d_embedding,
        d_text: None,
        image_tokens: IMAGE_TOKENS,
        whitened: false,
        layout: None,
        diffusion: scheduler::scheduler(&folder.join("scheduler"), DECODER)?,
        unet,
    };
    let weights = Weights::open_in(&path, NETWORK)?.below("unet.");
    stage(&path, config, weights, "layers_per_block")
}

/// Channels of a latent of MoVQ.
const LATENT_CHANNELS: usize = 4;

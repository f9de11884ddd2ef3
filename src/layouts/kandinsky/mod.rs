//! Kandinsky 2.1 and 2.2 as they are published: two folders in diffusers' layout, that of the decoder
//! and that of the prior.
//!
//! ```text
//! kandinsky-2-2-decoder/  or  kandinsky-2-1/
//!   model_index.json
//!   unet/, scheduler/, movq/
//!   text_encoder/, tokenizer/   the decoder's own, of 2.1
//! kandinsky-2-2-prior/  or  kandinsky-2-1-prior/
//!   model_index.json
//!   prior/, scheduler/, text_encoder/, tokenizer/, image_encoder/, image_processor/
//! ```
//! One folder with both as subfolders, of whatever names, is a model as well. The U-Nets for
//! inpainting and for depth maps (ControlNet) are published in folders of their own, which stand in
//! the place of the decoder's.

mod family;
mod write;

use std::path::{Path, PathBuf};

use unclip_clip::Padding;
use unclip_core::InvalidSetting;
use unclip_decoder::{CaptionKind, DecoderConfig};
use unclip_nn::Precision;
use unclip_nn::checkpoint::{LoadError, StageFiles, Weights};

use super::diffusers::autoencoder::autoencoder;
use super::diffusers::fields::Fields;
use super::diffusers::files::{INDEX, NETWORK};
use super::diffusers::networks::Defaults;
use super::diffusers::unets::{self, ImageUNet};
use super::diffusers::{
    check_index, image_encoder, mclip, prior, required, schedulers, stage, text, text_of,
};
use super::layout::{Layout, Writer};
use super::{hub, no_prior_folder};
use crate::bundle::{Parts, TextFiles};
use crate::{Bundle, Error, OpenOptions, StageId};
use family::{Family, SCHEDULERS};

/// Parts of the prior's folder, and the classes that are read.
const PRIOR_PARTS: [(&str, &[&str]); 6] = [
    ("prior", &["PriorTransformer"]),
    ("scheduler", &["UnCLIPScheduler"]),
    ("text_encoder", &["CLIPTextModelWithProjection"]),
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("image_encoder", &["CLIPVisionModelWithProjection"]),
    ("image_processor", &["CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"]),
];

/// The reference pipelines' defaults.
const DECODER: Defaults = Defaults { steps: 100, guidance_scale: 4.0 };

pub(super) struct Kandinsky;

impl Layout for Kandinsky {
    fn name(&self) -> &'static str {
        "kandinsky"
    }

    fn recognizes(&self, folder: &Path) -> bool {
        let is_kandinsky = |name: String| name.starts_with("Kandinsky");
        match pipeline(folder) {
            Some(name) => is_kandinsky(name),
            // of a folder that says nothing itself, its subfolders are looked at
            None => subfolders(folder).iter().filter_map(|it| pipeline(it)).any(is_kandinsky),
        }
    }

    fn takes_prior_model(&self) -> bool {
        true
    }

    fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Parts, Error> {
        let (family, decoder_folder, prior_folder) = both(folder, options)?;
        check_index(&decoder_folder, family.decoders, family.decoder_parts)?;
        check_index(&prior_folder, family.priors, &PRIOR_PARTS)?;
        let image_encoder = image_encoder(&prior_folder, "image_processor", options)?;
        let width = |text: &TextFiles| text.encoder.manifest.config.transformer.d_model;
        let (own, prior_text, d_text) = if family.reads_captions {
            let padding = clip_padding(options)?;
            let of_prior = OpenOptions { padding, ..options.clone() };
            let names = (StageId::TextEncoder, "tokenizer", true);
            let clip = text_of(&prior_folder, names, &of_prior)?;
            let d_text = width(&clip);
            (mclip::text(&decoder_folder)?, Some(clip), d_text)
        } else {
            let clip = text(&prior_folder, options)?;
            let d_text = width(&clip);
            (clip, None, d_text)
        };
        Ok(Parts {
            text: Some(own),
            prior_text,
            image_encoder,
            prior: prior(&prior_folder, "scheduler", d_text)?,
            autoencoder: Some(autoencoder(&required(&decoder_folder, "movq")?)?),
            ..Parts::of(decoder(&decoder_folder, family)?)
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

/// How the captions of 2.1's prior are padded: its decoder's tokenizer leaves no choice.
fn clip_padding(options: &OpenOptions) -> Result<Option<Padding>, InvalidSetting> {
    let asked = options.padding.filter(|it| it.is_choice());
    match (asked, options.prior_padding) {
        (Some(asked), Some(prior)) if asked != prior => {
            let expected = format!("{prior}, as of the prior, whose tokenizer alone has a choice");
            Err(InvalidSetting::new("padding", asked, expected))
        }
        (asked, prior) => Ok(prior.or(asked)),
    }
}

/// The name of the pipeline that a folder is of, if it says so.
fn pipeline(folder: &Path) -> Option<String> {
    let path = folder.join(INDEX);
    path.is_file().then(|| Fields::read(&path, None).ok().map(|it| it.class().to_string()))?
}

/// Folders in a folder, in the order of their names; those of hub clients by their snapshots.
pub(super) fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_shown = |path: &PathBuf| {
        path.is_dir() && !path.file_name().unwrap_or_default().to_string_lossy().starts_with('.')
    };
    let mut found: Vec<PathBuf> = entries.map(|it| it.path()).filter(is_shown).collect();
    found.sort();
    found.into_iter().map(|path| hub::snapshot(&path).ok().flatten().unwrap_or(path)).collect()
}

/// The version, and the folders of decoder and prior.
fn both(
    folder: &Path,
    options: &OpenOptions,
) -> Result<(&'static Family, PathBuf, PathBuf), Error> {
    let Some(name) = pipeline(folder) else {
        let inside = subfolders(folder);
        let names: Vec<String> = inside.iter().filter_map(|it| pipeline(it)).collect();
        if Family::ALL.iter().all(|it| it.has_one_of(&names)) {
            let name = format!("folders in {}", folder.display());
            let expected = "those of one version of Kandinsky";
            return Err(InvalidSetting::new(name, names.join(", "), expected).into());
        }
        let family = Family::of(&names);
        let decoder = part(folder, family.decoders, StageId::Decoder)?;
        let prior = match &options.prior_model {
            Some(path) => prior_folder(path, family)?,
            None => part(folder, family.priors, StageId::Prior)?,
        };
        return Ok((family, decoder, prior));
    };
    let family = Family::of(std::slice::from_ref(&name));
    if family.priors.contains(&name.as_str()) {
        let found = format!("a prior ({})", folder.display());
        let expected = "the decoder's folder; this is the prior model (--prior-model)";
        return Err(InvalidSetting::new("model", found, expected).into());
    }
    if !family.decoders.contains(&name.as_str()) {
        // a Kandinsky pipeline that is not read
        let known: Vec<&str> = Family::ALL.iter().flat_map(|it| it.decoders).copied().collect();
        Fields::read(&folder.join(INDEX), Some(&known))?;
    }
    match &options.prior_model {
        Some(path) => Ok((family, folder.into(), prior_folder(path, family)?)),
        None => {
            let expected = format!(
                "the folder of the prior, {}, beside the decoder's (OpenOptions::prior_model, \
                 --prior-model)",
                family.prior_folder
            );
            Err(InvalidSetting::new("prior model", "absent", expected).into())
        }
    }
}

/// The prior's folder, of a path to it or to a folder with both.
fn prior_folder(path: &Path, family: &Family) -> Result<PathBuf, Error> {
    if !path.is_dir() {
        return Err(no_prior_folder(path));
    }
    let path = hub::snapshot(path)?.unwrap_or_else(|| path.into());
    if path.join(INDEX).exists() { Ok(path) } else { part(&path, family.priors, StageId::Prior) }
}

/// The one subfolder of these pipelines.
fn part(folder: &Path, names: &[&str], stage: StageId) -> Result<PathBuf, Error> {
    let inside = subfolders(folder);
    let says = |path: &PathBuf| {
        let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        let unread = || path.join(INDEX).exists().then(|| format!("a damaged {INDEX}"));
        pipeline(path).or_else(unread).map(|pipeline| format!("{name}: {pipeline}"))
    };
    let is_of =
        |path: &&PathBuf| pipeline(path).is_some_and(|pipeline| names.contains(&pipeline.as_str()));
    let all: Vec<&PathBuf> = inside.iter().filter(is_of).collect();
    if let [only] = all.as_slice() {
        return Ok((*only).clone());
    }
    let found: Vec<String> = inside.iter().filter_map(says).collect();
    let found = if found.is_empty() { "none".into() } else { found.join(", ") };
    let expected = format!("exactly one with {} in its {INDEX}", names.join(" or "));
    let name = format!("folder of the {stage} in {}", folder.display());
    Err(InvalidSetting::new(name, found, expected).into())
}

fn decoder(folder: &Path, family: &Family) -> Result<StageFiles<DecoderConfig>, LoadError> {
    let path = folder.join("unet");
    let ImageUNet { unet, d_embedding, d_text, control } =
        unets::image_unet(&path, LATENT_CHANNELS, family.reads_captions)?;
    let captions = if family.reads_captions { CaptionKind::Whole } else { CaptionKind::default() };
    let diffusion = schedulers::scheduler(&folder.join("scheduler"), &SCHEDULERS, DECODER)?;
    let config = DecoderConfig {
        channels: LATENT_CHANNELS,
        d_embedding,
        d_text,
        captions,
        image_tokens: family.image_tokens,
        whitened: false,
        layout: None,
        augmentation: None,
        control,
        diffusion,
        unet: unet.into(),
    };
    let weights = Weights::open_in(&path, NETWORK)?.below("unet.");
    stage(&path, config, weights, "layers_per_block")
}

/// Channels of a latent of MoVQ.
const LATENT_CHANNELS: usize = 4;

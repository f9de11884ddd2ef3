//! Stable unCLIP 2.1 as it is published, for captions (with Karlo's prior) or for pictures.
//!
//! ```text
//! model_index.json
//! tokenizer/, text_encoder/           the decoder's own text tower
//! feature_extractor/, image_encoder/  CLIP's image tower  (for pictures)
//! prior_tokenizer/, prior_text_encoder/, prior/, prior_scheduler/  CLIP's text tower, the prior  (for captions)
//! image_normalizer/, image_noising_scheduler/  the noise of image embeddings
//! unet/, scheduler/, vae/
//! ```
//! A folder without a prior takes that of another model ([`OpenOptions::prior_model`]): Karlo's, whose
//! embeddings are those of the same CLIP.

mod write;

use std::path::{Path, PathBuf};

use unclip_core::{DiffusionConfig, InvalidSetting};
use unclip_decoder::{Augmentation, CaptionKind, DecoderConfig};
use unclip_nn::Precision;
use unclip_nn::checkpoint::{LoadError, StageFiles, Weights};
use unclip_prior::DiffusionPriorConfig;

use super::diffusers::autoencoder::autoencoder;
use super::diffusers::fields::Fields;
use super::diffusers::files::{INDEX, NETWORK};
use super::diffusers::networks::{self, Defaults};
use super::diffusers::{
    check_index, image_encoder, prior, prior_of, required, schedulers, stage, text, text_of, unets,
};
use super::layout::{Layout, Writer};
use super::{hub, no_prior_folder};
use crate::bundle::{Parts, TextFiles, agree};
use crate::{Bundle, Error, OpenOptions, StageId};

/// The pipelines: of captions, and of pictures.
const OF_CAPTIONS: &str = "StableUnCLIPPipeline";
const OF_PICTURES: &str = "StableUnCLIPImg2ImgPipeline";

/// The normalizer's class.
const NORMALIZER: &str = "StableUnCLIPImageNormalizer";

const PARTS: [(&str, &[&str]); 13] = [
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("text_encoder", &["CLIPTextModel"]),
    (
        "feature_extractor",
        &[
            "CLIPImageProcessor",
            "CLIPImageProcessorFast",
            "CLIPImageProcessorPil",
            "CLIPFeatureExtractor",
        ],
    ),
    ("image_encoder", &["CLIPVisionModelWithProjection"]),
    ("image_normalizer", &[NORMALIZER]),
    ("image_noising_scheduler", &["DDPMScheduler"]),
    ("prior_tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("prior_text_encoder", &["CLIPTextModelWithProjection"]),
    ("prior", &["PriorTransformer"]),
    ("prior_scheduler", &["UnCLIPScheduler", "DDPMScheduler"]),
    ("unet", &["UNet2DConditionModel"]),
    ("scheduler", &schedulers::CLASSES),
    ("vae", &["AutoencoderKL"]),
];

/// The reference pipelines' defaults.
const DECODER: Defaults = Defaults { steps: 20, guidance_scale: 10.0 };
const PRIOR: Defaults = Defaults { steps: 25, guidance_scale: 4.0 };

/// Channels of a latent.
const LATENT_CHANNELS: usize = 4;

pub(super) struct Stable;

impl Layout for Stable {
    fn name(&self) -> &'static str {
        "stable"
    }

    fn recognizes(&self, folder: &Path) -> bool {
        let fields = Fields::read(&folder.join(INDEX), None);
        fields.is_ok_and(|fields| fields.class().starts_with("StableUnCLIP"))
    }

    fn takes_prior_model(&self) -> bool {
        true
    }

    fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Parts, Error> {
        check_index(folder, &[OF_CAPTIONS, OF_PICTURES], &PARTS)?;
        let own = (StageId::TextEncoder, "tokenizer", false);
        let text = text_of(folder, own, options)?;
        let d_text = text.encoder.manifest.config.transformer.d_model;
        let decoder = decoder(folder, d_text)?;
        let (prior_text, prior) = captions(folder, options)?;
        Ok(Parts {
            text: Some(text),
            prior_text,
            image_encoder: image_encoder(folder, "feature_extractor", options)?,
            prior,
            autoencoder: Some(autoencoder(&required(folder, "vae")?)?),
            ..Parts::of(decoder)
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

/// CLIP's text tower, and the prior, if there is one.
type Captions = (Option<TextFiles>, Option<StageFiles<DiffusionPriorConfig>>);

/// What makes embeddings of captions: in the model's own folder, or in another's.
fn captions(folder: &Path, options: &OpenOptions) -> Result<Captions, Error> {
    let has_own = folder.join("prior").is_dir();
    match &options.prior_model {
        Some(other) if has_own => {
            let expected = "absent: the model has a prior of its own";
            Err(InvalidSetting::new("prior model", other.display(), expected).into())
        }
        Some(other) => other_prior(folder, other, options),
        None if has_own => {
            let names = (StageId::PriorTextEncoder, "prior_tokenizer", true);
            let text = text_of(folder, names, &of_prior(options))?;
            let d_text = text.encoder.manifest.config.transformer.d_model;
            let scheduler = required(folder, "prior_scheduler")?;
            let diffusion = prior_scheduler(&scheduler)?;
            let prior = prior_of(&folder.join("prior"), (&scheduler, diffusion), d_text)?;
            Ok((Some(text), Some(prior)))
        }
        None => Ok((None, None)),
    }
}

/// The options as far as they concern the prior's captions.
fn of_prior(options: &OpenOptions) -> OpenOptions {
    OpenOptions { padding: options.prior_padding, ..options.clone() }
}

/// The prior of a folder in Karlo's layout.
fn other_prior(model: &Path, path: &Path, options: &OpenOptions) -> Result<Captions, Error> {
    if !path.is_dir() {
        return Err(no_prior_folder(path));
    }
    let snapshot = hub::snapshot(path)?;
    let folder = snapshot.as_deref().unwrap_or(path);
    let text = text(folder, &of_prior(options))?;
    let d_text = text.encoder.manifest.config.transformer.d_model;
    required(folder, "prior")?;
    let prior = prior(folder, "prior_scheduler", d_text)?;
    check_space(model, folder)?;
    Ok((Some(text), prior))
}

/// Karlo's own scheduler, or DDPM's, as which diffusers' documentation opens it.
fn prior_scheduler(folder: &Path) -> Result<DiffusionConfig, LoadError> {
    let classes = ["UnCLIPScheduler", "DDPMScheduler"];
    let fields = Fields::read(&folder.join("scheduler_config.json"), Some(&classes))?;
    match fields.class() {
        "DDPMScheduler" => schedulers::scheduler(folder, &["DDPMScheduler"], PRIOR),
        _ => networks::scheduler(folder, PRIOR),
    }
}

fn decoder(folder: &Path, d_text: usize) -> Result<StageFiles<DecoderConfig>, Error> {
    let path = required(folder, "unet")?;
    let (unet, d_embedding) = unets::noised_image_unet(&path)?;
    let normalizer = required(folder, "image_normalizer")?;
    let mut fields = Fields::read(&normalizer.join("config.json"), Some(&[NORMALIZER]))?;
    let found: usize = fields.take_optional("embedding_dim")?.unwrap_or(768);
    if found != d_embedding {
        let expected = format!("{d_embedding}, half the width that the U-Net reads");
        return Err(fields.error("embedding_dim", found, &expected).into());
    }
    fields.finish()?;
    let noising = required(folder, "image_noising_scheduler")?;
    let noising = schedulers::scheduler(&noising, &["DDPMScheduler"], DECODER)?;
    let config = DecoderConfig {
        channels: LATENT_CHANNELS,
        d_embedding,
        d_text: Some(d_text),
        image_tokens: 0,
        whitened: false,
        layout: None,
        captions: CaptionKind::default(),
        augmentation: Some(Augmentation {
            num_train_timesteps: noising.num_train_timesteps,
            beta_schedule: noising.beta_schedule,
        }),
        control: None,
        diffusion: schedulers::scheduler(
            &required(folder, "scheduler")?,
            &schedulers::CLASSES,
            DECODER,
        )?,
        unet: unet.into(),
    };
    check_deviations(&normalizer)?;
    let parts = [
        Weights::open_in(&normalizer, NETWORK)?.below("image_normalizer."),
        Weights::open_in(&path, NETWORK)?.below("unet."),
    ];
    let weights = Weights::join(&path, parts)?;
    Ok(stage(&path, config, weights, "layers_per_block")?)
}

/// Refuses standard deviations that nothing can be divided by.
fn check_deviations(normalizer: &Path) -> Result<(), Error> {
    const LEAST: f32 = 1e-6;
    let weights = Weights::open_in(normalizer, NETWORK)?;
    let values = weights.read("std")?.unwrap_or_default();
    match values.into_iter().find(|it| it.is_finite() && *it < LEAST) {
        Some(found) => {
            let name = format!("std in {}", normalizer.display());
            Err(InvalidSetting::new(name, found, "at least 0.000001").into())
        }
        None => Ok(()),
    }
}

/// Checks that a prior of another model is of the same CLIP: both know the standard deviation of its
/// embeddings. A normalizer that does nothing says nothing.
fn check_space(folder: &Path, prior_model: &Path) -> Result<(), Error> {
    const TOLERANCE: f32 = 1e-3;
    let read = |folder: PathBuf, key: &str| {
        let values = Weights::open_in(&folder, NETWORK)?.read(key)?;
        Ok::<_, LoadError>(values.unwrap_or_default())
    };
    let own = read(folder.join("image_normalizer"), "std")?;
    let other = read(prior_model.join("prior"), "clip_std")?;
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE * b.abs().max(1e-6);
    let is_same = own.len() == other.len() && own.iter().zip(&other).all(near);
    if is_same || own.iter().all(|&it| it == 1.0) {
        return Ok(());
    }
    let first = |values: &[f32]| format!("{:?} …", &values[..values.len().min(2)]);
    let field = "standard deviation of image embeddings";
    agree("image_normalizer", &first(&own), "the prior of the prior model", &first(&other), field)
}

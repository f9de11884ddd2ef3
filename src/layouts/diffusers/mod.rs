//! Models in the folder layout of diffusers: Karlo as it is published, and its image variations.
//!
//! ```text
//! model_index.json
//! tokenizer/          vocab.json, merges.txt
//! text_encoder/       config.json, model.safetensors
//! image_encoder/      …, feature_extractor/preprocessor_config.json  (image variations)
//! prior/              config.json, diffusion_pytorch_model.safetensors, prior_scheduler/
//! text_proj/          …
//! decoder/            …, decoder_scheduler/
//! super_res_first/    …, super_res_last/, super_res_scheduler/
//! ```
//! Sizes come from the configurations; a field that is not understood is refused, because it might
//! change what the network computes.

pub(super) mod autoencoder;
pub(super) mod clip;
pub(super) mod describe;
pub(super) mod describe_clip;
pub(super) mod described;
pub(super) mod fields;
pub(super) mod files;
pub(super) mod mclip;
pub(super) mod networks;
pub(super) mod schedulers;
pub(super) mod unets;
pub(super) mod write;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use unclip_clip::{Fit, ImageEncoderConfig, Tokenizer, TokenizerOptions};
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{DiffusionConfig, InvalidSetting};
use unclip_decoder::{CaptionKind, DecoderConfig};
use unclip_nn::checkpoint::{LoadError, StageConfig, StageFiles, Weights, load_config};
use unclip_nn::{Precision, check};
use unclip_prior::DiffusionPriorConfig;
use unclip_upsample::UpsamplerConfig;

use super::clip_names::{image_tower, text_tower};
use super::layout::{Layout, Writer};
use crate::bundle::{Parts, TextFiles, agree, missing};
use crate::{Bundle, Error, OpenOptions, StageId};
use fields::{Fields, flat};
use files::{INDEX, MODEL, NETWORK};
use networks::Defaults;

/// The reference pipeline's defaults (Karlo's "25/25/7", scales 4 and 8).
const PRIOR: Defaults = Defaults { steps: 25, guidance_scale: 4.0 };
const DECODER: Defaults = Defaults { steps: 25, guidance_scale: 8.0 };
const UPSAMPLER: Defaults = Defaults { steps: 7, guidance_scale: 1.0 };

pub(super) struct Diffusers;

impl Layout for Diffusers {
    fn name(&self) -> &'static str {
        "diffusers"
    }

    fn recognizes(&self, folder: &Path) -> bool {
        folder.join(INDEX).exists()
    }

    fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Parts, Error> {
        check_pipeline(folder)?;
        check_index(folder, &PIPELINES, &PARTS)?;
        let text = text(folder, options)?;
        let d_text = text.encoder.manifest.config.transformer.d_model;
        Ok(Parts {
            text: Some(text),
            image_encoder: image_encoder(folder, "feature_extractor", options)?,
            prior: prior(folder, "prior_scheduler", d_text)?,
            upsamplers: upsampler(folder)?.map(|it| (it, None)).into_iter().collect(),
            ..Parts::of(decoder(folder, d_text)?)
        })
    }

    fn is_written(&self) -> bool {
        true
    }

    fn writer<'a>(&self, bundle: &'a Bundle, format: Precision) -> Result<Writer<'a>, Error> {
        let configs = describe::files(bundle, format)?;
        Ok(Box::new(move |target| write::write(bundle, &configs, target)))
    }
}

const PIPELINES: [&str; 2] = ["UnCLIPPipeline", "UnCLIPImageVariationPipeline"];

/// Tells of all families if a folder is of none.
fn check_pipeline(folder: &Path) -> Result<(), LoadError> {
    let fields = Fields::read(&folder.join(INDEX), None)?;
    let class = fields.class();
    if PIPELINES.contains(&class) {
        return Ok(());
    }
    let expected = format!(
        "{}, or a pipeline of Kandinsky 2.1 or 2.2 (Kandinsky…) or Stable unCLIP (StableUnCLIP…)",
        PIPELINES.join(", ")
    );
    Err(fields.error("_class_name", class, &expected))
}

/// Parts of the pipelines, and the classes that are read. Processors and tokenizers have had
/// several names.
const PARTS: [(&str, &[&str]); 12] = [
    ("tokenizer", &["CLIPTokenizer", "CLIPTokenizerFast"]),
    ("text_encoder", &["CLIPTextModelWithProjection"]),
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
    ("prior", &["PriorTransformer"]),
    ("prior_scheduler", &["UnCLIPScheduler"]),
    ("text_proj", &["UnCLIPTextProjModel"]),
    ("decoder", &["UNet2DConditionModel"]),
    ("decoder_scheduler", &["UnCLIPScheduler"]),
    ("super_res_first", &["UNet2DModel"]),
    ("super_res_last", &["UNet2DModel"]),
    ("super_res_scheduler", &["UnCLIPScheduler"]),
];

/// Checks that this is one of these pipelines, and that the parts that it lists are there: of
/// classes that are read, because diffusers goes by those and not by the parts' own.
pub(super) fn check_index(
    folder: &Path,
    pipelines: &[&str],
    parts: &[(&str, &[&str])],
) -> Result<(), Error> {
    let mut fields = Fields::read(&folder.join(INDEX), Some(pipelines))?;
    for &(part, classes) in parts {
        let listed: Option<(Option<String>, Option<String>)> = fields.take_optional(part)?;
        let Some((_, Some(class))) = listed else {
            continue;
        };
        if !classes.contains(&class.as_str()) {
            return Err(fields.error(part, class, &classes.join(" or ")).into());
        }
        required(folder, part)?;
    }
    Ok(fields.finish()?)
}

/// A part that has to be there.
pub(super) fn required(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = folder.join(name);
    if path.is_dir() { Ok(path) } else { Err(missing(folder, name)) }
}

/// A stage. `layers` is how the configuration spells what says how many layers there are.
pub(super) fn stage<T: StageConfig>(
    folder: &Path,
    config: T,
    weights: Weights,
    layers: &str,
) -> Result<StageFiles<T>, LoadError> {
    let ours = config.layers().field;
    StageFiles::of(&folder.join("config.json"), config, weights).map_err(|error| match error {
        LoadError::Config { path, source } => {
            let name = if source.name == ours { layers } else { flat(&source.name) };
            let name = name.to_string();
            LoadError::Config { path, source: InvalidSetting { name, ..source } }
        }
        error => error,
    })
}

/// CLIP's text tower and its tokenizer.
pub(super) fn text(folder: &Path, options: &OpenOptions) -> Result<TextFiles, Error> {
    text_of(folder, (StageId::TextEncoder, "tokenizer", true), options)
}

/// A text tower and its tokenizer, with a projection or without.
pub(super) fn text_of(
    folder: &Path,
    (stage_id, words, projected): (StageId, &str, bool),
    options: &OpenOptions,
) -> Result<TextFiles, Error> {
    let path = required(folder, &stage_id.to_string())?;
    let name = words;
    let words = required(folder, name)?;
    let (padding, length) = clip::tokenizer(&words)?;
    let padding = options.padding.or(padding);
    let (config, end) = clip::text_encoder(&path, projected)?;
    let context_length = config.context_length;
    if let Some(length) = length {
        let (encoder, tokenizer) = (context_length.to_string(), length.to_string());
        agree(stage_id, &encoder, name, &tokenizer, "context_length")?;
    }
    let tokenizer = Tokenizer::from_folder(&words, TokenizerOptions { context_length, padding })?;
    if !end.is_of(&tokenizer) {
        return Err(Error::Incompatible {
            first: stage_id.to_string(),
            second: name.into(),
            field: "eos_token_id",
            found_first: end.0.to_string(),
            found_second: tokenizer.end().to_string(),
        });
    }
    let weights = text_tower(Weights::open_in(&path, MODEL)?)?;
    let encoder = stage(&path, config, weights, "num_hidden_layers")?;
    Ok(TextFiles { words, tokenizer, encoder })
}

/// The image encoder, if there is one, and the folder of its preprocessing.
pub(super) fn image_encoder(
    folder: &Path,
    processor: &str,
    options: &OpenOptions,
) -> Result<Option<StageFiles<ImageEncoderConfig>>, Error> {
    let path = folder.join("image_encoder");
    if !path.is_dir() {
        return Ok(None);
    }
    let config = clip::image_encoder(&path, &required(folder, processor)?)?;
    let config = ImageEncoderConfig { fit: options.fit.unwrap_or(Fit::Crop), ..config };
    let weights = image_tower(Weights::open_in(&path, MODEL)?)?;
    Ok(Some(stage(&path, config, weights, "num_hidden_layers")?))
}

/// The prior, if there is one, and the folder of its scheduler.
pub(super) fn prior(
    folder: &Path,
    scheduler: &str,
    d_text: usize,
) -> Result<Option<StageFiles<DiffusionPriorConfig>>, Error> {
    let path = folder.join("prior");
    if !path.is_dir() {
        return Ok(None);
    }
    let scheduler = required(folder, scheduler)?;
    let diffusion = networks::scheduler(&scheduler, PRIOR)?;
    Ok(Some(prior_of(&path, (&scheduler, diffusion), d_text)?))
}

/// A prior's folder, with what its scheduler's says.
pub(super) fn prior_of(
    path: &Path,
    (scheduler, diffusion): (&Path, DiffusionConfig),
    d_text: usize,
) -> Result<StageFiles<DiffusionPriorConfig>, LoadError> {
    if diffusion.variance.is_learned() {
        let expected = "fixed_small_log: the prior gives no variance";
        let source = InvalidSetting::new("variance_type", "learned_range", expected);
        let path = scheduler.join("scheduler_config.json");
        return Err(LoadError::Config { path, source });
    }
    let config = DiffusionPriorConfig { d_text, ..networks::prior(path, diffusion)? };
    stage(path, config, Weights::open_in(path, NETWORK)?, "num_layers")
}

fn decoder(folder: &Path, d_text: usize) -> Result<StageFiles<DecoderConfig>, Error> {
    let path = required(folder, "decoder")?;
    let projection = required(folder, "text_proj")?;
    let unet = unets::decoder_unet(&path)?;
    let diffusion = networks::scheduler(&required(folder, "decoder_scheduler")?, DECODER)?;
    let mut fields = Fields::read(&projection.join("config.json"), Some(&["UnCLIPTextProjModel"]))?;
    let mut size = |name: &str| {
        let size = fields.take(name)?;
        check::size(name, size).map_err(|error| fields.invalid(&error, &[]))?;
        Ok::<usize, LoadError>(size)
    };
    let config = DecoderConfig {
        d_embedding: size("clip_embeddings_dim")?,
        channels: PICTURE_CHANNELS,
        d_text: Some(d_text),
        image_tokens: size("clip_extra_context_tokens")?,
        whitened: false,
        layout: None,
        captions: CaptionKind::default(),
        augmentation: None,
        control: None,
        diffusion,
        unet: unet.into(),
    };
    let unet = &config.unet;
    for (name, expected) in [
        ("time_embed_dim", unet.d_embedding()),
        ("cross_attention_dim", unet.d_context().unwrap_or_default()),
    ] {
        let found: usize = fields.take(name)?;
        if found != expected {
            let expected = format!("{expected}, as in the decoder");
            return Err(fields.error(name, found, &expected).into());
        }
    }
    fields.finish()?;
    let parts = [
        Weights::open_in(&projection, NETWORK)?.below("text_proj."),
        Weights::open_in(&path, NETWORK)?.below("unet."),
    ];
    let weights = Weights::join(&path, parts)?;
    Ok(stage(&path, config, weights, "layers_per_block")?)
}

/// The two networks of a super-resolution stage are one upsampler.
fn upsampler(folder: &Path) -> Result<Option<StageFiles<UpsamplerConfig>>, Error> {
    let first = folder.join("super_res_first");
    if !first.is_dir() {
        return Ok(None);
    }
    let last = required(folder, "super_res_last")?;
    let unet = unets::upsampler_unet(&first)?;
    if unets::upsampler_unet(&last)? != unet {
        return Err(difference(&first, &last)?);
    }
    let small = unets::decoder_unet(&required(folder, "decoder")?)?.image_size;
    let diffusion = networks::scheduler(&required(folder, "super_res_scheduler")?, UPSAMPLER)?;
    let (side, path) = (unet.image_size, first.join("config.json"));
    let factor = if side.is_multiple_of(small) { side / small } else { 0 };
    let config = UpsamplerConfig::new(factor, unet, diffusion);
    let config = UpsamplerConfig { last_step_network: true, ..config };
    // the factor stands in no file: what is wrong with it is wrong with the size
    config.validate().map_err(|error| {
        let source = match error.name.as_str() {
            "factor" => {
                let expected = format!("{} times the decoder's, which is {small}", error.expected);
                InvalidSetting::new("sample_size", side, expected)
            }
            name => InvalidSetting { name: flat(name).into(), ..error.clone() },
        };
        LoadError::Config { path: path.clone(), source }
    })?;
    let parts = [
        Weights::open_in(&first, NETWORK)?.below("unet."),
        Weights::open_in(&last, NETWORK)?.below("last_step."),
    ];
    let weights = Weights::join(&first, parts)?;
    Ok(Some(stage(&first, config, weights, "layers_per_block")?))
}

/// The error for two networks that should be alike, by the first field in which they are not.
fn difference(first: &Path, last: &Path) -> Result<Error, Error> {
    let path = last.join("config.json");
    let fields: Map<String, Value> = load_config(&first.join("config.json"))?;
    let others: Map<String, Value> = load_config(&path)?;
    let names = fields.keys().chain(others.keys()).filter(|name| !name.starts_with('_'));
    let name = names.filter(|&name| fields.get(name) != others.get(name)).min();
    let value = |fields: &Map<String, Value>| {
        let value = name.and_then(|name| fields.get(name));
        value.map_or("absent".to_string(), Value::to_string)
    };
    let expected = format!("{}, as in super_res_first", value(&fields));
    let name = name.map_or("config", String::as_str);
    let source = InvalidSetting::new(name, value(&others), expected);
    Ok(LoadError::Config { path: path.clone(), source }.into())
}

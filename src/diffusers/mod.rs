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

mod clip;
mod fields;
mod networks;

use std::path::{Path, PathBuf};

use unclip_clip::{
    Fit, ImageEncoderConfig, Padding, TextEncoderConfig, Tokenizer, TokenizerOptions,
};
use unclip_decoder::DecoderConfig;
use unclip_nn::checkpoint::{StageFiles, Weights};
use unclip_prior::DiffusionPriorConfig;
use unclip_upsample::UpsamplerConfig;

use crate::{Bundle, Error, OpenOptions};
use fields::Fields;
use networks::Defaults;

/// The file by which the layout is recognised.
pub(crate) const INDEX: &str = "model_index.json";
/// Weights of diffusers' own networks.
const NETWORK: &str = "diffusion_pytorch_model";
/// Weights of transformers' networks.
const MODEL: &str = "model";

/// The reference pipeline's defaults (Karlo's "25/25/7", scales 4 and 8).
const PRIOR: Defaults = Defaults { steps: 25, guidance_scale: 4.0 };
const DECODER: Defaults = Defaults { steps: 25, guidance_scale: 8.0 };
const UPSAMPLER: Defaults = Defaults { steps: 7, guidance_scale: 1.0 };

/// Opens a folder.
pub(crate) fn open(folder: &Path, options: &OpenOptions) -> Result<Bundle, Error> {
    check_index(folder)?;
    let (tokenizer, text_encoder) = text(folder, options)?;
    let d_text = text_encoder.manifest.config.transformer.d_model;
    let bundle = Bundle {
        origin: folder.into(),
        tokenizer,
        text_encoder,
        image_encoder: image_encoder(folder, options)?,
        prior: prior(folder, d_text)?,
        decoder: decoder(folder, d_text)?,
        upsamplers: upsampler(folder)?.into_iter().collect(),
    };
    bundle.check()?;
    Ok(bundle)
}

/// Checks that this is a pipeline of the family, before its parts are looked for.
fn check_index(folder: &Path) -> Result<(), Error> {
    let known = ["UnCLIPPipeline", "UnCLIPImageVariationPipeline"];
    Fields::read(&folder.join(INDEX), Some(&known)).map(drop).map_err(Error::from)
}

/// A part that has to be there.
fn required(folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = folder.join(name);
    match path.is_dir() {
        true => Ok(path),
        false => Err(Error::MissingStage { model: folder.into(), stage: name.into() }),
    }
}

fn text(
    folder: &Path,
    options: &OpenOptions,
) -> Result<(Tokenizer, StageFiles<TextEncoderConfig>), Error> {
    let path = required(folder, "text_encoder")?;
    let words = required(folder, "tokenizer")?;
    let (padding, length) = clip::tokenizer(&words)?;
    let padding = options.padding.or(padding).unwrap_or(Padding::Exclamation);
    let (config, end) = clip::text_encoder(&path)?;
    let context_length = config.context_length;
    if let Some(length) = length.filter(|&length| length != context_length) {
        return Err(Error::Incompatible {
            first: "text_encoder".into(),
            second: "tokenizer".into(),
            field: "context_length",
            found_first: context_length.to_string(),
            found_second: length.to_string(),
        });
    }
    let tokenizer = Tokenizer::from_folder(&words, TokenizerOptions { context_length, padding })?;
    if !end.is_of(&tokenizer) {
        return Err(Error::Incompatible {
            first: "text_encoder".into(),
            second: "tokenizer".into(),
            field: "eos_token_id",
            found_first: end.0.to_string(),
            found_second: tokenizer.end().to_string(),
        });
    }
    let weights = unclip_clip::formats::hugging_face(Weights::open_in(&path, MODEL)?)?;
    Ok((tokenizer, StageFiles::of(&path.join("config.json"), config, weights)?))
}

fn image_encoder(
    folder: &Path,
    options: &OpenOptions,
) -> Result<Option<StageFiles<ImageEncoderConfig>>, Error> {
    let path = folder.join("image_encoder");
    if !path.is_dir() {
        return Ok(None);
    }
    let config = clip::image_encoder(&path, &required(folder, "feature_extractor")?)?;
    let config = ImageEncoderConfig { fit: options.fit.unwrap_or(Fit::Crop), ..config };
    let weights = unclip_clip::formats::hugging_face(Weights::open_in(&path, MODEL)?)?;
    Ok(Some(StageFiles::of(&path.join("config.json"), config, weights)?))
}

fn prior(folder: &Path, d_text: usize) -> Result<Option<StageFiles<DiffusionPriorConfig>>, Error> {
    let path = folder.join("prior");
    if !path.is_dir() {
        return Ok(None);
    }
    let diffusion = networks::scheduler(&required(folder, "prior_scheduler")?, PRIOR)?;
    let config = DiffusionPriorConfig { d_text, ..networks::prior(&path, diffusion)? };
    let weights = Weights::open_in(&path, NETWORK)?;
    Ok(Some(StageFiles::of(&path.join("config.json"), config, weights)?))
}

fn decoder(folder: &Path, d_text: usize) -> Result<StageFiles<DecoderConfig>, Error> {
    let path = required(folder, "decoder")?;
    let projection = required(folder, "text_proj")?;
    let unet = networks::decoder_unet(&path)?;
    let diffusion = networks::scheduler(&required(folder, "decoder_scheduler")?, DECODER)?;
    let mut fields = Fields::read(&projection.join("config.json"), Some(&["UnCLIPTextProjModel"]))?;
    let config = DecoderConfig {
        d_embedding: fields.take("clip_embeddings_dim")?,
        d_text,
        image_tokens: fields.take("clip_extra_context_tokens")?,
        diffusion,
        unet,
    };
    let unet = &config.unet;
    for (name, expected) in [
        ("time_embed_dim", unet.d_embedding()),
        ("cross_attention_dim", unet.d_context.unwrap_or_default()),
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
    Ok(StageFiles::of(&path.join("config.json"), config, weights)?)
}

/// The two networks of a super-resolution stage are one upsampler.
fn upsampler(folder: &Path) -> Result<Option<StageFiles<UpsamplerConfig>>, Error> {
    let first = folder.join("super_res_first");
    if !first.is_dir() {
        return Ok(None);
    }
    let last = required(folder, "super_res_last")?;
    let unet = networks::upsampler_unet(&first)?;
    let path = last.join("config.json");
    if networks::upsampler_unet(&last)? != unet {
        return Err(Error::Incompatible {
            first: "super_res_first".into(),
            second: "super_res_last".into(),
            field: "config.json",
            found_first: first.join("config.json").display().to_string(),
            found_second: path.display().to_string(),
        });
    }
    let small = networks::decoder_unet(&required(folder, "decoder")?)?.image_size;
    let diffusion = networks::scheduler(&required(folder, "super_res_scheduler")?, UPSAMPLER)?;
    if !unet.image_size.is_multiple_of(small) {
        return Err(Error::Incompatible {
            first: "decoder".into(),
            second: "super_res_first".into(),
            field: "sample_size",
            found_first: small.to_string(),
            found_second: unet.image_size.to_string(),
        });
    }
    let factor = unet.image_size / small;
    let config = UpsamplerConfig { factor, last_step_network: true, unet, diffusion };
    let parts = [
        Weights::open_in(&first, NETWORK)?.below("unet."),
        Weights::open_in(&last, NETWORK)?.below("last_step."),
    ];
    let weights = Weights::join(&first, parts)?;
    Ok(Some(StageFiles::of(&first.join("config.json"), config, weights)?))
}

//! Stable unCLIP written as it is published.

use serde_json::{Map, Value, json};
use unclip_core::{DiffusionConfig, InvalidSetting};
use unclip_nn::Precision;

use super::{LATENT_CHANNELS, NORMALIZER, OF_CAPTIONS, OF_PICTURES};
use crate::layouts::diffusers::autoencoder::described_kl;
use crate::layouts::diffusers::describe::{DIFFUSERS, network, prior, scheduler};
use crate::layouts::diffusers::describe_clip::{
    PROJECTED, UNPROJECTED, image_encoder, text_tower, words,
};
use crate::layouts::diffusers::described::{adm, refused, require};
use crate::layouts::diffusers::files::{INDEX, MODEL, NETWORK};
use crate::layouts::diffusers::schedulers;
use crate::layouts::diffusers::unets::TRANSFORMER_BLOCKS;
use crate::layouts::diffusers::write::stage;
use crate::layouts::layout::Target;
use crate::{Bundle, Error, TextReader};

/// Every configuration file of a model, but for the tokenizers' lists of tokens.
pub(super) fn configs(bundle: &Bundle, format: Precision) -> Result<Vec<(String, Value)>, Error> {
    let mut all = decoder(bundle).map_err(|error| refused(bundle, "decoder", error))?;
    let own = bundle.text()?;
    all.extend(text(bundle, own, format).map_err(|error| refused(bundle, "text_encoder", error))?);
    if bundle.prior.is_none() {
        // neither captions nor pictures: that is no pipeline
        bundle.image_encoder()?;
    }
    let mut others = image_encoder(bundle, format)?;
    if bundle.prior.is_some() {
        others.extend(prior(bundle, prior_scheduler)?);
    }
    all.extend(others.into_iter().map(|(name, value)| (name.into(), value)));
    all.push((INDEX.into(), index(bundle)));
    Ok(all)
}

/// The prior's scheduler: Karlo's own, or that of the class which spaces its steps otherwise.
fn prior_scheduler(diffusion: &DiffusionConfig) -> Result<Value, InvalidSetting> {
    if diffusion.spacing.is_even() {
        scheduler(diffusion)
    } else {
        schedulers::described(diffusion)
    }
}

/// The text towers and their tokenizers.
fn text(
    bundle: &Bundle,
    own: &TextReader,
    format: Precision,
) -> Result<Vec<(String, Value)>, InvalidSetting> {
    require("projected", own.encoder.config().projected, false, OF_CAPTIONS)?;
    let own = (&own.encoder, &own.tokenizer, "");
    let of_prior = bundle.prior_text.as_ref().filter(|_| bundle.prior.is_some());
    let of_prior = of_prior.map(|it| (&it.encoder, &it.tokenizer, "prior_"));
    let mut files = Vec::new();
    for (slot, tokenizer, prefix) in [Some(own), of_prior].into_iter().flatten() {
        let tower = text_tower(slot, tokenizer, format)?;
        files.push((format!("{prefix}text_encoder/config.json"), tower));
        let [marks, config] = words(tokenizer, slot.config().context_length)?;
        files.push((format!("{prefix}tokenizer/special_tokens_map.json"), marks));
        files.push((format!("{prefix}tokenizer/tokenizer_config.json"), config));
    }
    Ok(files)
}

fn decoder(bundle: &Bundle) -> Result<Vec<(String, Value)>, InvalidSetting> {
    let config = bundle.decoder.config();
    let Some(augmentation) = config.augmentation else {
        let expected = "given: the decoder of this layout reads embeddings with noise";
        return Err(InvalidSetting::new("augmentation", "absent", expected));
    };
    let Some(slot) = &bundle.autoencoder else {
        let expected = "one: the decoder of this layout samples latents";
        return Err(InvalidSetting::new("autoencoder", "absent", expected));
    };
    require("channels", config.channels, LATENT_CHANNELS, OF_CAPTIONS)?;
    require("upsamplers", bundle.upsamplers.len(), 0, OF_CAPTIONS)?;
    let unet = adm(&config.unet)?;
    let mut network = network(unet, &TRANSFORMER_BLOCKS, unet.image_size)?;
    network["class_embed_type"] = json!("projection");
    network["cross_attention_dim"] = json!(unet.d_context);
    network["mid_block_type"] = json!(TRANSFORMER_BLOCKS.middle);
    network["projection_class_embeddings_input_dim"] = json!(2 * config.d_embedding);
    network["use_linear_projection"] = json!(true);
    let normalizer = json!({
        "_class_name": NORMALIZER,
        "_diffusers_version": DIFFUSERS,
        "embedding_dim": config.d_embedding,
    });
    let noising = schedulers::described(&schedulers::of_noise(augmentation))?;
    let files = [
        ("unet/config.json", network),
        ("scheduler/scheduler_config.json", schedulers::described(&config.diffusion)?),
        ("vae/config.json", described_kl(slot.config())?),
        ("image_normalizer/config.json", normalizer),
        ("image_noising_scheduler/scheduler_config.json", noising),
    ];
    Ok(files.map(|(name, value)| (name.into(), value)).into())
}

fn index(bundle: &Bundle) -> Value {
    let scheduler = schedulers::class(&bundle.decoder.config().diffusion);
    let mut parts = Map::new();
    let mut add = |name: &str, library: &str, class: &str| {
        parts.insert(name.into(), json!([library, class]));
    };
    add("image_noising_scheduler", "diffusers", "DDPMScheduler");
    add("image_normalizer", "stable_diffusion", NORMALIZER);
    add("scheduler", "diffusers", scheduler);
    add("text_encoder", "transformers", UNPROJECTED);
    add("tokenizer", "transformers", "CLIPTokenizer");
    add("unet", "diffusers", TRANSFORMER_BLOCKS.class);
    add("vae", "diffusers", "AutoencoderKL");
    let has_prior = bundle.prior.is_some();
    if let Some(prior) = &bundle.prior {
        let diffusion = &prior.config().diffusion;
        let is_karlo = diffusion.spacing.is_even();
        let scheduler = if is_karlo { "UnCLIPScheduler" } else { schedulers::class(diffusion) };
        add("prior", "diffusers", "PriorTransformer");
        add("prior_scheduler", "diffusers", scheduler);
        add("prior_text_encoder", "transformers", PROJECTED);
        add("prior_tokenizer", "transformers", "CLIPTokenizer");
    }
    if bundle.image_encoder.is_some() {
        add("feature_extractor", "transformers", "CLIPImageProcessor");
        add("image_encoder", "transformers", "CLIPVisionModelWithProjection");
    }
    parts.insert("_class_name".into(), json!(if has_prior { OF_CAPTIONS } else { OF_PICTURES }));
    parts.insert("_diffusers_version".into(), json!(DIFFUSERS));
    Value::Object(parts)
}

/// Writes configurations, tokenizers and weights.
pub(super) fn write(
    bundle: &Bundle,
    configs: &[(String, Value)],
    target: &Target<'_>,
) -> Result<(), Error> {
    target.configs(configs)?;
    let own = bundle.text()?;
    target.copy_words(&own.words, "tokenizer")?;
    stage(&own.encoder, target, &[("", "text_encoder", MODEL)])?;
    let of_prior = bundle.prior_text.as_ref().filter(|_| bundle.prior.is_some());
    if let Some(TextReader { words, encoder, .. }) = of_prior {
        target.copy_words(words, "prior_tokenizer")?;
        stage(encoder, target, &[("", "prior_text_encoder", MODEL)])?;
    }
    if let Some(slot) = &bundle.image_encoder {
        stage(slot, target, &[("", "image_encoder", MODEL)])?;
    }
    if let Some(slot) = &bundle.prior {
        stage(slot, target, &[("", "prior", NETWORK)])?;
    }
    let parts = [("image_normalizer.", "image_normalizer", NETWORK), ("unet.", "unet", NETWORK)];
    stage(&bundle.decoder, target, &parts)?;
    bundle.autoencoder.iter().try_for_each(|slot| stage(slot, target, &[("", "vae", NETWORK)]))
}

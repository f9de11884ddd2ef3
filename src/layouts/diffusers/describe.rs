//! A model described by configurations of diffusers and transformers, with the fields of published
//! ones. What their classes cannot hold is refused.

use serde_json::{Value, json};
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{
    BetaSchedule, Ddpm, DiffusionConfig, InvalidSetting, Parameterization, SamplingMethod,
    VarianceType,
};
use unclip_decoder::CaptionKind;
use unclip_nn::{Activation, AttentionKind, Precision, UNetConfig};
use unclip_prior::DiffusionPriorConfig;
use unclip_upsample::Resize;

use super::describe_clip::{image_encoder, text_encoder, tokenizer};
use super::described::{File, adm, refused, require};
use super::files::INDEX;
use super::unets::{Blocks, DECODER_BLOCKS, UPSAMPLER_BLOCKS};
use crate::{Bundle, Error};

/// Version of diffusers whose fields are written. Later ones read them, with the defaults for
/// what came after it.
pub(in crate::layouts) const DIFFUSERS: &str = "0.11.0";

/// Every configuration file of a model, but for the tokenizer's lists of tokens.
pub(in crate::layouts) fn files(bundle: &Bundle, format: Precision) -> Result<Vec<File>, Error> {
    one_text_tower(bundle, "Karlo")?;
    let mut files = index(bundle)?;
    files.push(text_encoder(bundle, format)?);
    files.extend(tokenizer(bundle)?);
    files.extend(image_encoder(bundle, format)?);
    files.extend(prior(bundle, scheduler)?);
    files.extend(decoder(bundle)?);
    files.extend(upsampler(bundle)?);
    Ok(files)
}

/// Refuses a model whose prior has a text tower of its own, for a layout of this family.
pub(in crate::layouts) fn one_text_tower(bundle: &Bundle, family: &str) -> Result<(), Error> {
    match &bundle.prior_text {
        Some(text) => {
            let expected = format!(
                "absent: {family} has one text tower for prior and decoder; Kandinsky 2.1 and Stable \
                 unCLIP have two"
            );
            let name = text.encoder.id().to_string();
            Err(InvalidSetting::new(name, "given", expected).into())
        }
        None => Ok(()),
    }
}

/// Karlo's text states are as wide as its embeddings; there is one field for both.
fn one_width(d_text: usize, d_embedding: usize) -> Result<(), InvalidSetting> {
    if d_text == d_embedding {
        Ok(())
    } else {
        let expected = format!("{d_embedding}, the width of embeddings: diffusers has no other");
        Err(InvalidSetting::new("d_text", d_text, expected))
    }
}

fn index(bundle: &Bundle) -> Result<Vec<File>, Error> {
    if let (None, Some(prior)) = (&bundle.prior, &bundle.ar_prior) {
        let expected = "a diffusion prior: the layout has no place for an autoregressive one";
        return Err(InvalidSetting::new("only prior of the model", prior.id(), expected).into());
    }
    let class = match (&bundle.prior, &bundle.image_encoder) {
        (Some(_), _) => "UnCLIPPipeline",
        (None, Some(_)) => "UnCLIPImageVariationPipeline",
        (None, None) => return bundle.prior().map(|_| Vec::new()),
    };
    let mut parts = json!({
        "_class_name": class,
        "_diffusers_version": DIFFUSERS,
        "decoder": ["diffusers", "UNet2DConditionModel"],
        "decoder_scheduler": ["diffusers", "UnCLIPScheduler"],
        "super_res_first": ["diffusers", "UNet2DModel"],
        "super_res_last": ["diffusers", "UNet2DModel"],
        "super_res_scheduler": ["diffusers", "UnCLIPScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_proj": ["unclip", "UnCLIPTextProjModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    });
    if bundle.prior.is_some() {
        parts["prior"] = json!(["diffusers", "PriorTransformer"]);
        parts["prior_scheduler"] = json!(["diffusers", "UnCLIPScheduler"]);
    }
    if bundle.image_encoder.is_some() {
        parts["feature_extractor"] = json!(["transformers", "CLIPImageProcessor"]);
        parts["image_encoder"] = json!(["transformers", "CLIPVisionModelWithProjection"]);
    }
    Ok(vec![(INDEX, parts)])
}

pub(in crate::layouts) fn prior(
    bundle: &Bundle,
    scheduler: fn(&DiffusionConfig) -> Result<Value, InvalidSetting>,
) -> Result<Vec<File>, Error> {
    const CLASS: &str = "PriorTransformer";
    let Some(files) = &bundle.prior else {
        return Ok(Vec::new());
    };
    let config = files.config();
    let transformer = &config.transformer;
    let described = || {
        one_width(config.d_text, config.d_embedding)?;
        require("principal_components", config.principal_components, false, CLASS)?;
        require("laion", config.laion.is_some(), false, CLASS)?;
        require("transformer.activation", transformer.activation, Activation::Gelu, CLASS)?;
        let d_hidden = 4 * transformer.d_model;
        require("transformer.d_hidden", transformer.d_hidden, d_hidden, CLASS)?;
        require("transformer.norm_eps", transformer.norm_eps, 1e-5, CLASS)?;
        let network = json!({
            "_class_name": CLASS,
            "_diffusers_version": DIFFUSERS,
            "additional_embeddings": DiffusionPriorConfig::EXTRA_TOKENS,
            "attention_head_dim": transformer.d_model / transformer.n_heads,
            "dropout": 0.0,
            "embedding_dim": config.d_embedding,
            "num_attention_heads": transformer.n_heads,
            "num_embeddings": config.context_length,
            "num_layers": transformer.n_layers,
        });
        let scheduler = scheduler(&config.diffusion)?;
        Ok(vec![
            ("prior/config.json", network),
            ("prior_scheduler/scheduler_config.json", scheduler),
        ])
    };
    described().map_err(|error| refused(bundle, "prior", error))
}

fn decoder(bundle: &Bundle) -> Result<[File; 3], Error> {
    let config = bundle.decoder.config();
    let diffusion = &config.diffusion;
    let described = || {
        let unet = adm(&config.unet)?;
        let Some(d_text) = config.d_text else {
            let expected = "a width: diffusers' UnCLIPPipeline has no decoder without captions";
            return Err(InvalidSetting::new("d_text", "absent", expected));
        };
        one_width(d_text, config.d_embedding)?;
        require("captions", config.captions, CaptionKind::Masked, "UnCLIPPipeline")?;
        // without attention on any level there is none in the middle
        if unet.attention_resolutions.is_empty() {
            let expected = "at least one: the middle of diffusers' decoder has attention";
            return Err(InvalidSetting::new("unet.attention_resolutions", "[]", expected));
        }
        require("channels", config.channels, PICTURE_CHANNELS, "UnCLIPPipeline")?;
        let has_autoencoder = bundle.autoencoder.is_some();
        require("autoencoder", has_autoencoder, false, "UnCLIPPipeline")?;
        let layout = config.layout.map(|layout| layout.side);
        require("layout.side", layout, None, "UNet2DConditionModel")?;
        require("whitened", config.whitened, false, "UnCLIPTextProjModel")?;
        let (variance, learned) = (diffusion.variance, VarianceType::LearnedRange);
        require("diffusion.variance", variance, learned, "pipeline, for its decoder,")?;
        let mut network = network(unet, &DECODER_BLOCKS, unet.image_size)?;
        network["class_embed_type"] = json!("identity");
        network["cross_attention_dim"] = json!(unet.d_context);
        network["dual_cross_attention"] = json!(false);
        network["mid_block_type"] = json!(DECODER_BLOCKS.middle);
        network["num_class_embeds"] = Value::Null;
        network["only_cross_attention"] = json!(false);
        network["upcast_attention"] = json!(false);
        network["use_linear_projection"] = json!(false);
        let projection = json!({
            "_class_name": "UnCLIPTextProjModel",
            "_diffusers_version": DIFFUSERS,
            "clip_embeddings_dim": config.d_embedding,
            "clip_extra_context_tokens": config.image_tokens,
            "cross_attention_dim": unet.d_context,
            "time_embed_dim": unet.d_embedding(),
        });
        Ok([
            ("decoder/config.json", network),
            ("text_proj/config.json", projection),
            ("decoder_scheduler/scheduler_config.json", scheduler(diffusion)?),
        ])
    };
    described().map_err(|error| refused(bundle, "decoder", error))
}

fn upsampler(bundle: &Bundle) -> Result<[File; 3], Error> {
    let [files] = bundle.upsamplers.as_slice() else {
        let found = bundle.upsamplers.len();
        let error = InvalidSetting::new("upsamplers", found, "1: diffusers' pipeline has no other");
        return Err(refused(bundle, "", error));
    };
    let config = files.config();
    let described = || {
        let (found, class) = (config.last_step_network, "pipeline");
        require("last_step_network", found, true, class)?;
        require("residual", config.residual, false, class)?;
        require("resize", config.resize, Resize::Bicubic, class)?;
        require("rounding", config.rounding, None, class)?;
        require("classes", config.classes, None, class)?;
        require("d_text", config.d_text, None, class)?;
        require("kept", config.kept, false, class)?;
        let (unet, none) = (adm(&config.unet)?, &Vec::new());
        require("unet.attention_resolutions", &unet.attention_resolutions, none, class)?;
        let mut network = network(unet, &UPSAMPLER_BLOCKS, bundle.image_size())?;
        network["add_attention"] = json!(false);
        network["time_embedding_type"] = json!("positional");
        let scheduler = scheduler(&config.diffusion)?;
        Ok([
            ("super_res_first/config.json", network.clone()),
            ("super_res_last/config.json", network),
            ("super_res_scheduler/scheduler_config.json", scheduler),
        ])
    };
    described().map_err(|error| refused(bundle, "upsampler.0", error))
}

/// The fields that both U-Nets have.
pub(in crate::layouts) fn network(
    unet: &UNetConfig,
    blocks: &Blocks,
    image_size: usize,
) -> Result<Value, InvalidSetting> {
    require("unet.coordinates", unet.coordinates, false, blocks.class)?;
    require("unet.patch_size", unet.patch_size, 1, blocks.class)?;
    require("unet.attention", unet.attention, blocks.kind, blocks.class)?;
    require("unet.resampling", unet.resampling, blocks.resampling, blocks.class)?;
    require("unet.n_heads", unet.n_heads, None, blocks.class)?;
    require("unet.d_sinusoid", unet.d_sinusoid, None, blocks.class)?;
    let levels = unet.levels();
    let kinds = |way: usize| {
        levels.iter().map(move |level| match (level.attention, blocks.attention) {
            (true, Some(kinds)) => kinds[way],
            _ => blocks.plain[way],
        })
    };
    let mut network = json!({
        "_class_name": blocks.class,
        "_diffusers_version": DIFFUSERS,
        "act_fn": "silu",
        "attention_head_dim": unet.d_head,
        "block_out_channels": unet.block_out_channels,
        "center_input_sample": false,
        "down_block_types": kinds(0).collect::<Vec<_>>(),
        "downsample_padding": 1,
        "flip_sin_to_cos": true,
        "freq_shift": 0,
        "in_channels": unet.in_channels,
        "layers_per_block": unet.num_res_blocks,
        "mid_block_scale_factor": 1,
        "norm_eps": unet.norm_eps,
        "norm_num_groups": unet.norm_groups,
        "out_channels": unet.out_channels,
        "resnet_time_scale_shift": if unet.scale_shift { "scale_shift" } else { "default" },
        "sample_size": image_size,
        "up_block_types": kinds(1).rev().collect::<Vec<_>>(),
    });
    if blocks.kind == AttentionKind::Transformer {
        let heads = unet.block_out_channels.iter().map(|channels| channels / unet.d_head);
        network["attention_head_dim"] = json!(heads.collect::<Vec<_>>());
    }
    // a field that came later: only where its default is not meant
    if let Some(d_time) = unet.d_time {
        network["time_embedding_dim"] = json!(d_time);
    }
    Ok(network)
}

/// An `UnCLIPScheduler`.
pub(in crate::layouts) fn scheduler(diffusion: &DiffusionConfig) -> Result<Value, InvalidSetting> {
    const CLASS: &str = "UnCLIPScheduler";
    let cosine = BetaSchedule::SquaredCosine;
    require("diffusion.beta_schedule", diffusion.beta_schedule, cosine, CLASS)?;
    require("diffusion.sampler", diffusion.sampler.to_string(), Ddpm.spelling(), CLASS)?;
    require("diffusion.spacing", diffusion.spacing.to_string(), "even".into(), CLASS)?;
    require("diffusion.set_alpha_to_one", diffusion.set_alpha_to_one, true, CLASS)?;
    require("diffusion.uncertainty", diffusion.uncertainty.as_ref(), None, CLASS)?;
    require("diffusion.temperature", diffusion.temperature, 1.0, CLASS)?;
    let other = |field: &str, found: Value, expected: &str| {
        Err(InvalidSetting::new(
            field,
            found,
            format!("{expected}: diffusers' {CLASS} has no other"),
        ))
    };
    let prediction = match diffusion.parameterization {
        Parameterization::Epsilon => "epsilon",
        Parameterization::Sample => "sample",
        found => return other("diffusion.parameterization", json!(found), "epsilon or sample"),
    };
    let variance = match diffusion.variance {
        VarianceType::FixedSmall => "fixed_small_log",
        VarianceType::LearnedRange => "learned_range",
        found => return other("diffusion.variance", json!(found), "fixed_small or learned_range"),
    };
    let mut scheduler = json!({
        "_class_name": CLASS,
        "_diffusers_version": DIFFUSERS,
        "clip_sample": diffusion.clamp.is_some(),
        "num_train_timesteps": diffusion.num_train_timesteps,
        "prediction_type": prediction,
        "variance_type": variance,
    });
    if let Some(range) = diffusion.clamp {
        scheduler["clip_sample_range"] = json!(range);
    }
    Ok(scheduler)
}

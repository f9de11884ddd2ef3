//! diffusers' configurations of the prior, and of Karlo's schedulers.

use std::path::Path;

use serde_json::{Value, json};
use unclip_core::{Ddpm, DiffusionConfig, Parameterization, VarianceType};
use unclip_nn::checkpoint::LoadError;
use unclip_nn::{Activation, TransformerConfig};
use unclip_prior::DiffusionPriorConfig;

use super::fields::Fields;

/// What a user gets by default: the reference pipeline's own defaults.
#[derive(Debug, Clone, Copy)]
pub(in crate::layouts) struct Defaults {
    pub(in crate::layouts) steps: usize,
    pub(in crate::layouts) guidance_scale: f64,
}

/// A `UnCLIPScheduler`.
pub(in crate::layouts) fn scheduler(
    folder: &Path,
    defaults: Defaults,
) -> Result<DiffusionConfig, LoadError> {
    let path = folder.join("scheduler_config.json");
    let mut fields = Fields::read(&path, Some(&["UnCLIPScheduler"]))?;
    fields.expect("beta_schedule", "squaredcos_cap_v2")?;
    let prediction: Option<String> = fields.take_optional("prediction_type")?;
    let parameterization = match prediction.as_deref() {
        None | Some("epsilon") => Parameterization::Epsilon,
        Some("sample") => Parameterization::Sample,
        Some(other) => {
            return Err(fields.error("prediction_type", other, "\"epsilon\" or \"sample\""));
        }
    };
    let variance: Option<String> = fields.take_optional("variance_type")?;
    let variance = match variance.as_deref() {
        None | Some("fixed_small_log") => VarianceType::FixedSmall,
        Some("learned_range") => VarianceType::LearnedRange,
        Some(other) => {
            let expected = "\"fixed_small_log\" or \"learned_range\"";
            return Err(fields.error("variance_type", other, expected));
        }
    };
    let clamped = fields.take_optional("clip_sample")?.unwrap_or(true);
    let range: f64 = fields.take_optional("clip_sample_range")?.unwrap_or(1.0);
    let num_train_timesteps = fields.take_optional("num_train_timesteps")?.unwrap_or(1000);
    let config = DiffusionConfig {
        num_train_timesteps,
        variance,
        clamp: clamped.then_some(range),
        sampler: Ddpm.into(),
        steps: defaults.steps.min(num_train_timesteps),
        guidance_scale: defaults.guidance_scale,
        ..DiffusionConfig::cosine(parameterization)
    };
    let names = [("clamp", "clip_sample_range")];
    config.validate().map_err(|error| fields.invalid(&error, &names))?;
    fields.finish()?;
    Ok(config)
}

/// A `PriorTransformer`.
pub(in crate::layouts) fn prior(
    folder: &Path,
    diffusion: DiffusionConfig,
) -> Result<DiffusionPriorConfig, LoadError> {
    let mut fields = Fields::read(&folder.join("config.json"), Some(&["PriorTransformer"]))?;
    let n_heads: usize = fields.take("num_attention_heads")?;
    let d_head: usize = fields.take("attention_head_dim")?;
    let d_model = n_heads.saturating_mul(d_head);
    let d_embedding: usize = fields.take("embedding_dim")?;
    let config = DiffusionPriorConfig {
        laion: None,
        d_embedding,
        d_text: d_embedding,
        context_length: fields.take("num_embeddings")?,
        principal_components: false,
        transformer: TransformerConfig {
            d_model,
            n_layers: fields.take("num_layers")?,
            n_heads,
            d_hidden: d_model.saturating_mul(4),
            activation: Activation::Gelu,
            norm_eps: 1e-5,
        },
        diffusion,
    };
    fields.expect_all([
        ("additional_embeddings", json!(DiffusionPriorConfig::EXTRA_TOKENS)),
        ("time_embed_act_fn", json!("silu")),
        ("norm_in_type", Value::Null),
        ("embedding_proj_norm_type", Value::Null),
        ("encoder_hid_proj_type", json!("linear")),
        ("added_emb_type", json!("prd")),
        ("time_embed_dim", Value::Null),
        ("embedding_proj_dim", Value::Null),
        ("clip_embed_dim", Value::Null),
    ])?;
    fields.ignore(&["dropout"]);
    let names = [
        ("d_model", "num_attention_heads * attention_head_dim"),
        ("n_layers", "num_layers"),
        ("n_heads", "num_attention_heads"),
        ("d_embedding", "embedding_dim"),
        ("context_length", "num_embeddings"),
    ];
    config.validate().map_err(|error| fields.invalid(&error, &names))?;
    fields.finish()?;
    Ok(config)
}

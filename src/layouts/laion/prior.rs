//! The prior's configuration.

use serde_json::json;
use unclip_core::{Ddpm, DiffusionConfig, EarlyDdim, SamplerKind, Spacing};
use unclip_nn::checkpoint::LoadError;
use unclip_nn::{Activation, LaionRelease, LayerNorm, TransformerConfig};
use unclip_prior::{DiffusionPriorConfig, LaionPriorConfig};

use super::schedules::{betas, prediction};
use crate::layouts::diffusers::fields::Fields;

/// Fields of ours, and theirs.
pub(super) const NAMES: [(&str, &str); 14] = [
    ("d_text", "prior.net.dim"),
    ("text_tokens", "prior.net.num_text_embeds"),
    ("time_tokens", "prior.net.num_time_embeds"),
    ("image_tokens", "prior.net.num_image_embeds"),
    ("scale", "image_embed_scale"),
    ("d_model", "prior.net.dim"),
    ("n_layers", "prior.net.depth"),
    ("n_heads", "prior.net.heads"),
    ("d_head", "prior.net.dim_head"),
    ("d_hidden", "prior.net.ff_mult"),
    ("text_positions", "prior.net.max_text_len"),
    ("d_embedding", "image_embed_dim"),
    ("num_train_timesteps", "timesteps"),
    ("steps", "sample_timesteps"),
];

/// What says nothing about a prior that draws: how it was trained, and the pictures of its CLIP.
const TRAINING: [&str; 5] = [
    "image_size",
    "image_channels",
    "loss_type",
    "training_clamp_l2norm",
    "clip_adapter_overrides",
];

/// A prior, from the object `prior` without its CLIP, whose captions have so many tokens.
pub(super) fn config(
    mut fields: Fields,
    context_length: usize,
    release: LaionRelease,
) -> Result<DiffusionPriorConfig, LoadError> {
    fields.ignore(&TRAINING);
    fields.expect_all([
        ("sampling_clamp_l2norm", json!(false)),
        ("sampling_final_clamp_l2norm", json!(false)),
        ("init_image_embed_l2norm", json!(false)),
    ])?;
    let mut net = fields.object("net")?;
    let d_embedding: usize = net.take("dim")?;
    let width: usize = fields.take_or("image_embed_dim", d_embedding)?;
    if width != d_embedding {
        let expected = format!("{d_embedding}, which is net.dim");
        return Err(fields.error("image_embed_dim", width, &expected));
    }
    let unguided = !drops_conditions(&mut fields)? || release == LaionRelease::V1_0;
    let diffusion = diffusion(&mut fields, release)?;
    let reads_tokens = fields.take_or("condition_on_text_encodings", true)?;
    let scale = fields.take_or("image_embed_scale", (d_embedding as f64).sqrt())?;
    let transformer = transformer(&mut net, d_embedding)?;
    let laion = LaionPriorConfig {
        release,
        unguided,
        reads_tokens,
        scale,
        ..network(&mut net, diffusion.num_train_timesteps)?
    };
    fields.finish()?;
    Ok(DiffusionPriorConfig {
        d_embedding,
        d_text: d_embedding,
        context_length,
        transformer,
        principal_components: false,
        laion: Some(laion),
        diffusion,
    })
}

/// Whether training left captions out, and embeddings too: a prior that has never missed them cannot be led
/// away from missing them.
fn drops_conditions(fields: &mut Fields) -> Result<bool, LoadError> {
    let both: f64 = fields.take_or("cond_drop_prob", 0.0)?;
    let text: Option<f64> = fields.take_optional("text_cond_drop_prob")?;
    let image: Option<f64> = fields.take_optional("image_cond_drop_prob")?;
    Ok(text.unwrap_or(both) > 0.0 && image.unwrap_or(both) > 0.0)
}

fn transformer(net: &mut Fields, d_model: usize) -> Result<TransformerConfig, LoadError> {
    let d_hidden = net.take_or("ff_mult", 4usize)?.saturating_mul(d_model);
    Ok(TransformerConfig {
        d_model,
        n_layers: net.take("depth")?,
        n_heads: net.take_or("heads", 8)?,
        d_hidden,
        activation: Activation::Swiglu,
        norm_eps: LayerNorm::EPSILON,
    })
}

/// The object `net`, but for the transformer's sizes.
fn network(net: &mut Fields, timesteps: usize) -> Result<LaionPriorConfig, LoadError> {
    net.expect("self_cond", false)?;
    net.ignore(&["attn_dropout", "ff_dropout"]);
    let table: Option<usize> = net.take_optional("num_timesteps")?;
    if let Some(found) = table.filter(|found| *found != timesteps) {
        let expected = format!("{timesteps}, which is prior.timesteps");
        return Err(net.error("num_timesteps", found, &expected));
    }
    let config = LaionPriorConfig {
        release: LaionRelease::default(),
        unguided: false,
        d_head: net.take_or("dim_head", 64)?,
        text_positions: net.take("max_text_len")?,
        reads_tokens: true,
        text_tokens: net.take_or("num_text_embeds", 1)?,
        time_tokens: net.take_or("num_time_embeds", 1)?,
        image_tokens: net.take_or("num_image_embeds", 1)?,
        time_table: table.is_some(),
        rotary: net.take_or("rotary_emb", true)?,
        norm_in: net.take_or("norm_in", false)?,
        norm_out: net.take_or("norm_out", true)?,
        normformer: net.take_or("normformer", false)?,
        projected: net.take_or("final_proj", true)?,
        scale: 1.0,
    };
    net.rest_is_empty()?;
    Ok(config)
}

fn diffusion(fields: &mut Fields, release: LaionRelease) -> Result<DiffusionConfig, LoadError> {
    let timesteps: usize = fields.take_or("timesteps", 1000)?;
    if timesteps == 0 {
        return Err(fields.error("timesteps", 0, "at least 1"));
    }
    let schedule: String = fields.take_or("beta_schedule", "cosine".into())?;
    let of_x_start = fields.take_or("predict_x_start", true)?;
    let of_v = fields.take_or("predict_v", false)?;
    let asked: Option<usize> = fields.take_optional("sample_timesteps")?;
    let (sampler, steps, spacing): (SamplerKind, usize, Spacing) = match asked {
        Some(few) if few < 2 => {
            return Err(fields.error("sample_timesteps", few, "at least 2"));
        }
        Some(few) if few < timesteps && release.is_late() && !of_x_start => {
            let expected =
                format!("{timesteps}, by DDPM, of a prior that does not predict embeddings");
            return Err(fields.error("sample_timesteps", few, &expected));
        }
        Some(points) if points < timesteps => {
            let with_first = release.is_late();
            // the first of the later releases' points is the end
            let steps = points - usize::from(with_first);
            (EarlyDdim { eta: 1.0 }.into(), steps, Spacing::Between { with_first })
        }
        Some(more) if more > timesteps => {
            let expected = format!("at most {timesteps}, which is timesteps");
            return Err(fields.error("sample_timesteps", more, &expected));
        }
        _ => (Ddpm.into(), timesteps, Spacing::Even),
    };
    Ok(DiffusionConfig {
        num_train_timesteps: timesteps,
        beta_schedule: betas(fields, &schedule, timesteps)?,
        // where clean samples are predicted, nothing is clamped
        clamp: (!of_x_start).then_some(1.0),
        sampler,
        steps,
        spacing,
        ..DiffusionConfig::cosine(prediction(of_x_start, of_v))
    })
}

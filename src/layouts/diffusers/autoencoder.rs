//! diffusers' autoencoders: `AutoencoderKL` and `VQModel`.

use std::path::Path;

use serde_json::{Value, json};
use unclip_autoencoder::{AutoencoderConfig, Latents};
use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::{LoadError, Part, StageFiles, Weights};

use super::describe::DIFFUSERS;
use super::described::require;
use super::fields::{ABSENT, Fields};
use super::files::NETWORK;
use super::stage;

const KL: &str = "AutoencoderKL";
const CODES: &str = "VQModel";

/// What a latent of a codebook is multiplied with: Kandinsky's pipelines, the only ones that have
/// one, do not multiply, whatever the field says.
const UNSCALED: f64 = 1.0;

/// Groups of norms that read the latent: no field says so.
const SPATIAL_GROUPS: usize = 32;

/// For each way, the field and the kinds of its blocks, without attention and with it.
const WAYS: [(&str, &str, &str); 2] = [
    ("down_block_types", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    ("up_block_types", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
];

/// Whether a folder is of a network of diffusers: its configuration names a class.
pub(in crate::layouts) fn is_of_diffusers(folder: &Path) -> bool {
    let fields = Fields::read(&folder.join("config.json"), None);
    fields.is_ok_and(|fields| fields.class() != ABSENT)
}

/// An autoencoder's folder.
pub(in crate::layouts) fn autoencoder(
    folder: &Path,
) -> Result<StageFiles<AutoencoderConfig>, LoadError> {
    let config = config(folder)?;
    let weights = Weights::open_in(folder, NETWORK)?.renamed(|key, _| {
        let is_attention = key.contains(".attentions.");
        let old = OLD_ATTENTION.iter().find(|(old, _)| is_attention && key.contains(old));
        let name = old.map_or_else(|| key.to_string(), |(old, new)| key.replace(old, new));
        vec![(name, Part::default())]
    })?;
    stage(folder, config, weights, "layers_per_block")
}

/// What an attention's layers were called until diffusers 0.15, as most published files still do.
const OLD_ATTENTION: [(&str, &str); 4] = [
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
];

fn config(folder: &Path) -> Result<AutoencoderConfig, LoadError> {
    let mut fields = Fields::read(&folder.join("config.json"), Some(&[KL, CODES]))?;
    let is_kl = fields.class() == KL;
    let block_out_channels: Vec<usize> = fields.take("block_out_channels")?;
    let latent_channels: usize = fields.take("latent_channels")?;
    let norm_groups = fields.take_optional("norm_num_groups")?.unwrap_or(32);
    let attention = attention(&mut fields, block_out_channels.len())?;
    let scale: Option<f64> = fields.take_optional("scaling_factor")?;
    let latents = if is_kl { kl(&mut fields)? } else { codes(&mut fields, latent_channels)? };
    if let Latents::Codes { spatial_norm: true, .. } = latents
        && norm_groups != SPATIAL_GROUPS
    {
        return Err(fields.error("norm_num_groups", norm_groups, "32, with norm_type spatial"));
    }
    fields.expect_all([
        ("in_channels", json!(AutoencoderConfig::CHANNELS)),
        ("out_channels", json!(AutoencoderConfig::CHANNELS)),
        ("act_fn", json!("silu")),
        ("mid_block_add_attention", json!(true)),
    ])?;
    // how it is computed in 16 bits
    fields.ignore(&["force_upcast"]);
    let config = AutoencoderConfig {
        // what its pictures measured in training, where that is said
        image_size: fields.take_optional("sample_size")?.unwrap_or(32),
        latent_channels,
        num_res_blocks: fields.take_optional("layers_per_block")?.unwrap_or(1),
        norm_groups,
        attention,
        scaling_factor: if is_kl { scale.unwrap_or(0.18215) } else { UNSCALED },
        latents,
        block_out_channels,
    };
    let names = [
        ("image_size", "sample_size"),
        ("num_res_blocks", "layers_per_block"),
        ("norm_groups", "norm_num_groups"),
        ("n_codes", "num_vq_embeddings"),
        ("d_code", "vq_embed_dim"),
    ];
    config.validate().map_err(|error| fields.invalid(&error, &names))?;
    fields.finish()?;
    Ok(config)
}

/// The configuration of an autoencoder with a codebook.
pub(in crate::layouts) fn described(config: &AutoencoderConfig) -> Result<Value, InvalidSetting> {
    let Latents::Codes { n_codes, d_code, spatial_norm } = config.latents else {
        let expected = "codes: diffusers' VQModel has no distributions";
        return Err(InvalidSetting::new("latents", "kl", expected));
    };
    require("scaling_factor", config.scaling_factor, UNSCALED, CODES)?;
    if spatial_norm {
        require("norm_groups", config.norm_groups, SPATIAL_GROUPS, CODES)?;
    }
    let mut network = common(config, CODES);
    network["norm_type"] = json!(if spatial_norm { "spatial" } else { "group" });
    network["num_vq_embeddings"] = json!(n_codes);
    network["vq_embed_dim"] = json!(d_code);
    Ok(network)
}

/// The configuration of an autoencoder of distributions.
pub(in crate::layouts) fn described_kl(
    config: &AutoencoderConfig,
) -> Result<Value, InvalidSetting> {
    if config.latents != Latents::Kl {
        let expected = "kl: diffusers' AutoencoderKL has no codes";
        return Err(InvalidSetting::new("latents", "codes", expected));
    }
    let mut network = common(config, KL);
    network["scaling_factor"] = json!(config.scaling_factor);
    Ok(network)
}

/// The fields of both.
fn common(config: &AutoencoderConfig, class: &str) -> Value {
    let levels = config.block_out_channels.len();
    let kinds = |way: usize| {
        let (_, plain, attention) = WAYS[way];
        let kind =
            move |level| if config.attention && level + 1 == levels { attention } else { plain };
        (0..levels).map(kind)
    };
    json!({
        "_class_name": class,
        "_diffusers_version": DIFFUSERS,
        "act_fn": "silu",
        "block_out_channels": config.block_out_channels,
        "down_block_types": kinds(0).collect::<Vec<_>>(),
        "in_channels": AutoencoderConfig::CHANNELS,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.num_res_blocks,
        "norm_num_groups": config.norm_groups,
        "out_channels": AutoencoderConfig::CHANNELS,
        "sample_size": config.image_size,
        "up_block_types": kinds(1).rev().collect::<Vec<_>>(),
    })
}

fn kl(fields: &mut Fields) -> Result<Latents, LoadError> {
    fields.expect_all([
        ("use_quant_conv", json!(true)),
        ("use_post_quant_conv", json!(true)),
        ("shift_factor", Value::Null),
        ("latents_mean", Value::Null),
        ("latents_std", Value::Null),
    ])?;
    Ok(Latents::Kl)
}

fn codes(fields: &mut Fields, latent_channels: usize) -> Result<Latents, LoadError> {
    fields.expect("lookup_from_codebook", false)?;
    let norm: Option<String> = fields.take_optional("norm_type")?;
    let spatial_norm = match norm.as_deref() {
        None | Some("group") => false,
        Some("spatial") => true,
        Some(other) => return Err(fields.error("norm_type", other, "\"group\" or \"spatial\"")),
    };
    Ok(Latents::Codes {
        n_codes: fields.take_optional("num_vq_embeddings")?.unwrap_or(256),
        d_code: fields.take_optional("vq_embed_dim")?.unwrap_or(latent_channels),
        spatial_norm,
    })
}

/// Whether the innermost level has attention: on both ways or on none.
fn attention(fields: &mut Fields, levels: usize) -> Result<bool, LoadError> {
    let mut found = [false; 2];
    for (way, (name, plain, attention)) in WAYS.into_iter().enumerate() {
        let mut kinds: Vec<String> = fields.take(name)?;
        if way == 1 {
            kinds.reverse();
        }
        let last = kinds.last().map_or("", String::as_str);
        let is_known = [plain, attention].contains(&last)
            && kinds.len() == levels
            && kinds[..levels - 1].iter().all(|kind| kind == plain);
        if !is_known {
            let expected = format!("{levels} times {plain}, or {attention} where it is smallest");
            return Err(fields.error(name, format!("{kinds:?}"), &expected));
        }
        found[way] = last == attention;
    }
    if found[0] != found[1] {
        return Err(fields.error(
            "up_block_types",
            "another kind",
            "the mirror of down_block_types",
        ));
    }
    Ok(found[0])
}

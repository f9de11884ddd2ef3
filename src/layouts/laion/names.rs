//! Names of DALLE2-pytorch's tensors.

use std::path::Path;

use unclip_nn::checkpoint::{LoadError, Part, Weights};
use unclip_prior::DiffusionPriorConfig;

use super::refused;
use super::release::early_halvings;
use crate::layouts::layout::find;

/// Names of a prior's tensors below `net.` outside the blocks.
const PRIOR: [(&str, &str); 10] = [
    ("to_text_embeds.0", "to_text_embeds"),
    ("to_image_embeds.0", "to_image_embeds"),
    ("to_time_embeds.0", "to_time_embeds.table"),
    ("to_time_embeds.0.1.net.0.0", "to_time_embeds.mlp.first"),
    ("to_time_embeds.0.1.net.1.0", "to_time_embeds.mlp.second"),
    ("to_time_embeds.0.1.net.2", "to_time_embeds.mlp.third"),
    ("causal_transformer.init_norm", "causal_transformer.init_norm"),
    ("causal_transformer.norm", "causal_transformer.norm"),
    ("causal_transformer.project_out", "causal_transformer.project_out"),
    ("causal_transformer.rel_pos_bias.relative_attention_bias", "causal_transformer.distances"),
];

/// Those in a block of it.
const PRIOR_BLOCK: [(&str, &str); 9] = [
    ("0.norm", "attn1.norm"),
    ("0.to_q", "attn1.to_q"),
    ("0.to_kv", "attn1.to_kv"),
    ("0.to_out.0", "attn1.to_out.0"),
    ("0.to_out.1", "attn1.out_norm"),
    ("1.0", "norm"),
    ("1.1", "ff.net.0.proj"),
    ("1.3", "hidden_norm"),
    ("1.5", "ff.net.2"),
];

/// Modules of a U-Net outside the levels.
const UNET: [(&str, &str); 9] = [
    ("init_conv", "init_conv.convs.0"),
    ("to_time_hiddens.1", "to_time_hiddens"),
    ("to_time_tokens.0", "to_time_tokens"),
    ("to_time_cond.0", "to_time_cond"),
    ("to_image_hiddens.0", "to_image_hiddens"),
    ("image_to_tokens.0", "image_to_tokens"),
    ("text_to_cond", "text.text_to_cond"),
    ("norm_cond", "norm_cond"),
    ("norm_mid_cond", "norm_mid_cond"),
];

/// Vectors of a U-Net that stand for pictures and captions.
const NULL_IMAGES: [&str; 2] = ["null_image_embed", "null_image_hiddens"];
const NULL_TEXT: &str = "null_text_embed";

/// What stands beside the networks in a file: constants of schedules, and CLIP.
const BESIDE: [&str; 4] = ["noise_scheduler.", "noise_schedulers.", "lowres_conds.", "clip."];

fn is_beside(key: &str) -> bool {
    BESIDE.iter().any(|prefix| key.starts_with(prefix))
}

fn whole(name: String) -> Vec<(String, Part)> {
    vec![(name, Part::default())]
}

/// A prior.
///
/// # Errors
/// A name that is given twice.
pub(super) fn prior(weights: Weights, config: &DiffusionPriorConfig) -> Result<Weights, LoadError> {
    let rotates = config.laion.as_ref().is_some_and(|it| it.rotary);
    weights.renamed(|key, _| {
        // the rotations' frequencies are a constant, once for all blocks and once in each
        let is_frequencies =
            key.starts_with("net.causal_transformer.") && key.ends_with(".rotary_emb.freqs");
        if is_beside(key) || (rotates && is_frequencies) {
            return Vec::new();
        }
        whole(key.strip_prefix("net.").and_then(in_prior).unwrap_or_else(|| key.into()))
    })
}

fn in_prior(key: &str) -> Option<String> {
    // under their names of today, and of the earlier releases
    const OWN: [(&str, &str); 5] = [
        ("learned_query", "learned_query"),
        ("null_text_encodings", "null_text_encodings"),
        ("null_text_embed", "null_text_encodings"),
        ("null_text_embeds", "nothing.null_text_embeds"),
        ("null_image_embed", "nothing.null_image_embed"),
    ];
    if let Some(own) = find(&OWN, key) {
        return Some(own.into());
    }
    if let Some(rest) = key.strip_prefix("causal_transformer.layers.") {
        let (layer, module) = rest.split_once('.')?;
        let layer = format!("causal_transformer.layers.{layer}");
        if module == "0.null_kv" {
            return Some(format!("{layer}.attn1.null_kv"));
        }
        let (module, leaf) = module.rsplit_once('.')?;
        return Some(format!("{layer}.{}.{leaf}", find(&PRIOR_BLOCK, module)?));
    }
    let (module, leaf) = key.rsplit_once('.')?;
    let module = find(&PRIOR, module)?;
    let is_table = module.ends_with(".distances");
    Some(if is_table { module.into() } else { format!("{module}.{leaf}") })
}

/// Checks that the weights hold no U-Net beside the `n` of the configuration.
///
/// # Errors
/// One that is beyond these.
pub(super) fn check_unets(weights: &Weights, n: usize, path: &Path) -> Result<(), LoadError> {
    let is_known = |key: &String| match key.strip_prefix("unets.").map(|rest| rest.split_once('.'))
    {
        None => true,
        Some(place) => {
            let place = place.and_then(|(place, _)| place.parse::<usize>().ok());
            place.is_some_and(|place| place < n)
        }
    };
    match weights.keys().iter().find(|key| !is_known(key)) {
        None => Ok(()),
        Some(key) => {
            let found = format!("a list of {n}");
            let expected = format!("as many U-Nets as the weights have; they contain {key}");
            Err(refused(path, "decoder.unets", found, expected))
        }
    }
}

/// The U-Net at this place of a decoder's file. Vectors that stand for what it does not read are left
/// out.
///
/// # Errors
/// A name that is given twice.
pub(super) fn unet(
    weights: Weights,
    place: usize,
    reads_captions: bool,
) -> Result<Weights, LoadError> {
    let own = format!("unets.{place}.");
    let halvings = early_halvings(&weights, place);
    weights.renamed(|key, shape| {
        let Some(rest) = key.strip_prefix(own.as_str()) else {
            let is_other = is_beside(key) || key.starts_with("unets.");
            return if is_other { Vec::new() } else { whole(key.into()) };
        };
        let is_unread =
            (place > 0 && NULL_IMAGES.contains(&rest)) || (!reads_captions && rest == NULL_TEXT);
        if is_unread {
            return Vec::new();
        }
        let halves = rest.rsplit_once('.').is_some_and(|(module, _)| halvings.contains(module));
        match in_unet(rest, halves) {
            // the gains of channels have the rank of pictures
            Some(name) if name.ends_with(".g") && shape.len() == 4 => {
                let shape = Some(vec![shape.iter().product()]);
                vec![(format!("unet.{name}"), Part { shape, ..Part::default() })]
            }
            Some(name) => whole(format!("unet.{name}")),
            None => whole(key.into()),
        }
    })
}

/// A tensor of a U-Net; whether its module halves pictures as in the early releases.
fn in_unet(key: &str, halves: bool) -> Option<String> {
    if NULL_IMAGES.contains(&key) {
        return Some(key.into());
    }
    if key == NULL_TEXT {
        return Some(format!("text.{key}"));
    }
    let (module, leaf) = key.rsplit_once('.')?;
    if let Some(module) = find(&UNET, module) {
        return Some(format!("{module}.{leaf}"));
    }
    let (first, rest) = key.split_once('.')?;
    Some(match first {
        "to_out" => key.into(),
        "init_conv" => key.into(),
        "init_resnet_block" | "mid_block1" | "mid_block2" | "final_resnet_block" => {
            format!("{first}.{}", in_block(rest)?)
        }
        "mid_attn" => format!("mid_attn.{}", in_attention(rest.strip_prefix("fn.fn.")?)?),
        "downs" | "ups" => {
            let (level, rest) = rest.split_once('.')?;
            format!("{first}.{level}.{}", in_level(first == "downs", rest, halves)?)
        }
        _ => return None,
    })
}

/// A tensor of a level.
fn in_level(is_down: bool, key: &str, halves: bool) -> Option<String> {
    let (place, rest) = key.split_once('.')?;
    let leaf = |after: &str| rest.strip_prefix(after).filter(|leaf| !leaf.contains('.'));
    // the way up has nothing before its first block
    let place = place.parse::<usize>().ok()?.checked_add(usize::from(!is_down))?;
    Some(match place {
        0 => format!("before.conv.{}", leaf("1.").or_else(|| leaf(""))?),
        1 => format!("first.{}", in_block(rest)?),
        2 => {
            let (block, rest) = rest.split_once('.')?;
            format!("blocks.{block}.{}", in_block(rest)?)
        }
        3 => match rest.strip_prefix("fn.fn.") {
            Some(rest) => format!("attention.full.{}", in_attention(rest)?),
            None => format!("attention.linear.{}", in_attention(rest.strip_prefix("fn.")?)?),
        },
        4 if is_down => match leaf("1.") {
            Some(leaf) => format!("halving.conv.{leaf}"),
            None => format!("{}.{}", if halves { "halving.conv" } else { "after" }, leaf("")?),
        },
        4 => format!("doubling.conv.{}", leaf("net.0.").or_else(|| leaf("1."))?),
        _ => return None,
    })
}

/// A tensor of a residual block.
fn in_block(key: &str) -> Option<String> {
    const BLOCK: [(&str, &str); 6] = [
        ("time_mlp.1", "time_mlp"),
        ("block1.project", "block1.project"),
        ("block1.norm", "block1.norm"),
        ("block2.project", "block2.project"),
        ("block2.norm", "block2.norm"),
        ("res_conv", "res_conv"),
    ];
    if let Some(rest) = key.strip_prefix("cross_attn.") {
        // as it was called up to 1.12
        let rest = rest.strip_prefix("fn.").unwrap_or(rest);
        return Some(format!("cross_attn.{}", in_attention(rest)?));
    }
    let (module, leaf) = key.rsplit_once('.')?;
    Some(format!("{}.{leaf}", find(&BLOCK, module)?))
}

/// A tensor of attention of any kind.
fn in_attention(key: &str) -> Option<String> {
    const ATTENTION: [(&str, &str); 7] = [
        ("norm.g", "norm.g"),
        ("null_kv", "null_kv"),
        ("to_q.weight", "to_q.weight"),
        ("to_kv.weight", "to_kv.weight"),
        ("to_qkv.weight", "to_qkv.weight"),
        ("to_out.0.weight", "to_out.weight"),
        ("to_out.1.g", "out_norm.g"),
    ];
    find(&ATTENTION, key).map(String::from)
}

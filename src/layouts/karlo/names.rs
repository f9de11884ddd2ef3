//! Names of the tensors of prior and decoder in Karlo's own code.

use unclip_nn::checkpoint::{LoadError, Part, Rows, Weights};

use crate::layouts::layout::find;
use crate::layouts::original::unet_names::UNetNames;

/// How the names of prior and decoder begin in their files.
pub(super) const PREFIX: &str = "model.";

/// The prior's modules outside the blocks.
const PRIOR: [(&str, &str); 7] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("clip_img_proj", "proj_in"),
    ("text_emb_proj", "embedding_proj"),
    ("text_enc_proj", "encoder_hidden_states_proj"),
    ("final_ln", "norm_out"),
    ("out_proj", "proj_to_clip_embeddings"),
];

/// The prior's modules in a block.
const PRIOR_BLOCK: [(&str, &str); 5] = [
    ("ln_1", "norm1"),
    ("ln_2", "norm3"),
    ("attn.c_proj", "attn1.to_out.0"),
    ("mlp.c_fc", "ff.net.0.proj"),
    ("mlp.c_proj", "ff.net.2"),
];

/// The prior of Karlo's own code, and the file of statistics beside it, in diffusers' names.
/// `d_head` are the channels of one attention head. What neither layout has keeps its name, by
/// which the loader will refuse it.
///
/// # Errors
/// A fused matrix that does not consist of whole heads; a name that is given twice.
pub(super) fn prior(
    prior: Weights,
    statistics: Weights,
    d_head: usize,
) -> Result<Weights, LoadError> {
    let origin = prior.path().to_path_buf();
    let prior = prior.renamed(|key, _| {
        let inner = key.strip_prefix(PREFIX).unwrap_or(key);
        prior_parts(inner, d_head).unwrap_or_else(|| whole(key))
    })?;
    let statistics = statistics.renamed(|key, shape| {
        let row = Part { shape: Some(vec![1, shape.iter().product()]), ..Part::default() };
        match key {
            "mean" => vec![("clip_mean".into(), row)],
            "std" => vec![("clip_std".into(), row)],
            _ => whole(key),
        }
    })?;
    Weights::join(&origin, [prior, statistics])
}

/// All of a tensor, under this name.
fn whole(name: &str) -> Vec<(String, Part)> {
    vec![(name.into(), Part::default())]
}

/// What a tensor of the original is; `None` for names that it does not have.
fn prior_parts(key: &str, d_head: usize) -> Option<Vec<(String, Part)>> {
    match key {
        "positional_embedding" => return Some(whole(key)),
        "prd_emb" => return Some(whole("prd_embedding")),
        _ => {}
    }
    let (module, leaf) = key.rsplit_once('.')?;
    if let Some(module) = find(&PRIOR, module) {
        return Some(whole(&format!("{module}.{leaf}")));
    }
    let (layer, module) = module.strip_prefix("transformer.resblocks.")?.split_once('.')?;
    let block = format!("transformer_blocks.{layer}");
    if module != "attn.c_qkv" {
        let module = find(&PRIOR_BLOCK, module)?;
        return Some(whole(&format!("{block}.{module}.{leaf}")));
    }
    // queries, keys and values of the first head, then those of the second, and so on
    let third = |(index, name)| {
        let rows = Some(Rows { block: d_head, index, of: 3 });
        (format!("{block}.attn1.to_{name}.{leaf}"), Part { rows, ..Part::default() })
    };
    Some(["q", "k", "v"].into_iter().enumerate().map(third).collect())
}

/// Modules of the conditioner, which is part of its U-Net.
const TEXT_PROJ: [(&str, &str); 5] = [
    ("text_feat_proj", "embedding_proj"),
    ("text_seq_proj.0", "encoder_hidden_states_proj"),
    ("text_seq_proj.1", "text_encoder_hidden_states_norm"),
    ("clip_tok_proj", "clip_extra_context_tokens_proj"),
    ("clip_emb", "clip_image_embeddings_project_to_time_embeddings"),
];

/// The decoder of Karlo's own code, in diffusers' names. What that layout does not have keeps its
/// name, by which the loader will refuse it.
///
/// # Errors
/// A fused tensor that does not consist of whole heads; a name that is given twice.
pub(super) fn decoder(weights: Weights, unet: &UNetNames) -> Result<Weights, LoadError> {
    weights.renamed(|key, shape| {
        let inner = key.strip_prefix(PREFIX).unwrap_or(key);
        let name = match text_proj_name(inner) {
            Some(name) => Some(vec![(format!("text_proj.{name}"), Part::default())]),
            None => unet.parts("unet.", inner, shape),
        };
        name.unwrap_or_else(|| vec![(key.into(), Part::default())])
    })
}

/// A tensor of the original's conditioner in diffusers' names.
fn text_proj_name(key: &str) -> Option<String> {
    if key == "cf_param" {
        return Some("learned_classifier_free_guidance_embeddings".into());
    }
    let (module, leaf) = key.rsplit_once('.')?;
    let (_, module) = TEXT_PROJ.iter().find(|(from, _)| *from == module)?;
    Some(format!("{module}.{leaf}"))
}

//! Names of the tensors of a GLIDE file, which holds a text tower and a U-Net.

use unclip_nn::checkpoint::{LoadError, Part, Rows, Weights};

use crate::layouts::layout::find;
use crate::layouts::original::unet::D_HEAD;
use crate::layouts::original::unet_names::UNetNames;

/// How the names of the text tower begin.
const TEXT: [&str; 6] = [
    "token_embedding.",
    "positional_embedding",
    "padding_embedding",
    "transformer.",
    "final_ln.",
    "transformer_proj.",
];

/// Modules of a block of the text tower.
const BLOCK: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.c_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];

fn is_of_text(key: &str) -> bool {
    TEXT.iter().any(|prefix| key.starts_with(prefix))
}

/// The text tower of a file, without the U-Net.
///
/// # Errors
/// A fused matrix that does not consist of whole heads; a name that is given twice.
pub(super) fn text_encoder(weights: Weights) -> Result<Weights, LoadError> {
    weights.renamed(|key, _| {
        if !is_of_text(key) {
            return Vec::new();
        }
        block_parts(key).unwrap_or_else(|| vec![(key.into(), Part::default())])
    })
}

/// What a tensor of a block is; `None` for others.
fn block_parts(key: &str) -> Option<Vec<(String, Part)>> {
    let (module, leaf) = key.strip_prefix("transformer.resblocks.")?.rsplit_once('.')?;
    let (layer, module) = module.split_once('.')?;
    let block = format!("transformer.layers.{layer}");
    if module != "attn.c_qkv" {
        let module = find(&BLOCK, module)?;
        return Some(vec![(format!("{block}.{module}.{leaf}"), Part::default())]);
    }
    // queries, keys and values of the first head, then those of the second, and so on
    let third = |(index, name)| {
        let rows = Some(Rows { block: D_HEAD, index, of: 3 });
        (format!("{block}.self_attn.{name}_proj.{leaf}"), Part { rows, ..Part::default() })
    };
    Some(["q", "k", "v"].into_iter().enumerate().map(third).collect())
}

/// The U-Net of a file, without the text tower. What it does not have keeps its name, by which the
/// loader will refuse it.
///
/// # Errors
/// As [`text_encoder`].
pub(super) fn unet(weights: Weights, names: &UNetNames) -> Result<Weights, LoadError> {
    let weights = weights.renamed(|key, _| {
        if is_of_text(key) { Vec::new() } else { vec![(key.into(), Part::default())] }
    })?;
    names.rename(weights, &[("", "unet.")])
}

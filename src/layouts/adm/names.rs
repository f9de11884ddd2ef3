//! Names of the tensors of ADM's files.

use unclip_nn::checkpoint::{LoadError, Part, Rows, Weights};

use crate::layouts::original::unet_names::UNetNames;

/// Where a decoder keeps what it makes of a class.
pub(super) const CONDITIONER: &str = "unet.";

fn whole(name: String) -> Vec<(String, Part)> {
    vec![(name, Part::default())]
}

/// A U-Net, whose table of classes goes below this prefix. What it does not have keeps its name, by
/// which the loader will refuse it.
///
/// # Errors
/// A fused tensor that does not consist of whole heads; a name that is given twice.
pub(super) fn unet(
    weights: Weights,
    names: &UNetNames,
    of_classes: &str,
) -> Result<Weights, LoadError> {
    weights.renamed(|key, shape| match key {
        "label_emb.weight" => whole(format!("{of_classes}{key}")),
        _ => names.parts("unet.", key, shape).unwrap_or_else(|| whole(key.into())),
    })
}

/// A classifier.
///
/// # Errors
/// As [`unet`].
pub(super) fn classifier(weights: Weights, names: &UNetNames) -> Result<Weights, LoadError> {
    weights.renamed(|key, shape| {
        let parts = match key.strip_prefix("out.2.") {
            Some(key) => pool(key, shape),
            None => names.parts("encoder.", key, shape),
        };
        parts.unwrap_or_else(|| whole(key.into()))
    })
}

/// What a tensor of the attention that ends a classifier is.
fn pool(key: &str, shape: &[usize]) -> Option<Vec<(String, Part)>> {
    if key == "positional_embedding" {
        return Some(vec![(format!("pool.{key}"), Part { transposed: true, ..Part::default() })]);
    }
    let (module, leaf) = key.split_once('.')?;
    let matrix = |of: usize| match *shape {
        [rows, columns, 1] => Some(vec![rows / of, columns]),
        _ => None,
    };
    match module {
        "c_proj" => Some(vec![(
            format!("pool.c_proj.{leaf}"),
            Part { shape: matrix(1), ..Part::default() },
        )]),
        "qkv_proj" => {
            // all queries, then all keys, then all values
            let block = shape.first()? / 3;
            let third = |(index, name)| {
                let rows = Some(Rows { block, index, of: 3 });
                let part = Part { rows, shape: matrix(3), ..Part::default() };
                (format!("pool.to_{name}.{leaf}"), part)
            };
            Some(["q", "k", "v"].into_iter().enumerate().map(third).collect())
        }
        _ => None,
    }
}

//! Names of CLIP's tensors in files: Hugging Face's, OpenAI's and open_clip's.

use unclip_nn::checkpoint::{LoadError, Part, Rows, Weights};

use super::layout::find;

/// Whose names a file keeps CLIP under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// transformers': `text_model.`, `vision_model.`, and a projection beside each.
    HuggingFace,
    /// transformers' since version 5 of a text tower without a projection: not below anything.
    Bare,
    /// OpenAI's, which open_clip's `CLIP` has as well: the image tower below `visual.`, the text
    /// tower not below anything.
    OpenAi,
    /// That of open_clip's `CustomTextCLIP`: OpenAI's, with the text tower below `text.`.
    CustomText,
}

impl Names {
    /// Recognizes them.
    fn of(weights: &Weights) -> Option<Self> {
        let keys = weights.keys();
        let has = |prefixes: &[&str]| {
            keys.iter().any(|key| prefixes.iter().any(|prefix| key.starts_with(prefix)))
        };
        match () {
            () if has(&["text_model.", "vision_model."]) => Some(Self::HuggingFace),
            () if has(&BARE_TEXT) => Some(Self::Bare),
            () if has(&["text."]) => Some(Self::CustomText),
            () if has(&["transformer.resblocks.", "visual."]) => Some(Self::OpenAi),
            () => None,
        }
    }

    /// How the names of the text tower begin, and those of the image tower.
    fn towers(self) -> [&'static [&'static str]; 2] {
        match self {
            Self::HuggingFace => {
                [&["text_model.", "text_projection."], &["vision_model.", "visual_projection."]]
            }
            Self::Bare => [&BARE_TEXT, &[]],
            Self::OpenAi => [&OPEN_AI_TEXT, &["visual."]],
            Self::CustomText => [&["text."], &["visual."]],
        }
    }

    /// What a tensor is in Hugging Face's names.
    fn parts(self, key: &str, shape: &[usize]) -> Vec<(String, Part)> {
        let parts = match self {
            Self::HuggingFace => None,
            Self::Bare => Some(vec![(format!("text_model.{key}"), Part::default())]),
            Self::OpenAi => open_ai(key, shape),
            Self::CustomText => open_ai(key.strip_prefix("text.").unwrap_or(key), shape),
        };
        parts.unwrap_or_else(|| vec![(key.into(), Part::default())])
    }
}

/// The text tower of a file in any layout, which may hold the image tower as well, in Hugging
/// Face's names. What belongs to neither keeps its name, by which the loader will refuse it.
///
/// # Errors
/// A fused matrix that does not consist of thirds; a name that is given twice.
pub(super) fn text_tower(weights: Weights) -> Result<Weights, LoadError> {
    without(weights, 1)
}

/// The image tower of a file in any layout, as [`text_tower`]; no tensors if there is none.
///
/// # Errors
/// As [`text_tower`].
pub(super) fn image_tower(weights: Weights) -> Result<Weights, LoadError> {
    without(weights, 0)
}

/// What is left of a file without one of its towers.
fn without(weights: Weights, tower: usize) -> Result<Weights, LoadError> {
    let names = Names::of(&weights).unwrap_or(Names::HuggingFace);
    let left_out = names.towers()[tower];
    weights.renamed(|key, shape| {
        if is_constant(key) || left_out.iter().any(|prefix| key.starts_with(prefix)) {
            Vec::new()
        } else {
            names.parts(key, shape)
        }
    })
}

/// What stands beside the towers' weights: constants that some versions wrote down, and what only
/// the contrastive loss needs.
fn is_constant(key: &str) -> bool {
    const CONSTANTS: [&str; 7] = [
        "position_ids",
        "attn_mask",
        "logit_scale",
        "logit_bias",
        "input_resolution",
        "context_length",
        "vocab_size",
    ];
    CONSTANTS.contains(&key.rsplit('.').next().unwrap_or(key))
}

/// How the names of a bare text tower begin.
const BARE_TEXT: [&str; 3] = ["embeddings.", "encoder.", "final_layer_norm."];

/// How OpenAI's names of the text tower begin.
const OPEN_AI_TEXT: [&str; 5] =
    ["token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection"];

/// OpenAI's names outside the blocks.
const OPEN_AI: [(&str, &str); 11] = [
    ("token_embedding.weight", "text_model.embeddings.token_embedding.weight"),
    ("positional_embedding", "text_model.embeddings.position_embedding.weight"),
    ("ln_final.weight", "text_model.final_layer_norm.weight"),
    ("ln_final.bias", "text_model.final_layer_norm.bias"),
    ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"),
    ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    ("visual.ln_pre.weight", "vision_model.pre_layrnorm.weight"),
    ("visual.ln_pre.bias", "vision_model.pre_layrnorm.bias"),
    ("visual.ln_post.weight", "vision_model.post_layernorm.weight"),
    ("visual.ln_post.bias", "vision_model.post_layernorm.bias"),
];

/// OpenAI's matrices that are multiplied from the right: `[d_model, d_embedding]`.
const OPEN_AI_TRANSPOSED: [(&str, &str); 2] =
    [("text_projection", "text_projection.weight"), ("visual.proj", "visual_projection.weight")];

/// OpenAI's names in a block.
const OPEN_AI_BLOCK: [(&str, &str); 5] = [
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
];

/// What a tensor of OpenAI's layout is; `None` for names that the layout does not have.
fn open_ai(key: &str, shape: &[usize]) -> Option<Vec<(String, Part)>> {
    if let Some(new) = find(&OPEN_AI, key) {
        return Some(vec![(new.into(), Part::default())]);
    }
    if let Some(new) = find(&OPEN_AI_TRANSPOSED, key) {
        return Some(vec![(new.into(), Part { transposed: true, ..Part::default() })]);
    }
    let (tower, rest) = match key.strip_prefix("visual.") {
        Some(rest) => ("vision_model", rest),
        None => ("text_model", key),
    };
    let (layer, module) = rest.strip_prefix("transformer.resblocks.")?.split_once('.')?;
    let block = format!("{tower}.encoder.layers.{layer}");
    if let Some(leaf) = module.strip_prefix("attn.in_proj_") {
        return Some(thirds(&format!("{block}.self_attn"), leaf, shape));
    }
    let (module, leaf) = module.rsplit_once('.')?;
    let module = find(&OPEN_AI_BLOCK, module)?;
    Some(vec![(format!("{block}.{module}.{leaf}"), Part::default())])
}

/// Queries, keys and values, one after the other.
fn thirds(attention: &str, leaf: &str, shape: &[usize]) -> Vec<(String, Part)> {
    let block = shape.first().copied().unwrap_or_default() / 3;
    let third = |(index, name)| {
        let rows = Some(Rows { block, index, of: 3 });
        (format!("{attention}.{name}_proj.{leaf}"), Part { rows, ..Part::default() })
    };
    ["q", "k", "v"].into_iter().enumerate().map(third).collect()
}

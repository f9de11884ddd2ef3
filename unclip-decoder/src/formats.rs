//! Names of the decoder's tensors in files: diffusers', and those of Karlo's own code.

use unclip_nn::OriginalNames;
use unclip_nn::checkpoint::{KeyMap, LoadError, Part, Weights};

/// diffusers' names of the conditioner (its `text_proj`). Those of the U-Net need no renaming.
pub const DIFFUSERS: KeyMap = KeyMap::new(&[
    ("null_image", "learned_classifier_free_guidance_embeddings"),
    ("pooled_text_proj", "embedding_proj"),
    // before the image tokens, whose new name ends in "context_tokens_proj"
    ("text_tokens_proj", "encoder_hidden_states_proj"),
    ("text_tokens_norm", "text_encoder_hidden_states_norm"),
    ("image_tokens_proj", "clip_extra_context_tokens_proj"),
    ("image_proj", "clip_image_embeddings_project_to_time_embeddings"),
]);

/// Where Karlo's own code has the decoder in its file.
pub const ORIGINAL_PREFIX: &str = "model.";

/// The original's modules of the conditioner, which is part of its U-Net.
const ORIGINAL_TEXT_PROJ: [(&str, &str); 5] = [
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
pub fn original(weights: Weights, unet: &OriginalNames) -> Result<Weights, LoadError> {
    weights.renamed(|key, shape| {
        let inner = key.strip_prefix(ORIGINAL_PREFIX).unwrap_or(key);
        let name = match original_text_proj(inner) {
            Some(name) => Some(vec![(format!("text_proj.{name}"), Part::default())]),
            None => unet.parts("unet.", inner, shape),
        };
        name.unwrap_or_else(|| vec![(key.into(), Part::default())])
    })
}

/// A tensor of the original's conditioner in diffusers' names.
fn original_text_proj(key: &str) -> Option<String> {
    if key == "cf_param" {
        return Some("learned_classifier_free_guidance_embeddings".into());
    }
    let (module, leaf) = key.rsplit_once('.')?;
    let (_, module) = ORIGINAL_TEXT_PROJ.iter().find(|(from, _)| *from == module)?;
    Some(format!("{module}.{leaf}"))
}

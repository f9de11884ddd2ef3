//! Names of CLIP's tensors in files.

use unclip_nn::checkpoint::{KeyMap, LoadError, Part, Weights};

/// Hugging Face's names, which the shared transformer block does not speak by itself.
pub const HUGGING_FACE: KeyMap = KeyMap::new(&[
    ("attn.to_out", "self_attn.out_proj"),
    ("attn.to_", "self_attn."),
    ("self_attn.q.", "self_attn.q_proj."),
    ("self_attn.k.", "self_attn.k_proj."),
    ("self_attn.v.", "self_attn.v_proj."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".c_fc.", ".mlp.fc1."),
    (".c_proj.", ".mlp.fc2."),
]);

/// A tower as transformers writes it, without the constants that old versions wrote beside the
/// weights.
///
/// # Errors
/// None that the weights as they are would not give.
pub fn hugging_face(weights: Weights) -> Result<Weights, LoadError> {
    weights.renamed(|key, _| match key.ends_with(".position_ids") {
        true => Vec::new(),
        false => vec![(key.into(), Part::default())],
    })
}

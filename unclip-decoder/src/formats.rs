//! Names of the decoder's tensors in files.

use unclip_nn::checkpoint::KeyMap;

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

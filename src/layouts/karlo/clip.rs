//! Sizes of CLIP's towers, from their tensors under Hugging Face's names.

use unclip_clip::{Fit, ImageEncoderConfig, TextEncoderConfig, TextTower};
use unclip_nn::checkpoint::LoadError;
use unclip_nn::{Activation, LayerNorm, TransformerConfig};

use crate::layouts::original::shapes::Shapes;
use crate::layouts::original::unet::D_HEAD;

/// Mean of each channel over CLIP's training pictures (OpenAI, `clip.py`).
const MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
/// Their standard deviation.
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A tower whose width `key` tells. OpenAI's loader divides by 64 as well, the width of a head in
/// all its models.
fn tower(
    shapes: &Shapes<'_>,
    model: &str,
    key: &str,
    d_model: usize,
) -> Result<TransformerConfig, LoadError> {
    let layers = format!("{model}.encoder.layers.");
    let [d_hidden, _] = shapes.sides(&format!("{layers}0.mlp.fc1.weight"))?;
    Ok(TransformerConfig {
        d_model,
        n_layers: shapes.layers(&layers),
        n_heads: shapes.divide(key, d_model, D_HEAD, "the width of a head")?,
        d_hidden,
        activation: Activation::QuickGelu,
        norm_eps: LayerNorm::EPSILON,
    })
}

/// The text tower.
pub(super) fn text_encoder(shapes: &Shapes<'_>) -> Result<TextEncoderConfig, LoadError> {
    let embeddings = "text_model.embeddings";
    let key = format!("{embeddings}.token_embedding.weight");
    let [vocab_size, d_model] = shapes.sides(&key)?;
    let [context_length, _] = shapes.sides(&format!("{embeddings}.position_embedding.weight"))?;
    let [d_embedding, _] = shapes.sides("text_projection.weight")?;
    let transformer = tower(shapes, "text_model", &key, d_model)?;
    let logit_scale = TextEncoderConfig::MOST;
    let projected = true;
    Ok(TextEncoderConfig {
        vocab_size,
        context_length,
        d_embedding,
        tower: TextTower::Clip,
        projected,
        transformer,
        logit_scale,
    })
}

/// The image tower.
pub(super) fn image_encoder(
    shapes: &Shapes<'_>,
    fit: Fit,
) -> Result<ImageEncoderConfig, LoadError> {
    let embeddings = "vision_model.embeddings";
    let key = format!("{embeddings}.patch_embedding.weight");
    let [d_model, _, patch_size, _] = shapes.sides(&key)?;
    let positions = format!("{embeddings}.position_embedding.weight");
    let [tokens, _] = shapes.sides(&positions)?;
    let grid = tokens.saturating_sub(1).isqrt();
    if grid == 0 || grid * grid + 1 != tokens {
        let found = format!("a table of {tokens} positions");
        return Err(shapes.error(&positions, found, "a square number and one for the class"));
    }
    let [d_embedding, _] = shapes.sides("visual_projection.weight")?;
    Ok(ImageEncoderConfig {
        image_size: grid.saturating_mul(patch_size),
        patch_size,
        d_embedding,
        transformer: tower(shapes, "vision_model", &key, d_model)?,
        mean: MEAN,
        std: STD,
        fit,
    })
}

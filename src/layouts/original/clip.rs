//! OpenAI's CLIP in one file: its towers, and their sizes from its tensors.

use std::path::Path;

use unclip_clip::{Fit, ImageEncoderConfig, TextEncoderConfig, TextTower};
use unclip_nn::checkpoint::{LoadError, StageFiles};
use unclip_nn::{Activation, LayerNorm, TransformerConfig};

use super::shapes::Shapes;
use super::unet::D_HEAD;
use super::{stage, weights};
use crate::Error;
use crate::layouts::clip_names::{image_tower, text_tower};

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

/// The text tower of a file. With `unit_length`, its embeddings are of length 1.
pub(in crate::layouts) fn text_encoder(
    folder: &Path,
    name: &str,
    unit_length: bool,
) -> Result<StageFiles<TextEncoderConfig>, Error> {
    let weights = text_tower(weights(folder, name)?)?;
    let config = text_config(&Shapes::of(&weights, ""))?;
    stage(TextEncoderConfig { unit_length, ..config }, weights)
}

/// The image tower of a file, if it is there.
pub(in crate::layouts) fn image_encoder(
    folder: &Path,
    name: &str,
    fit: Fit,
    unit_length: bool,
) -> Result<Option<StageFiles<ImageEncoderConfig>>, Error> {
    let weights = image_tower(weights(folder, name)?)?;
    let of_images = |key: &String| key.starts_with("vision_model.") || key.starts_with("visual");
    if !weights.keys().iter().any(of_images) {
        return Ok(None);
    }
    let config = image_config(&Shapes::of(&weights, ""), fit)?;
    stage(ImageEncoderConfig { unit_length, ..config }, weights).map(Some)
}

fn text_config(shapes: &Shapes<'_>) -> Result<TextEncoderConfig, LoadError> {
    let embeddings = "text_model.embeddings";
    let key = format!("{embeddings}.token_embedding.weight");
    let [vocab_size, d_model] = shapes.sides(&key)?;
    let [context_length, _] = shapes.sides(&format!("{embeddings}.position_embedding.weight"))?;
    let [d_embedding, _] = shapes.sides("text_projection.weight")?;
    let transformer = tower(shapes, "text_model", &key, d_model)?;
    let logit_scale = TextEncoderConfig::MOST;
    let projected = true;
    Ok(TextEncoderConfig {
        unit_length: false,
        padding: None,
        vocab_size,
        context_length,
        d_embedding,
        tower: TextTower::Clip,
        projected,
        transformer,
        logit_scale,
    })
}

fn image_config(shapes: &Shapes<'_>, fit: Fit) -> Result<ImageEncoderConfig, LoadError> {
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
        unit_length: false,
        image_size: grid.saturating_mul(patch_size),
        patch_size,
        d_embedding,
        transformer: tower(shapes, "vision_model", &key, d_model)?,
        mean: MEAN,
        std: STD,
        fit,
    })
}

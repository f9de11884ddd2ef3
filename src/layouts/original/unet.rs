//! Sizes of a U-Net, from its tensors and from what no shape tells.

use unclip_core::VarianceType;
use unclip_core::image::PICTURE_CHANNELS;
use unclip_nn::checkpoint::LoadError;
use unclip_nn::{
    Activation, AttentionKind, LayerNorm, ResampleKind, TransformerConfig, UNetConfig,
};

use super::shapes::Shapes;
use super::unet_names::{Heads, UNetNames};

/// Channels of an attention head: `num_head_channels` of the U-Nets; in their transformers, the width
/// by the number of heads.
pub(in crate::layouts) const D_HEAD: usize = 64;
/// Groups of every norm of the U-Nets.
const NORM_GROUPS: usize = 32;
/// What every norm of the U-Nets adds to a variance: PyTorch's default.
const NORM_EPSILON: f64 = 1e-5;

/// A U-Net gives a variance if it gives twice the channels.
pub(in crate::layouts) fn variance(unet: &UNetConfig) -> VarianceType {
    if unet.out_channels == 2 * PICTURE_CHANNELS {
        VarianceType::LearnedRange
    } else {
        VarianceType::FixedSmall
    }
}

/// Attention whose heads have [`D_HEAD`] channels.
pub(in crate::layouts) const HEADS: Heads = Heads::Width(D_HEAD);

/// The transformer of a file, whose width the tensor `key` tells.
pub(in crate::layouts) fn transformer(
    shapes: &Shapes<'_>,
    key: &str,
    d_model: usize,
) -> Result<TransformerConfig, LoadError> {
    let [d_hidden, _] = shapes.sides("transformer.resblocks.0.mlp.c_fc.weight")?;
    Ok(TransformerConfig {
        d_model,
        n_layers: shapes.layers("transformer.resblocks."),
        n_heads: shapes.divide(key, d_model, D_HEAD, "the width of a head")?,
        d_hidden,
        activation: Activation::Gelu,
        norm_eps: LayerNorm::EPSILON,
    })
}

/// A U-Net for pictures of this side.
pub(in crate::layouts) fn unet(
    shapes: &Shapes<'_>,
    names: &UNetNames,
    image_size: usize,
) -> Result<UNetConfig, LoadError> {
    let [out_channels, ..] = shapes.sides::<4>("out.2.weight")?;
    Ok(UNetConfig { out_channels, ..encoder(shapes, names, image_size)? })
}

/// The first half of a U-Net: one that gives as many channels as it takes.
pub(in crate::layouts) fn encoder(
    shapes: &Shapes<'_>,
    names: &UNetNames,
    image_size: usize,
) -> Result<UNetConfig, LoadError> {
    let block = |level| format!("input_blocks.{}", names.first_input_block(level));
    let levels = 0..names.n_levels;
    let block_out_channels: Result<Vec<usize>, LoadError> =
        levels.clone().map(|level| channels(shapes, &block(level))).collect();
    let attention = levels.filter(|&level| shapes.has(&format!("{}.1.qkv.weight", block(level))));
    let d_context = if shapes.has("middle_block.1.encoder_kv.weight") {
        Some(shapes.sides::<3>("middle_block.1.encoder_kv.weight")?[1])
    } else {
        None
    };
    let [outer, in_channels, ..] = shapes.sides::<4>("input_blocks.0.0.weight")?;
    let [d_time, d_sinusoid] = shapes.sides("time_embed.0.weight")?;
    Ok(UNetConfig {
        image_size,
        in_channels,
        out_channels: in_channels,
        num_res_blocks: names.num_res_blocks,
        attention_resolutions: attention
            .map(|level| image_size.checked_shr(level as u32).unwrap_or(0))
            .collect(),
        block_out_channels: block_out_channels?,
        d_head: names.heads.width().unwrap_or(D_HEAD),
        n_heads: names.heads.number(),
        d_context,
        norm_groups: NORM_GROUPS,
        scale_shift: scale_shift(shapes, &block(0))?,
        coordinates: false,
        patch_size: 1,
        d_time: Some(d_time).filter(|&d_time| d_time != outer.saturating_mul(4)),
        d_sinusoid: Some(d_sinusoid).filter(|&n| n != outer),
        attention: AttentionKind::Added,
        resampling: ResampleKind::Residual,
        norm_eps: NORM_EPSILON,
    })
}

/// Channels that a residual block gives.
fn channels(shapes: &Shapes<'_>, block: &str) -> Result<usize, LoadError> {
    let [channels, ..] = shapes.sides::<4>(&format!("{block}.0.out_layers.3.weight"))?;
    Ok(channels)
}

/// Whether the timestep scales and shifts, for which its projection is twice as wide.
fn scale_shift(shapes: &Shapes<'_>, block: &str) -> Result<bool, LoadError> {
    let channels = channels(shapes, block)?;
    let key = format!("{block}.0.emb_layers.1.weight");
    let [d_time, _] = shapes.sides(&key)?;
    match d_time {
        d if d == channels => Ok(false),
        d if d == channels.saturating_mul(2) => Ok(true),
        d => {
            let found = format!("a tensor of the width {d}");
            Err(shapes.error(&key, found, &format!("{channels} or twice that")))
        }
    }
}

//! Sizes of the prior and the U-Nets, from their tensors and from what Karlo published.

use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{Ddpm, DiffusionConfig, Parameterization, VarianceType};
use unclip_decoder::{CaptionKind, DecoderConfig};
use unclip_nn::checkpoint::LoadError;
use unclip_nn::{
    Activation, AttentionKind, LayerNorm, ResampleKind, TransformerConfig, UNetConfig,
};
use unclip_prior::DiffusionPriorConfig;
use unclip_upsample::UpsamplerConfig;

use super::shapes::Shapes;
use super::unet_names::UNetNames;

// What no shape tells, from the configurations (YAML) and the source of kakaobrain/karlo.

/// Channels of an attention head: `xf_width` 2048 by `xf_heads` 32 in the prior,
/// `num_head_channels` in the decoder.
pub(super) const D_HEAD: usize = 64;
/// Groups of every norm of the U-Nets.
const NORM_GROUPS: usize = 32;
/// What every norm of the U-Nets adds to a variance: PyTorch's default.
const NORM_EPSILON: f64 = 1e-5;
/// `image_size` of the decoder.
pub(super) const DECODER_SIDE: usize = 64;
/// From 64 to 256 pixels.
pub(super) const FACTOR: usize = 4;
/// `num_timesteps` of every stage.
const TIMESTEPS: usize = 1000;
/// Largest magnitude that the prior's sampling loop leaves to a prediction. diffusers has 5.
const PRIOR_CLAMP: f64 = 10.0;
/// Range of a picture's values.
const PIXEL_CLAMP: f64 = 1.0;
/// Steps and guidance scale of the sampler's `fast` configuration.
const PRIOR_SAMPLING: (usize, f64) = (25, 4.0);
const DECODER_SAMPLING: (usize, f64) = (25, 8.0);
const UPSAMPLER_SAMPLING: (usize, f64) = (7, 1.0);

fn diffusion(
    parameterization: Parameterization,
    variance: VarianceType,
    clamp: f64,
    (steps, guidance_scale): (usize, f64),
) -> DiffusionConfig {
    DiffusionConfig {
        num_train_timesteps: TIMESTEPS,
        variance,
        clamp: Some(clamp),
        sampler: Ddpm.into(),
        steps,
        guidance_scale,
        ..DiffusionConfig::cosine(parameterization)
    }
}

/// A U-Net gives a variance if it gives twice the channels.
fn variance(unet: &UNetConfig) -> VarianceType {
    if unet.out_channels == 2 * PICTURE_CHANNELS {
        VarianceType::LearnedRange
    } else {
        VarianceType::FixedSmall
    }
}

/// The prior.
pub(super) fn prior(shapes: &Shapes<'_>) -> Result<DiffusionPriorConfig, LoadError> {
    let positions = "positional_embedding";
    let [_, seq, d_model] = shapes.sides(positions)?;
    let [d_embedding, _] = shapes.sides("out_proj.weight")?;
    let [_, d_text] = shapes.sides("text_enc_proj.weight")?;
    let [d_hidden, _] = shapes.sides("transformer.resblocks.0.mlp.c_fc.weight")?;
    let (x_0, variance) = (Parameterization::Sample, VarianceType::FixedSmall);
    Ok(DiffusionPriorConfig {
        d_embedding,
        d_text,
        context_length: seq.saturating_sub(DiffusionPriorConfig::EXTRA_TOKENS),
        principal_components: false,
        transformer: TransformerConfig {
            d_model,
            n_layers: shapes.layers("transformer.resblocks."),
            n_heads: shapes.divide(positions, d_model, D_HEAD, "the width of a head")?,
            d_hidden,
            activation: Activation::Gelu,
            norm_eps: LayerNorm::EPSILON,
        },
        diffusion: diffusion(x_0, variance, PRIOR_CLAMP, PRIOR_SAMPLING),
    })
}

/// The decoder.
pub(super) fn decoder(shapes: &Shapes<'_>, names: &UNetNames) -> Result<DecoderConfig, LoadError> {
    let unet = unet(shapes, names, DECODER_SIDE)?;
    let [d_context, d_text] = shapes.sides("text_seq_proj.0.weight")?;
    let tokens = "clip_tok_proj.weight";
    let [d_tokens, d_embedding] = shapes.sides(tokens)?;
    let epsilon = Parameterization::Epsilon;
    Ok(DecoderConfig {
        d_embedding,
        channels: PICTURE_CHANNELS,
        d_text: Some(d_text),
        image_tokens: shapes.divide(tokens, d_tokens, d_context, "the width of a token")?,
        whitened: false,
        layout: None,
        captions: CaptionKind::default(),
        augmentation: None,
        control: None,
        diffusion: diffusion(epsilon, variance(&unet), PIXEL_CLAMP, DECODER_SAMPLING),
        unet,
    })
}

/// The upsampler, with the second network for its last step.
pub(super) fn upsampler(unet: UNetConfig) -> UpsamplerConfig {
    let epsilon = Parameterization::Epsilon;
    UpsamplerConfig {
        factor: FACTOR,
        last_step_network: true,
        residual: false,
        diffusion: diffusion(epsilon, variance(&unet), PIXEL_CLAMP, UPSAMPLER_SAMPLING),
        unet,
    }
}

/// A U-Net for pictures of this side.
pub(super) fn unet(
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
    let [out_channels, ..] = shapes.sides::<4>("out.2.weight")?;
    let [d_time, _] = shapes.sides("time_embed.0.weight")?;
    Ok(UNetConfig {
        image_size,
        in_channels,
        out_channels,
        num_res_blocks: names.num_res_blocks,
        attention_resolutions: attention
            .map(|level| image_size.checked_shr(level as u32).unwrap_or(0))
            .collect(),
        block_out_channels: block_out_channels?,
        d_head: names.d_head,
        d_context,
        norm_groups: NORM_GROUPS,
        scale_shift: scale_shift(shapes, &block(0))?,
        coordinates: false,
        patch_size: 1,
        d_time: Some(d_time).filter(|&d_time| d_time != outer.saturating_mul(4)),
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

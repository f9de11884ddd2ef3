//! Sizes of the prior and the U-Nets, from their tensors and from what Karlo published.

use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{Ddpm, DiffusionConfig, Parameterization, VarianceType};
use unclip_decoder::{CaptionKind, DecoderConfig};
use unclip_nn::UNetConfig;
use unclip_nn::checkpoint::LoadError;
use unclip_prior::DiffusionPriorConfig;
use unclip_upsample::UpsamplerConfig;

use crate::layouts::original::shapes::Shapes;
use crate::layouts::original::unet::{transformer, unet, variance};
use crate::layouts::original::unet_names::UNetNames;

// What no shape tells, from the configurations (YAML) and the source of kakaobrain/karlo.

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

/// The prior.
pub(super) fn prior(shapes: &Shapes<'_>) -> Result<DiffusionPriorConfig, LoadError> {
    let positions = "positional_embedding";
    let [_, seq, d_model] = shapes.sides(positions)?;
    let [d_embedding, _] = shapes.sides("out_proj.weight")?;
    let [_, d_text] = shapes.sides("text_enc_proj.weight")?;
    let (x_0, variance) = (Parameterization::Sample, VarianceType::FixedSmall);
    Ok(DiffusionPriorConfig {
        laion: None,
        d_embedding,
        d_text,
        context_length: seq.saturating_sub(DiffusionPriorConfig::EXTRA_TOKENS),
        principal_components: false,
        transformer: transformer(shapes, positions, d_model)?,
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
        unet: unet.into(),
    })
}

/// The upsampler, with the second network for its last step.
pub(super) fn upsampler(unet: UNetConfig) -> UpsamplerConfig {
    let epsilon = Parameterization::Epsilon;
    let diffusion = diffusion(epsilon, variance(&unet), PIXEL_CLAMP, UPSAMPLER_SAMPLING);
    UpsamplerConfig { last_step_network: true, ..UpsamplerConfig::new(FACTOR, unet, diffusion) }
}

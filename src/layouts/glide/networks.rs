//! Sizes of GLIDE's networks, from their tensors and from what GLIDE published.

use unclip_clip::{TextEncoderConfig, TextTower};
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{
    BetaSchedule, Ddim, Ddpm, DiffusionConfig, Parameterization, SamplerKind, Spacing,
};
use unclip_decoder::{CaptionKind, Control, DecoderConfig};
use unclip_nn::UNetConfig;
use unclip_nn::checkpoint::LoadError;
use unclip_upsample::{Resize, Rounding, UpsamplerConfig};

use crate::layouts::original::shapes::Shapes;
use crate::layouts::original::unet::{transformer, variance};

// What no shape tells, from the source and the notebooks of openai/glide-text2im.

/// `image_size` of the base.
pub(super) const BASE_SIDE: usize = 64;
/// From 64 to 256 pixels.
pub(super) const FACTOR: usize = 4;
/// `timestep_respacing` of the base.
const BASE_STEPS: usize = 100;
/// `guidance_scale` of the notebooks, for captions and for parts of pictures.
const GUIDANCE: [f64; 2] = [3.0, 5.0];
/// `upsample_temp` of both.
const TEMPERATURE: f64 = 0.997;
/// `fast27`, the `timestep_respacing` of the upsampler: the paper's 27 steps, of which the noisiest is
/// 997.
const FAST_27: [usize; 27] = [
    0, 22, 44, 66, 88, 111, 133, 155, 177, 199, 200, 222, 244, 266, 288, 311, 333, 355, 377, 399,
    400, 500, 599, 600, 799, 800, 997,
];

/// The text tower of a file.
pub(super) fn text_encoder(shapes: &Shapes<'_>) -> Result<TextEncoderConfig, LoadError> {
    let positions = "positional_embedding";
    let [context_length, d_model] = shapes.sides(positions)?;
    let [vocab_size, _] = shapes.sides("token_embedding.weight")?;
    let [d_embedding, _] = shapes.sides("transformer_proj.weight")?;
    Ok(TextEncoderConfig {
        unit_length: false,
        padding: None,
        vocab_size,
        context_length,
        tower: TextTower::Glide,
        d_embedding,
        projected: true,
        transformer: transformer(shapes, positions, d_model)?,
        logit_scale: TextEncoderConfig::MOST,
    })
}

/// The base.
pub(super) fn decoder(unet: UNetConfig, text: &TextEncoderConfig) -> DecoderConfig {
    let is_inpainting = unet.in_channels != PICTURE_CHANNELS;
    DecoderConfig {
        channels: PICTURE_CHANNELS,
        d_embedding: text.d_embedding,
        d_text: Some(text.transformer.d_model),
        captions: CaptionKind::Alone,
        image_tokens: 0,
        whitened: false,
        layout: None,
        augmentation: None,
        control: is_inpainting.then_some(Control::Kept),
        diffusion: DiffusionConfig {
            variance: variance(&unet),
            sampler: Ddpm.into(),
            steps: BASE_STEPS,
            guidance_scale: GUIDANCE[usize::from(is_inpainting)],
            ..DiffusionConfig::cosine(Parameterization::Epsilon)
        },
        unet: unet.into(),
    }
}

/// The upsampler.
pub(super) fn upsampler(unet: UNetConfig, text: &TextEncoderConfig) -> UpsamplerConfig {
    let is_inpainting = unet.in_channels != 2 * PICTURE_CHANNELS;
    // the notebook of parts of pictures draws noise in every step, that of captions does not
    let sampler: SamplerKind = if is_inpainting { Ddpm.into() } else { Ddim { eta: 0.0 }.into() };
    let diffusion = DiffusionConfig {
        beta_schedule: BetaSchedule::Linear { start: 1e-4, end: 0.02 },
        variance: variance(&unet),
        sampler,
        steps: FAST_27.len(),
        spacing: Spacing::Given(FAST_27.to_vec()),
        temperature: TEMPERATURE,
        ..DiffusionConfig::cosine(Parameterization::Epsilon)
    };
    UpsamplerConfig {
        resize: Resize::Bilinear,
        rounding: Some(Rounding::Nearest),
        d_text: Some(text.transformer.d_model),
        kept: is_inpainting,
        ..UpsamplerConfig::new(FACTOR, unet, diffusion)
    }
}

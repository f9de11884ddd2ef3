//! The sizes and settings of the bundled shapes model.

use unclip_clip::{
    Fit, ImageEncoderConfig, NoisedImageEncoderConfig, TextEncoderConfig, TextTower,
};
use unclip_core::{Ddpm, DiffusionConfig, Parameterization};
use unclip_decoder::{CaptionKind, DecoderConfig, LayoutConfig};
use unclip_nn::{Activation, AttentionKind, ResampleKind, TransformerConfig, UNetConfig};
use unclip_prior::{ArPriorConfig, DiffusionPriorConfig};
use unclip_upsample::{Resize, UpsamplerConfig};

/// Steps of each stage.
pub const CLIP_STEPS: u64 = 3_000;
/// See [`CLIP_STEPS`].
pub const PRIOR_STEPS: u64 = 8_000;
/// See [`CLIP_STEPS`].
pub const AR_PRIOR_STEPS: u64 = 6_000;
/// See [`CLIP_STEPS`].
pub const NOISED_STEPS: u64 = 4_000;
/// See [`CLIP_STEPS`].
pub const DECODER_STEPS: u64 = 30_000;
/// See [`CLIP_STEPS`].
pub const UPSAMPLER_STEPS: u64 = 6_000;
/// Side of the decoder's pictures.
pub const DECODER_SIDE: u32 = 32;
/// Side of the pictures that CLIP sees: what shape a small object has is hard to tell at
/// [`DECODER_SIDE`].
pub const CLIP_SIDE: usize = 64;
/// Positions of a caption; the longest of the shapes world has 21 tokens.
pub const CONTEXT_LENGTH: usize = 24;
/// Width of CLIP's space.
const D_EMBEDDING: usize = 96;
/// Width of CLIP's towers.
const D_CLIP: usize = 96;

fn tower(n_layers: usize) -> TransformerConfig {
    TransformerConfig {
        d_model: D_CLIP,
        n_layers,
        n_heads: 4,
        d_hidden: 4 * D_CLIP,
        activation: Activation::QuickGelu,
        norm_eps: 1e-5,
    }
}

/// CLIP's text tower.
pub fn text_encoder(vocab_size: usize) -> TextEncoderConfig {
    TextEncoderConfig {
        unit_length: false,
        padding: None,
        vocab_size,
        context_length: CONTEXT_LENGTH,
        d_embedding: D_EMBEDDING,
        tower: TextTower::Clip,
        projected: true,
        transformer: tower(2),
        logit_scale: TextEncoderConfig::MOST,
    }
}

/// CLIP's image tower.
pub fn image_encoder() -> ImageEncoderConfig {
    ImageEncoderConfig {
        unit_length: false,
        image_size: CLIP_SIDE,
        patch_size: 8,
        d_embedding: D_EMBEDDING,
        transformer: tower(4),
        mean: [0.5; 3],
        std: [0.4; 3],
        fit: Fit::Crop,
    }
}

/// CLIP's image tower for noised pictures of the decoder.
pub fn noised_image_encoder() -> NoisedImageEncoderConfig {
    NoisedImageEncoderConfig {
        image_size: DECODER_SIDE as usize,
        patch_size: 4,
        d_embedding: D_EMBEDDING,
        transformer: tower(4),
    }
}

fn diffusion(kind: Parameterization, guidance_scale: f64) -> DiffusionConfig {
    DiffusionConfig { guidance_scale, ..DiffusionConfig::cosine(kind) }
}

/// The diffusion prior.
pub fn prior() -> DiffusionPriorConfig {
    DiffusionPriorConfig {
        laion: None,
        d_embedding: D_EMBEDDING,
        d_text: D_CLIP,
        context_length: CONTEXT_LENGTH,
        principal_components: true,
        transformer: TransformerConfig {
            d_model: 128,
            n_layers: 3,
            n_heads: 4,
            d_hidden: 512,
            activation: Activation::Gelu,
            norm_eps: 1e-5,
        },
        diffusion: DiffusionConfig {
            clamp: Some(5.0),
            sampler: Ddpm.into(),
            ..diffusion(Parameterization::Sample, 2.0)
        },
    }
}

/// The autoregressive prior. The components that it leaves out hold 0.2 % of the variance.
pub fn ar_prior() -> ArPriorConfig {
    ArPriorConfig {
        d_embedding: D_EMBEDDING,
        d_text: D_CLIP,
        context_length: CONTEXT_LENGTH,
        n_codes: 40,
        n_buckets: 64,
        n_similarities: 16,
        transformer: TransformerConfig {
            d_model: 64,
            n_layers: 4,
            n_heads: 4,
            d_hidden: 256,
            activation: Activation::Gelu,
            norm_eps: 1e-5,
        },
        guidance_scale: 1.0,
    }
}

/// Channels of the decoder's layout.
const LAYOUT_CHANNELS: usize = 4;

/// The decoder at 32 pixels.
pub fn decoder() -> DecoderConfig {
    DecoderConfig {
        d_embedding: D_EMBEDDING,
        channels: 3,
        d_text: Some(D_CLIP),
        image_tokens: 4,
        whitened: true,
        layout: Some(LayoutConfig { side: 16, channels: LAYOUT_CHANNELS, d_hidden: 192 }),
        captions: CaptionKind::default(),
        augmentation: None,
        control: None,
        unet: UNetConfig {
            image_size: DECODER_SIDE as usize,
            in_channels: 3 + LAYOUT_CHANNELS,
            out_channels: 3,
            block_out_channels: vec![40, 80],
            num_res_blocks: 1,
            attention_resolutions: vec![16, 8],
            d_head: 40,
            d_context: Some(D_CLIP),
            norm_groups: 8,
            scale_shift: true,
            coordinates: true,
            patch_size: 2,
            d_time: Some(160),
            n_heads: None,
            d_sinusoid: None,
            attention: AttentionKind::Added,
            resampling: ResampleKind::Residual,
            norm_eps: 1e-5,
        }
        .into(),
        diffusion: DiffusionConfig {
            sampler: Ddpm.into(),
            steps: 50,
            ..diffusion(Parameterization::V, 1.0)
        },
    }
}

/// The upsamplers, from 32 to 128 and from 128 to 512 pixels.
///
/// Where a group of a norm has one channel, the norm removes the picture's mean color, and white
/// becomes gray: all channels are one group. The networks work on patches, which gives them width
/// where a picture of 512 pixels leaves no time for it.
pub fn upsamplers() -> [UpsamplerConfig; 2] {
    let sizes = [(vec![32, 48], 2), (vec![24, 32], 4)];
    sizes.map(|(block_out_channels, patch_size)| UpsamplerConfig {
        factor: 4,
        last_step_network: false,
        residual: true,
        resize: Resize::Bicubic,
        rounding: None,
        classes: None,
        d_text: None,
        kept: false,
        unet: UNetConfig {
            image_size: 128,
            in_channels: 6,
            out_channels: 3,
            block_out_channels,
            num_res_blocks: 1,
            attention_resolutions: vec![],
            d_head: 8,
            d_context: None,
            norm_groups: 1,
            scale_shift: false,
            coordinates: false,
            patch_size,
            d_time: Some(64),
            n_heads: None,
            d_sinusoid: None,
            attention: AttentionKind::Added,
            resampling: ResampleKind::Residual,
            norm_eps: 1e-5,
        }
        .into(),
        diffusion: DiffusionConfig { steps: 4, ..diffusion(Parameterization::Sample, 1.0) },
    })
}

/// The share of pictures that are worn before CLIP sees them.
pub const WORN: f64 = 0.5;

/// Side of the small crops on which an upsampler is trained.
pub const LOW_CROP: u32 = 16;

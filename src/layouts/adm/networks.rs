//! Sizes of ADM's networks, from their tensors and from what ADM published.

use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{BetaSchedule, Ddpm, DiffusionConfig, Parameterization};
use unclip_decoder::{CaptionKind, ClassifierConfig, DecoderConfig};
use unclip_nn::UNetConfig;
use unclip_nn::checkpoint::LoadError;
use unclip_upsample::{Resize, Rounding, UpsamplerConfig};

use crate::layouts::original::shapes::Shapes;
use crate::layouts::original::unet::{D_HEAD, encoder, variance};
use crate::layouts::original::unet_names::{Heads, UNetNames};

// What no shape tells, from the README and the source of openai/guided-diffusion.

/// `--noise_schedule linear` of 1,000 steps.
const LINEAR: BetaSchedule = BetaSchedule::Linear { start: 1e-4, end: 0.02 };
/// `--timestep_respacing` of models of classes and of upsamplers, and of LSUN's.
const STEPS: [usize; 2] = [250, 1000];
/// Channels of a head, `--num_head_channels 64`.
const OF_64: Heads = Heads::Width(D_HEAD);
/// `--num_heads 4`.
const FOUR: Heads = Heads::Number(4);

/// A published file that draws: its side, its attention heads, its schedule, its number of steps, and
/// the `--classifier_scale` of the classifier of its size.
pub(super) struct Drawing {
    pub(super) name: &'static str,
    pub(super) side: usize,
    pub(super) heads: Heads,
    schedule: BetaSchedule,
    steps: usize,
    /// Whether it was trained on ImageNet, whose classes the classifiers know.
    pub(super) classified: bool,
    scale: f64,
}

/// Sides of pictures for which there is a classifier.
pub(super) const CLASSIFIED: [usize; 4] = [64, 128, 256, 512];

const fn drawing(name: &'static str, side: usize, scale: f64, steps: usize) -> Drawing {
    Drawing { name, side, heads: OF_64, schedule: LINEAR, steps, classified: true, scale }
}

const fn lsun(name: &'static str) -> Drawing {
    Drawing { classified: false, ..drawing(name, 256, 1.0, STEPS[1]) }
}

pub(super) const DRAWING: [Drawing; 9] = [
    Drawing {
        schedule: BetaSchedule::SquaredCosine,
        heads: Heads::Whole(D_HEAD),
        ..drawing("64x64_diffusion", 64, 1.0, STEPS[0])
    },
    Drawing { heads: FOUR, ..drawing("128x128_diffusion", 128, 0.5, STEPS[0]) },
    drawing("256x256_diffusion", 256, 1.0, STEPS[0]),
    drawing("256x256_diffusion_uncond", 256, 10.0, STEPS[0]),
    drawing("512x512_diffusion", 512, 4.0, STEPS[0]),
    lsun("lsun_bedroom"),
    lsun("lsun_cat"),
    lsun("lsun_horse"),
    lsun("lsun_horse_nodropout"),
];

/// A published upsampler.
pub(super) struct UpsamplingOf {
    pub(super) name: &'static str,
    pub(super) from: usize,
    pub(super) factor: usize,
    pub(super) heads: Heads,
}

pub(super) const UPSAMPLING: [UpsamplingOf; 2] = [
    UpsamplingOf { name: "64_256_upsampler", from: 64, factor: 4, heads: FOUR },
    UpsamplingOf { name: "128_512_upsampler", from: 128, factor: 4, heads: OF_64 },
];

fn diffusion(schedule: BetaSchedule, steps: usize, unet: &UNetConfig) -> DiffusionConfig {
    DiffusionConfig {
        beta_schedule: schedule,
        variance: variance(unet),
        sampler: Ddpm.into(),
        steps,
        ..DiffusionConfig::cosine(Parameterization::Epsilon)
    }
}

/// Number of classes that a U-Net is told of; 0 of one that is told nothing.
fn classes(shapes: &Shapes<'_>) -> Result<usize, LoadError> {
    const TABLE: &str = "label_emb.weight";
    if shapes.has(TABLE) { Ok(shapes.sides::<2>(TABLE)?[0]) } else { Ok(0) }
}

/// The U-Net of pictures.
pub(super) fn decoder(
    of: &Drawing,
    shapes: &Shapes<'_>,
    unet: UNetConfig,
) -> Result<DecoderConfig, LoadError> {
    Ok(DecoderConfig {
        channels: PICTURE_CHANNELS,
        d_embedding: unet.d_embedding(),
        d_text: None,
        captions: CaptionKind::Classes(classes(shapes)?),
        image_tokens: 0,
        whitened: false,
        layout: None,
        augmentation: None,
        control: None,
        diffusion: diffusion(of.schedule, of.steps, &unet),
        unet: unet.into(),
    })
}

/// How the blocks of a classifier are numbered. Its levels have one name for all blocks: how many there
/// are is known from the pixels that its last attention sees.
pub(super) fn encoder_names(shapes: &Shapes<'_>, side: usize) -> Result<UNetNames, LoadError> {
    const SEEN: &str = "out.2.positional_embedding";
    let [_, tokens] = shapes.sides(SEEN)?;
    let inner = tokens.saturating_sub(1).isqrt();
    let blocks = shapes.layers("input_blocks.");
    let factor = side.checked_div(inner).unwrap_or(0);
    let n_levels = if factor.is_power_of_two() { factor.ilog2() as usize + 1 } else { 0 };
    let is_whole = inner * inner + 1 == tokens && factor * inner == side && n_levels > 0;
    if is_whole && blocks > n_levels && blocks.is_multiple_of(n_levels) {
        return Ok(UNetNames { n_levels, num_res_blocks: blocks / n_levels - 1, heads: OF_64 });
    }
    let found = format!("{tokens} positions after {blocks} blocks");
    Err(shapes.error(SEEN, found, &format!("levels of equally many blocks for {side} pixels")))
}

/// The classifier of the pictures' size.
pub(super) fn classifier(
    of: &Drawing,
    shapes: &Shapes<'_>,
    names: &UNetNames,
) -> Result<ClassifierConfig, LoadError> {
    let [classes, _, _] = shapes.sides("out.2.c_proj.weight")?;
    Ok(ClassifierConfig { classes, scale: of.scale, unet: encoder(shapes, names, of.side)? })
}

/// The upsampler.
pub(super) fn upsampler(
    of: &UpsamplingOf,
    shapes: &Shapes<'_>,
    unet: UNetConfig,
) -> Result<UpsamplerConfig, LoadError> {
    let diffusion = diffusion(LINEAR, STEPS[0], &unet);
    Ok(UpsamplerConfig {
        resize: Resize::Bilinear,
        rounding: Some(Rounding::Down),
        classes: Some(classes(shapes)?).filter(|&classes| classes > 0),
        ..UpsamplerConfig::new(of.factor, unet, diffusion)
    })
}

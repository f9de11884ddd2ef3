//! The options of stages.

use clap::{Args, ValueEnum};
use unclip::{ClipGuidance, SamplerKind, Spacing, StageOptions};

/// How samplers are spelled, for help texts.
pub(crate) const SAMPLERS: &str = "ddpm, ddim, ddim:ETA, dpm_solver, dpm_solver:published or heun";
/// The same of spacings.
pub(crate) const SPACINGS: &str = "Timesteps of the steps: even, leading, leading:OFFSET, \
    trailing, log_snr, steps of each part as in 10,10,3,2,2, or at:0,250,999";

/// The options of a guided stage, whose names begin with the stage's.
macro_rules! guided_stage {
    ($Arguments:ident, $stage:literal) => {
        /// Options of the stage.
        #[derive(Debug, clap::Args)]
        pub(crate) struct $Arguments {
            #[arg(long = concat!($stage, "-steps"), id = concat!($stage, "-steps"))]
            #[arg(value_name = "N", help = concat!("Reverse steps of the ", $stage))]
            steps: Option<usize>,
            #[arg(long = concat!($stage, "-guidance"), id = concat!($stage, "-guidance"))]
            #[arg(value_name = "SCALE", allow_negative_numbers = true)]
            #[arg(help = concat!("How far the ", $stage, " follows its condition; 1 is no guidance"))]
            guidance: Option<f64>,
            #[arg(long = concat!($stage, "-guidance-range"), id = concat!($stage, "-range"))]
            #[arg(value_name = "FROM..TO")]
            #[arg(help = "Training timesteps at which guidance acts, as in 200..800 [default: all]")]
            range: Option<unclip::TimestepRange>,
            #[arg(long = concat!($stage, "-sampler"), id = concat!($stage, "-sampler"))]
            #[arg(value_name = "NAME", help = crate::pictures::stages::SAMPLERS)]
            sampler: Option<unclip::SamplerKind>,
            #[arg(long = concat!($stage, "-spacing"), id = concat!($stage, "-spacing"))]
            #[arg(value_name = "RULE", help = crate::pictures::stages::SPACINGS)]
            spacing: Option<unclip::Spacing>,
        }

        impl $Arguments {
            /// The choices for the stage.
            pub(crate) fn options(&self) -> unclip::StageOptions {
                let mut options = unclip::StageOptions::default();
                options.steps = self.steps;
                options.guidance_scale = self.guidance;
                options.guidance_range = self.range;
                options.sampler = self.sampler.clone();
                options.spacing = self.spacing.clone();
                options
            }
        }
    };
}

guided_stage!(DecoderArguments, "decoder");

/// Options of the decoder alone.
#[derive(Debug, Args)]
pub(crate) struct GuidanceArguments {
    /// How far the decoder follows the caption, apart from the picture's embedding; a step then
    /// takes three calls [default, with --image-guidance: 1]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    #[arg(conflicts_with = "decoder-guidance")]
    text_guidance: Option<f64>,
    /// How far the decoder follows the picture's embedding, apart from the caption
    /// [default, with --text-guidance: 1]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    #[arg(conflicts_with = "decoder-guidance")]
    image_guidance: Option<f64>,
    /// Share of the values, as in 0.995, that the decoder may not cut off when guidance leads out
    /// of the range: the rest of the picture is dimmed instead (dynamic thresholding)
    #[arg(long, value_name = "SHARE")]
    dynamic_threshold: Option<f64>,
    /// How far CLIP leads the decoder toward the caption; needs a build with `--features autodiff`
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    clip_guidance: Option<f64>,
    /// What the gradient of CLIP goes through
    #[arg(long, value_enum, requires = "clip_guidance", default_value = "decoder")]
    clip_gradient: ClipGradient,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ClipGradient {
    /// Through the decoder, as it should
    Decoder,
    /// Through CLIP alone: the decoder's estimate is taken for the noisy picture, which costs less
    Estimate,
}

impl GuidanceArguments {
    /// The options of the decoder with these.
    pub(crate) fn of(&self, mut options: StageOptions) -> StageOptions {
        if self.text_guidance.or(self.image_guidance).is_some() {
            options.guidance_scale = Some(self.text_guidance.unwrap_or(1.0));
            options.image_guidance = Some(self.image_guidance.unwrap_or(1.0));
        }
        options.dynamic_threshold = self.dynamic_threshold;
        options
    }

    /// Guidance by CLIP, if it was asked for.
    pub(crate) fn clip(&self) -> Option<ClipGuidance> {
        let through_decoder = self.clip_gradient == ClipGradient::Decoder;
        self.clip_guidance.map(|scale| ClipGuidance { scale, through_decoder })
    }
}

/// Options of every upsampler.
#[derive(Debug, Args)]
pub(crate) struct UpsamplerArguments {
    /// Reverse steps of each upsampler
    #[arg(long, value_name = "N")]
    upsampler_steps: Option<usize>,
    #[arg(long, value_name = "NAME", help = SAMPLERS)]
    upsampler_sampler: Option<SamplerKind>,
    #[arg(long, value_name = "RULE", help = SPACINGS)]
    upsampler_spacing: Option<Spacing>,
}

impl UpsamplerArguments {
    /// The choices for every upsampler.
    pub(crate) fn options(&self) -> StageOptions {
        let mut options = StageOptions::default();
        options.steps = self.upsampler_steps;
        options.sampler = self.upsampler_sampler.clone();
        options.spacing = self.upsampler_spacing.clone();
        options
    }
}

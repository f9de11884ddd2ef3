//! The options of stages.

use clap::Args;
use unclip::{SamplerKind, Spacing, StageOptions};

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

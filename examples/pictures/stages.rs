//! The options of stages.

use clap::{Args, ValueEnum};
use unclip::{ClipGradient, ClipGuidance, GenerateOptions, SamplerKind, Spacing, StageOptions};

use crate::console::AnyError;

/// How samplers are spelled, for help texts.
pub(crate) const SAMPLERS: &str = "ddpm, analytic_dpm (if the model has the table that it needs), \
    ddim, ddim:ETA, early_ddim, early_ddim:ETA, dpm_solver, dpm_solver:published, heun, plms, plms:v \
    or belm";
/// The same of spacings.
pub(crate) const SPACINGS: &str = "Timesteps of the steps: even, leading, leading:OFFSET, \
    trailing, between, between:-1, log_snr, steps of each part as in 10,10,3,2,2, or at:0,250,999";

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
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    dynamic_threshold: Option<f64>,
    /// How far CLIP leads the decoder toward the caption; needs a build with `--features autodiff`
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    clip_guidance: Option<f64>,
    /// What CLIP sees, and what its gradient goes through [default: decoder]
    #[arg(long, value_enum)]
    clip_gradient: Option<Gradient>,
    /// How far the model's classifier leads the decoder to the class, if it has one (ADM); 0 is not at
    /// all [default: the model's]
    #[arg(long, value_name = "SCALE", allow_negative_numbers = true)]
    classifier_scale: Option<f64>,
    /// A caption among which CLIP has to choose the picture's own, as a classifier does; several,
    /// if it is given several times
    #[arg(long, value_name = "TEXT")]
    clip_against: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Gradient {
    /// CLIP sees the decoder's estimate, and the gradient goes through the decoder
    Decoder,
    /// The same estimate, through CLIP alone, which costs less
    Estimate,
    /// A tower for noised pictures sees them as they are, if the model has one
    Noised,
}

impl From<Gradient> for ClipGradient {
    fn from(gradient: Gradient) -> Self {
        match gradient {
            Gradient::Decoder => Self::Decoder,
            Gradient::Estimate => Self::Estimate,
            Gradient::Noised => Self::Noised,
        }
    }
}

impl GuidanceArguments {
    /// The options of the decoder with these. Of two scales, one that is not given is that of the
    /// recipe, or else 1.
    pub(crate) fn of(&self, mut options: StageOptions, before: &StageOptions) -> StageOptions {
        if self.text_guidance.or(self.image_guidance).is_some() {
            let apart = before.image_guidance.is_some();
            let text = before.guidance_scale.filter(|_| apart).unwrap_or(1.0);
            options.guidance_scale = Some(self.text_guidance.unwrap_or(text));
            let image = before.image_guidance.unwrap_or(1.0);
            options.image_guidance = Some(self.image_guidance.unwrap_or(image));
        }
        options.dynamic_threshold = self.dynamic_threshold;
        options
    }

    /// The options with guidance by CLIP and a classifier: what was asked for, and otherwise what is
    /// there.
    pub(crate) fn with_scores(&self, mut options: GenerateOptions) -> GenerateOptions {
        options.classifier_scale = self.classifier_scale.or(options.classifier_scale);
        if let Some(scale) = self.clip_guidance {
            let gradient = options.clip_guidance.map(|before| before.gradient).unwrap_or_default();
            options.clip_guidance = Some(ClipGuidance { scale, gradient });
        }
        if let (Some(gradient), Some(guidance)) = (self.clip_gradient, &mut options.clip_guidance) {
            guidance.gradient = gradient.into();
        }
        if !self.clip_against.is_empty() {
            options.clip_against = self.clip_against.clone();
        }
        options
    }

    /// Refuses what says how CLIP guides where it does not.
    pub(crate) fn check(&self, options: &GenerateOptions) -> Result<(), AnyError> {
        if self.clip_gradient.is_some() && options.clip_guidance.is_none() {
            return Err("--clip-gradient says how CLIP guides: give --clip-guidance, too".into());
        }
        Ok(())
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

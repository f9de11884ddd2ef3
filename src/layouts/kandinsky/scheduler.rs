//! The scheduler of Kandinsky's decoder.

use std::path::Path;

use serde_json::{Value, json};
use unclip_core::{
    BetaSchedule, Ddim, Ddpm, DiffusionConfig, InvalidSetting, Parameterization, SamplingMethod,
    Spacing, VarianceType,
};
use unclip_nn::checkpoint::LoadError;

use crate::layouts::diffusers::describe::DIFFUSERS;
use crate::layouts::diffusers::described::require;
use crate::layouts::diffusers::fields::Fields;
use crate::layouts::diffusers::networks::Defaults;

/// The schedulers, and what their networks predict.
const DDPM: &str = "DDPMScheduler";
const DDIM: &str = "DDIMScheduler";
const EPSILON: Parameterization = Parameterization::Epsilon;

/// A `DDPMScheduler` or a `DDIMScheduler`.
pub(super) fn scheduler(folder: &Path, defaults: Defaults) -> Result<DiffusionConfig, LoadError> {
    let classes = [DDPM, DDIM];
    let mut fields = Fields::read(&folder.join("scheduler_config.json"), Some(&classes))?;
    let is_ddpm = fields.class() == DDPM;
    let variance = if is_ddpm { variance(&mut fields)? } else { VarianceType::FixedSmall };
    // a clean last step is all that DDPM has
    let is_clean = fields.take_optional("set_alpha_to_one")?.unwrap_or(true) || is_ddpm;
    let clamped = fields.take_optional("clip_sample")?.unwrap_or(true);
    let range: f64 = fields.take_optional("clip_sample_range")?.unwrap_or(1.0);
    fields.expect_all([
        ("prediction_type", json!("epsilon")),
        ("thresholding", json!(false)),
        ("trained_betas", Value::Null),
        ("rescale_betas_zero_snr", json!(false)),
    ])?;
    // of thresholding
    fields.ignore(&["dynamic_thresholding_ratio", "sample_max_value"]);
    let num_train_timesteps = fields.take_optional("num_train_timesteps")?.unwrap_or(1000);
    let config = DiffusionConfig {
        num_train_timesteps,
        beta_schedule: betas(&mut fields)?,
        set_alpha_to_one: is_clean,
        variance,
        clamp: clamped.then_some(range),
        sampler: if is_ddpm { Ddpm.into() } else { Ddim { eta: 0.0 }.into() },
        steps: defaults.steps.min(num_train_timesteps),
        spacing: spacing(&mut fields)?,
        guidance_scale: defaults.guidance_scale,
        ..DiffusionConfig::cosine(Parameterization::Epsilon)
    };
    let names = [
        ("clamp", "clip_sample_range"),
        ("start", "beta_start"),
        ("end", "beta_end"),
        ("spacing", "steps_offset"),
    ];
    config.validate().map_err(|error| fields.invalid(&error, &names))?;
    fields.finish()?;
    Ok(config)
}

fn variance(fields: &mut Fields) -> Result<VarianceType, LoadError> {
    let variance: Option<String> = fields.take_optional("variance_type")?;
    match variance.as_deref() {
        None | Some("fixed_small") => Ok(VarianceType::FixedSmall),
        Some("fixed_large") => Ok(VarianceType::FixedLarge),
        Some("learned_range") => Ok(VarianceType::LearnedRange),
        Some(other) => {
            let expected = "\"fixed_small\", \"fixed_large\" or \"learned_range\"";
            Err(fields.error("variance_type", other, expected))
        }
    }
}

fn betas(fields: &mut Fields) -> Result<BetaSchedule, LoadError> {
    let rule: Option<String> = fields.take_optional("beta_schedule")?;
    let start = fields.take_optional("beta_start")?.unwrap_or(1e-4);
    let end = fields.take_optional("beta_end")?.unwrap_or(0.02);
    match rule.as_deref() {
        None | Some("linear") => Ok(BetaSchedule::Linear { start, end }),
        Some("scaled_linear") => Ok(BetaSchedule::ScaledLinear { start, end }),
        Some("squaredcos_cap_v2") => Ok(BetaSchedule::SquaredCosine),
        Some(other) => {
            let expected = "\"linear\", \"scaled_linear\" or \"squaredcos_cap_v2\"";
            Err(fields.error("beta_schedule", other, expected))
        }
    }
}

fn spacing(fields: &mut Fields) -> Result<Spacing, LoadError> {
    let rule: Option<String> = fields.take_optional("timestep_spacing")?;
    let offset = fields.take_optional("steps_offset")?.unwrap_or(0);
    match rule.as_deref() {
        None | Some("leading") => Ok(Spacing::Leading { offset }),
        Some("trailing") => Ok(Spacing::Trailing),
        Some(other) => Err(fields.error("timestep_spacing", other, "\"leading\" or \"trailing\"")),
    }
}

/// The class of scheduler that a stage has: those of the two samplers that there are.
pub(super) fn class(diffusion: &DiffusionConfig) -> &'static str {
    if diffusion.sampler == (Ddim { eta: 0.0 }).into() { DDIM } else { DDPM }
}

/// The configuration of the scheduler.
pub(super) fn described(diffusion: &DiffusionConfig) -> Result<Value, InvalidSetting> {
    let class = class(diffusion);
    let (rule, start, end) = match diffusion.beta_schedule {
        BetaSchedule::Linear { start, end } => ("linear", start, end),
        BetaSchedule::ScaledLinear { start, end } => ("scaled_linear", start, end),
        BetaSchedule::SquaredCosine => ("squaredcos_cap_v2", 1e-4, 0.02),
    };
    let (spacing, offset) = match diffusion.spacing {
        Spacing::Leading { offset } => ("leading", offset),
        Spacing::Trailing => ("trailing", 0),
        _ => {
            let found = &diffusion.spacing;
            let expected = "leading or trailing: diffusers' schedulers have no other here";
            return Err(InvalidSetting::new("diffusion.spacing", found, expected));
        }
    };
    require("diffusion.parameterization", diffusion.parameterization, EPSILON, class)?;
    require("diffusion.uncertainty", diffusion.uncertainty.as_ref(), None, class)?;
    if class == DDPM {
        require("diffusion.sampler", diffusion.sampler.to_string(), Ddpm.spelling(), class)?;
        require("diffusion.set_alpha_to_one", diffusion.set_alpha_to_one, true, class)?;
    } else {
        require("diffusion.variance", diffusion.variance, VarianceType::FixedSmall, class)?;
    }
    let variance = match diffusion.variance {
        VarianceType::FixedSmall => "fixed_small",
        VarianceType::FixedLarge => "fixed_large",
        VarianceType::LearnedRange => "learned_range",
        VarianceType::Learned => {
            let expected = "another one: what is learned here is its logarithm";
            return Err(InvalidSetting::new("diffusion.variance", "learned", expected));
        }
    };
    let mut scheduler = json!({
        "_class_name": class,
        "_diffusers_version": DIFFUSERS,
        "beta_end": end,
        "beta_schedule": rule,
        "beta_start": start,
        "clip_sample": diffusion.clamp.is_some(),
        "num_train_timesteps": diffusion.num_train_timesteps,
        "prediction_type": "epsilon",
        "steps_offset": offset,
        "timestep_spacing": spacing,
    });
    if class == DDPM {
        scheduler["variance_type"] = json!(variance);
    } else {
        scheduler["set_alpha_to_one"] = json!(diffusion.set_alpha_to_one);
    }
    if let Some(range) = diffusion.clamp {
        scheduler["clip_sample_range"] = json!(range);
    }
    Ok(scheduler)
}

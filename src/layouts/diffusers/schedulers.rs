//! diffusers' schedulers of decoders that sample latents: DDPM, DDIM and PNDM.

use std::path::Path;

use serde_json::{Value, json};
use unclip_core::{
    BetaSchedule, Ddim, Ddpm, DiffusionConfig, InvalidSetting, Parameterization, Plms,
    SamplingMethod, Spacing, VarianceType,
};
use unclip_decoder::Augmentation;
use unclip_nn::checkpoint::LoadError;

use super::describe::DIFFUSERS;
use super::described::require;
use super::fields::Fields;
use super::networks::Defaults;

pub(in crate::layouts) const DDPM: &str = "DDPMScheduler";
pub(in crate::layouts) const DDIM: &str = "DDIMScheduler";
const PNDM: &str = "PNDMScheduler";

/// Every scheduler that is read here.
pub(in crate::layouts) const CLASSES: [&str; 3] = [DDPM, DDIM, PNDM];

/// A scheduler of one of these classes.
pub(in crate::layouts) fn scheduler(
    folder: &Path,
    classes: &[&str],
    defaults: Defaults,
) -> Result<DiffusionConfig, LoadError> {
    let mut fields = Fields::read(&folder.join("scheduler_config.json"), Some(classes))?;
    let (is_ddpm, is_pndm) = (fields.class() == DDPM, fields.class() == PNDM);
    let variance = if is_ddpm { variance(&mut fields)? } else { VarianceType::FixedSmall };
    // a clean last step is all that DDPM has
    let is_clean = fields.take_optional("set_alpha_to_one")?.unwrap_or(!is_pndm) || is_ddpm;
    let clamped = fields.take_optional("clip_sample")?.unwrap_or(true) && !is_pndm;
    let range: f64 = fields.take_optional("clip_sample_range")?.unwrap_or(1.0);
    let parameterization = prediction(&mut fields)?;
    fields.expect_all([
        ("thresholding", json!(false)),
        ("trained_betas", Value::Null),
        ("rescale_betas_zero_snr", json!(false)),
    ])?;
    if is_pndm {
        // the Runge-Kutta steps at the beginning are another method's
        fields.demand("skip_prk_steps", true)?;
        if parameterization == Parameterization::Sample {
            let expected = "\"epsilon\" or \"v_prediction\", as which PNDM takes a prediction";
            return Err(fields.error("prediction_type", "sample", expected));
        }
    }
    // of thresholding, and of another class
    fields.ignore(&["dynamic_thresholding_ratio", "sample_max_value", "skip_prk_steps"]);
    let sampler = match (is_ddpm, is_pndm) {
        (true, _) => Ddpm.into(),
        (_, true) => Plms { velocities: parameterization == Parameterization::V }.into(),
        (false, false) => Ddim { eta: 0.0 }.into(),
    };
    let num_train_timesteps = fields.take_optional("num_train_timesteps")?.unwrap_or(1000);
    let config = DiffusionConfig {
        num_train_timesteps,
        beta_schedule: betas(&mut fields)?,
        set_alpha_to_one: is_clean,
        variance,
        clamp: clamped.then_some(range),
        sampler,
        steps: defaults.steps.min(num_train_timesteps),
        spacing: spacing(&mut fields)?,
        guidance_scale: defaults.guidance_scale,
        ..DiffusionConfig::cosine(parameterization)
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

fn prediction(fields: &mut Fields) -> Result<Parameterization, LoadError> {
    let prediction: Option<String> = fields.take_optional("prediction_type")?;
    match prediction.as_deref() {
        None | Some("epsilon") => Ok(Parameterization::Epsilon),
        Some("v_prediction") => Ok(Parameterization::V),
        Some("sample") => Ok(Parameterization::Sample),
        Some(other) => {
            let expected = "\"epsilon\", \"v_prediction\" or \"sample\"";
            Err(fields.error("prediction_type", other, expected))
        }
    }
}

fn variance(fields: &mut Fields) -> Result<VarianceType, LoadError> {
    let variance: Option<String> = fields.take_optional("variance_type")?;
    match variance.as_deref() {
        None | Some("fixed_small" | "fixed_small_log") => Ok(VarianceType::FixedSmall),
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

/// The class of scheduler that a stage has, by its sampler.
pub(in crate::layouts) fn class(diffusion: &DiffusionConfig) -> &'static str {
    match diffusion.sampler.to_string().as_str() {
        "ddim" => DDIM,
        "plms" | "plms:v" => PNDM,
        _ => DDPM,
    }
}

/// The configuration of the scheduler.
pub(in crate::layouts) fn described(diffusion: &DiffusionConfig) -> Result<Value, InvalidSetting> {
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
    require("diffusion.uncertainty", diffusion.uncertainty.as_ref(), None, class)?;
    require("diffusion.temperature", diffusion.temperature, 1.0, class)?;
    if class == DDPM {
        require("diffusion.sampler", diffusion.sampler.to_string(), Ddpm.spelling(), class)?;
        require("diffusion.set_alpha_to_one", diffusion.set_alpha_to_one, true, class)?;
    } else {
        require("diffusion.variance", diffusion.variance, VarianceType::FixedSmall, class)?;
    }
    if class == PNDM {
        let velocities = diffusion.parameterization == Parameterization::V;
        let (found, expected) = (diffusion.sampler.to_string(), Plms { velocities }.spelling());
        require("diffusion.sampler", found, expected, class)?;
        require("diffusion.clamp", diffusion.clamp, None, class)?;
        if diffusion.parameterization == Parameterization::Sample {
            let expected = "epsilon or v: diffusers' PNDM takes no other";
            return Err(InvalidSetting::new("diffusion.parameterization", "sample", expected));
        }
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
        "prediction_type": match diffusion.parameterization {
            Parameterization::Epsilon => "epsilon",
            Parameterization::V => "v_prediction",
            Parameterization::Sample => "sample",
        },
        "steps_offset": offset,
        "timestep_spacing": spacing,
    });
    if class == PNDM {
        scheduler["skip_prk_steps"] = json!(true);
    }
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

/// The noise of image embeddings, as a scheduler that has nothing else to say.
pub(in crate::layouts) fn of_noise(augmentation: Augmentation) -> DiffusionConfig {
    DiffusionConfig {
        num_train_timesteps: augmentation.num_train_timesteps,
        beta_schedule: augmentation.beta_schedule,
        sampler: Ddpm.into(),
        spacing: Spacing::Leading { offset: 0 },
        ..DiffusionConfig::cosine(Parameterization::Epsilon)
    }
}

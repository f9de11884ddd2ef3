//! Schedules of DALLE2-pytorch.

use std::path::Path;

use unclip_core::{BetaSchedule, DiffusionConfig, InvalidSetting, Parameterization};
use unclip_nn::checkpoint::{LoadError, Weights};

use crate::layouts::diffusers::fields::Fields;

/// A schedule by its name there, for so many timesteps.
pub(super) fn betas(
    fields: &Fields,
    name: &str,
    timesteps: usize,
) -> Result<BetaSchedule, LoadError> {
    let (start, end) = bounds(timesteps);
    match name {
        "cosine" => Ok(BetaSchedule::SquaredCosine),
        "linear" | "quadratic" if end >= 1.0 => {
            let expected =
                format!("more than 20: with fewer, the schedule {name} ends in noise alone");
            Err(fields.error("timesteps", timesteps, &expected))
        }
        "linear" => Ok(BetaSchedule::Linear { start, end }),
        "quadratic" => Ok(BetaSchedule::ScaledLinear { start, end }),
        other => Err(fields.error("beta_schedule", other, "cosine, linear or quadratic")),
    }
}

/// β of the first and the last of so many timesteps.
fn bounds(timesteps: usize) -> (f64, f64) {
    let scale = 1000.0 / timesteps.max(1) as f64;
    (scale * 0.0001, scale * 0.02)
}

/// Farthest that β of a file may be from the schedule's: files in 16 bits round it.
const TOLERANCE: f64 = 0.01;

/// Checks a schedule against the β that stand under this name in the weights, if they do: the configuration
/// and the weights may be of different files, and nothing else would tell.
///
/// # Errors
/// Names the field of the object `within`; the weights cannot be read.
pub(super) fn check(
    weights: &Weights,
    key: &str,
    diffusion: &DiffusionConfig,
    (path, within): (&Path, &str),
) -> Result<(), LoadError> {
    let refused = |field: &str, found: String, expected| {
        let source = InvalidSetting::new(format!("{within}{field}"), found, expected);
        LoadError::Config { path: path.into(), source }
    };
    let n = diffusion.num_train_timesteps;
    let Some(stored) = weights.shape(key).map(|shape| shape.iter().product::<usize>()) else {
        return Ok(());
    };
    if stored != n {
        let expected = format!("{stored}, as many as {key} of the weights has");
        return Err(refused("timesteps", n.to_string(), expected));
    }
    let betas = |schedule: BetaSchedule| {
        schedule.betas(n).map_err(|source| {
            let source = source.within(within.trim_end_matches('.'));
            LoadError::Config { path: path.into(), source }
        })
    };
    let found = weights.read(key)?.unwrap_or_default();
    let is_near = |own: &[f64]| own.iter().zip(&found).all(is_near);
    if is_near(&betas(diffusion.beta_schedule)?) {
        return Ok(());
    }
    let (start, end) = bounds(n);
    let others = [
        BetaSchedule::SquaredCosine,
        BetaSchedule::Linear { start, end },
        BetaSchedule::ScaledLinear { start, end },
    ];
    let fits = others.into_iter().find(|it| it.betas(n).is_ok_and(|own| is_near(&own)));
    let expected = match fits {
        Some(schedule) => format!("{}, by {key} of the weights", name(schedule)),
        None => format!("the schedule of {key} of the weights, which is none of those known"),
    };
    Err(refused("beta_schedule", name(diffusion.beta_schedule).into(), expected))
}

/// Whether β of a file is the schedule's.
fn is_near((own, found): (&f64, &f32)) -> bool {
    (own - f64::from(*found)).abs() <= TOLERANCE * own
}

/// A schedule as the configurations call it.
fn name(schedule: BetaSchedule) -> &'static str {
    match schedule {
        BetaSchedule::Linear { .. } => "linear",
        BetaSchedule::ScaledLinear { .. } => "quadratic",
        BetaSchedule::SquaredCosine => "cosine",
    }
}

/// What a network predicts.
pub(super) fn prediction(x_start: bool, v: bool) -> Parameterization {
    match (v, x_start) {
        (true, _) => Parameterization::V,
        (_, true) => Parameterization::Sample,
        (false, false) => Parameterization::Epsilon,
    }
}

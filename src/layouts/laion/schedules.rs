//! Schedules of DALLE2-pytorch.

use unclip_core::{BetaSchedule, Parameterization};
use unclip_nn::checkpoint::LoadError;

use crate::layouts::diffusers::fields::Fields;

/// A schedule by its name there, for so many timesteps.
pub(super) fn betas(
    fields: &Fields,
    name: &str,
    timesteps: usize,
) -> Result<BetaSchedule, LoadError> {
    let scale = 1000.0 / timesteps.max(1) as f64;
    let (start, end) = (scale * 0.0001, scale * 0.02);
    if name != "cosine" && end >= 1.0 {
        let expected = format!("more than 20 with the schedule {name}, which leaves no signal");
        return Err(fields.error("timesteps", timesteps, &expected));
    }
    match name {
        "cosine" => Ok(BetaSchedule::SquaredCosine),
        "linear" => Ok(BetaSchedule::Linear { start, end }),
        "quadratic" => Ok(BetaSchedule::ScaledLinear { start, end }),
        other => Err(fields.error("beta_schedule", other, "cosine, linear or quadratic")),
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

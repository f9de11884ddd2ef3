//! What is known of variances: how much of a sample its denoiser leaves open, by noise level.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{InvalidSetting, Step, VarianceType};

/// The variance of x_0 that is left when x_t is known, as a mean over data and values: the squared
/// error of a denoiser that predicts x_0.
///
/// It is known at timesteps that are evenly spread from the first to the last, and taken to change
/// linearly between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Uncertainty(Vec<f64>);

/// The largest variance that is believed.
const MOST: f64 = 1e6;

impl Uncertainty {
    /// A table of these variances, from the cleanest timestep to the noisiest.
    ///
    /// # Errors
    /// Fewer than two variances, or one that is not from 0 to 10⁶.
    pub fn new(variances: Vec<f64>) -> Result<Self, InvalidSetting> {
        let table = Self(variances);
        table.validate()?;
        Ok(table)
    }

    /// Checks a table that was read from a file.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        if self.0.len() < 2 {
            return Err(InvalidSetting::new("uncertainty", self.0.len(), "two numbers or more"));
        }
        let check = |(place, &variance): (usize, &f64)| {
            InvalidSetting::check_range(&format!("uncertainty[{place}]"), variance, 0.0, MOST)
        };
        self.0.iter().enumerate().try_for_each(check)
    }

    /// The timesteps of a table of `len` places, rounded, of a training schedule of `timesteps`.
    ///
    /// # Panics
    /// If `len` is below 2.
    pub fn timesteps(len: usize, timesteps: usize) -> impl Iterator<Item = usize> {
        assert!(len > 1, "a first and a last one");
        let last = (timesteps - 1) as f64;
        (0..len).map(move |place| (last * place as f64 / (len - 1) as f64).round() as usize)
    }

    /// The variance at a step of a training schedule of `timesteps`.
    pub fn variance(&self, step: &Step, timesteps: usize) -> f64 {
        let last = self.0.len() - 1;
        let place = step.timestep as f64 / (timesteps - 1).max(1) as f64 * last as f64;
        let below = (place.floor() as usize).min(last - 1);
        let part = place - below as f64;
        self.0[below] * (1.0 - part) + self.0[below + 1] * part
    }
}

/// What a sampler may know of a stage's variances.
#[derive(Debug, Clone, Copy)]
pub struct Variances<'a> {
    /// Which variance its reverse steps were trained for.
    pub kind: VarianceType,
    /// What its predictions leave open, where it was measured.
    pub uncertainty: Option<&'a Uncertainty>,
    /// Length of its training schedule.
    pub timesteps: usize,
}

impl fmt::Display for Uncertainty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variances: Vec<String> = self.0.iter().map(f64::to_string).collect();
        f.pad(&variances.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BetaSchedule, NoiseSchedule};

    #[test]
    fn a_table_answers_between_its_places() {
        let table = Uncertainty::new(vec![0.5, 1.0, 0.0]).unwrap();
        let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1001).unwrap();
        for (timestep, expected) in [(0, 0.5), (250, 0.75), (500, 1.0), (750, 0.5), (1000, 0.0)] {
            let found = table.variance(&schedule.step(timestep), 1001);
            assert!((found - expected).abs() < 1e-9, "{timestep}: {found}");
        }
        assert_eq!(Uncertainty::timesteps(3, 1001).collect::<Vec<_>>(), [0, 500, 1000]);
    }

    #[test]
    fn a_table_that_is_none_is_refused() {
        let refused =
            |variances: &[f64]| Uncertainty::new(variances.to_vec()).unwrap_err().to_string();
        assert_eq!(refused(&[1.0]), "uncertainty is 1, expected two numbers or more");
        for wrong in [f64::NAN, f64::INFINITY, -0.1, 1e7] {
            let found = refused(&[0.5, wrong]);
            assert!(found.starts_with("uncertainty[1] is"), "{found}");
        }
    }
}

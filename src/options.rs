//! What a user may choose, and what it becomes for a given model.

use serde::{Deserialize, Serialize};
use unclip_core::{DiffusionConfig, InvalidSetting, SamplerKind, check_guidance_scale};

/// Pictures that one call makes at most.
pub const MAX_IMAGES: usize = 64;

/// Choices for one stage. What is `None` is taken from the model.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StageOptions {
    /// Number of reverse steps.
    pub steps: Option<usize>,
    /// How far the condition is followed; 1 disables guidance, 0 ignores the condition.
    pub guidance_scale: Option<f64>,
    /// Which sampler takes the steps.
    pub sampler: Option<SamplerKind>,
}

/// Choices for a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerateOptions {
    /// Seed of the first picture; picture k has the seed `seed + k`, wrapping.
    pub seed: u64,
    /// Number of pictures, 1 to [`MAX_IMAGES`].
    pub n: usize,
    /// The prior.
    pub prior: StageOptions,
    /// The decoder.
    pub decoder: StageOptions,
    /// Every upsampler. They are not conditioned, so a guidance scale is refused.
    pub upsample: StageOptions,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        let stage = StageOptions::default();
        Self { seed: 0, n: 1, prior: stage, decoder: stage, upsample: stage }
    }
}

impl GenerateOptions {
    /// Seeds of the pictures.
    ///
    /// # Errors
    /// No picture, or more than [`MAX_IMAGES`].
    pub fn seeds(&self) -> Result<Vec<u64>, InvalidSetting> {
        if !(1..=MAX_IMAGES).contains(&self.n) {
            return Err(InvalidSetting::new("n", self.n, format!("1 to {MAX_IMAGES} pictures")));
        }
        Ok((0..self.n as u64).map(|k| self.seed.wrapping_add(k)).collect())
    }
}

/// Choices for one stage with nothing left open: kept with the picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StageSettings {
    /// Number of reverse steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// Sampler.
    pub sampler: SamplerKind,
}

impl StageOptions {
    /// Fills what is open from the stage's configuration. `stage` names it in errors.
    ///
    /// # Errors
    /// 0 steps or more than the stage's schedule has; a guidance scale that is not a number from 0
    /// to 1000.
    pub fn resolve(
        &self,
        stage: &str,
        config: &DiffusionConfig,
    ) -> Result<StageSettings, InvalidSetting> {
        let settings = StageSettings {
            steps: self.steps.unwrap_or(config.steps),
            guidance_scale: self.guidance_scale.unwrap_or(config.guidance_scale),
            sampler: self.sampler.unwrap_or(config.sampler),
        };
        check_guidance_scale(&format!("{stage} guidance"), settings.guidance_scale)?;
        if settings.steps == 0 || settings.steps > config.num_train_timesteps {
            let expected = format!("1 to {}", config.num_train_timesteps);
            return Err(InvalidSetting::new(format!("{stage} steps"), settings.steps, expected));
        }
        Ok(settings)
    }
}

impl From<StageSettings> for StageOptions {
    fn from(settings: StageSettings) -> Self {
        Self {
            steps: Some(settings.steps),
            guidance_scale: Some(settings.guidance_scale),
            sampler: Some(settings.sampler),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_wrap() {
        let options = GenerateOptions { seed: u64::MAX, n: 2, ..Default::default() };
        assert_eq!(options.seeds().unwrap(), [u64::MAX, 0]);
    }

    #[test]
    fn no_picture_and_too_many_are_refused() {
        for n in [0, MAX_IMAGES + 1, usize::MAX] {
            let error = GenerateOptions { n, ..Default::default() }.seeds().unwrap_err();
            assert_eq!(error.name, "n");
        }
    }
}

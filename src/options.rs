//! What a user may choose, and what it becomes for a given model.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unclip_core::{DiffusionConfig, InvalidSetting, SamplerKind, check_guidance_scale};

use crate::RecordedNoise;

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
#[derive(Debug, Clone)]
pub struct GenerateOptions {
    /// Seed of the first picture; picture k has the seed `seed + k`, wrapping.
    pub seed: u64,
    /// Number of pictures of each caption (or variations of each picture), 1 to [`MAX_IMAGES`] in
    /// all.
    pub n: usize,
    /// A caption of what the picture should not be: guidance leads away from it. By default the
    /// empty caption, away from pictures of anything.
    pub negative_prompt: String,
    /// Noise from a file, in place of the seed's.
    pub noise: Option<Arc<RecordedNoise>>,
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
        let (negative_prompt, noise) = (String::new(), None);
        Self {
            seed: 0,
            n: 1,
            negative_prompt,
            noise,
            prior: stage,
            decoder: stage,
            upsample: stage,
        }
    }
}

impl GenerateOptions {
    /// Seeds of the pictures: of all that belong to the first caption, then of the next.
    ///
    /// # Errors
    /// No caption; no picture, or more than [`MAX_IMAGES`].
    pub fn seeds(&self, captions: usize) -> Result<Vec<u64>, InvalidSetting> {
        if captions == 0 {
            return Err(InvalidSetting::new("captions or pictures", 0, "at least 1"));
        }
        if !(1..=MAX_IMAGES).contains(&self.n.saturating_mul(captions)) {
            let found = match captions {
                1 => self.n.to_string(),
                _ => format!("{} for each of {captions}", self.n),
            };
            return Err(InvalidSetting::new("n", found, format!("1 to {MAX_IMAGES} pictures")));
        }
        let seeds = (0..self.n as u64).map(|k| self.seed.wrapping_add(k));
        Ok((0..captions).flat_map(|_| seeds.clone()).collect())
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
        assert_eq!(options.seeds(1).unwrap(), [u64::MAX, 0]);
        assert_eq!(options.seeds(2).unwrap(), [u64::MAX, 0, u64::MAX, 0]);
    }

    #[test]
    fn no_picture_and_too_many_are_refused() {
        for n in [0, MAX_IMAGES + 1, usize::MAX] {
            let error = GenerateOptions { n, ..Default::default() }.seeds(1).unwrap_err();
            assert_eq!(error.name, "n");
        }
        assert!(GenerateOptions::default().seeds(0).is_err());
        assert!(GenerateOptions { n: 2, ..Default::default() }.seeds(MAX_IMAGES).is_err());
    }
}

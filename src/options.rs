//! User options, and the settings that they become for a given model.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use unclip_core::{
    DiffusionConfig, InvalidSetting, SamplerKind, Spacing, TimestepRange, check_guidance_scale,
};

use crate::{Bundle, Error, RecordedNoise, StageId};

/// Largest number of pictures that one call makes.
pub const MAX_IMAGES: usize = 64;

/// Options for one stage. Fields that are `None` are taken from the model.
///
/// # Example
/// ```
/// use unclip::{Heun, Spacing, StageOptions};
///
/// let options = StageOptions::default().with_sampler(Heun).with_spacing(Spacing::LogSnr).with_steps(12);
/// let by_name = StageOptions::default()
///     .with_sampler("heun".parse::<unclip::SamplerKind>()?)
///     .with_spacing("log_snr".parse()?)
///     .with_steps(12);
/// assert_eq!(options, by_name);
/// # Ok::<(), unclip::InvalidSetting>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct StageOptions {
    /// Number of reverse steps. A `spacing` that lists its steps implies it.
    pub steps: Option<usize>,
    /// How strongly the condition is followed; 1 disables guidance, 0 ignores the condition.
    pub guidance_scale: Option<f64>,
    /// Noise levels at which guidance acts; all of them by default.
    pub guidance_range: Option<TimestepRange>,
    /// Which sampler takes the steps.
    pub sampler: Option<SamplerKind>,
    /// The rule that picks the timesteps.
    pub spacing: Option<Spacing>,
}

/// A setter of each field.
macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $field:ident: $type:ty = |$value:ident| $set:expr;)*) => {
        $($(#[$doc])*
        #[must_use]
        pub fn $name(mut self, $value: $type) -> Self {
            self.$field = $set;
            self
        })*
    };
}

impl StageOptions {
    setters! {
        /// Sets [`steps`](Self::steps).
        with_steps: steps: usize = |steps| Some(steps);
        /// Sets [`guidance_scale`](Self::guidance_scale).
        with_guidance_scale: guidance_scale: f64 = |scale| Some(scale);
        /// Sets [`guidance_range`](Self::guidance_range).
        with_guidance_range: guidance_range: TimestepRange = |range| Some(range);
        /// Sets [`sampler`](Self::sampler): parsed from a name, a method of `unclip_core`, or your
        /// own.
        with_sampler: sampler: impl Into<SamplerKind> = |sampler| Some(sampler.into());
        /// Sets [`spacing`](Self::spacing).
        with_spacing: spacing: Spacing = |spacing| Some(spacing);
    }

    /// These options, with those of `other` where they leave something open.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        // what was chosen is not contradicted by what it replaces: steps by a list of others, or the
        // other way round, no guidance by a range in which it acts
        let lists = |spacing: &Spacing| spacing.steps();
        let steps = self.steps.or(self.spacing.as_ref().and_then(lists));
        let fits = |spacing: &Spacing| {
            self.steps.is_none() || lists(spacing).is_none_or(|n| Some(n) == self.steps)
        };
        let range = other.guidance_range.filter(|_| self.guidance_scale != Some(1.0));
        Self {
            steps: steps.or(other.steps),
            guidance_scale: self.guidance_scale.or(other.guidance_scale),
            guidance_range: self.guidance_range.or(range),
            sampler: self.sampler.or(other.sampler),
            spacing: self.spacing.or(other.spacing.filter(fits)),
        }
    }

    /// Fills in what is open from the stage's configuration. `stage` names the stage in errors.
    ///
    /// # Errors
    /// A number of steps, a spacing or a range that does not fit the stage's schedule; a guidance
    /// scale that is not a number from 0 to 1000.
    pub fn resolve(
        &self,
        stage: StageId,
        config: &DiffusionConfig,
    ) -> Result<StageSettings, InvalidSetting> {
        let spacing = self.spacing.clone().unwrap_or_else(|| config.spacing.clone());
        let settings = StageSettings {
            steps: self.steps.or(spacing.steps()).unwrap_or(config.steps),
            guidance_scale: self.guidance_scale.unwrap_or(config.guidance_scale),
            guidance_range: self.guidance_range,
            sampler: self.sampler.clone().unwrap_or_else(|| config.sampler.clone()),
            spacing,
        };
        let of_stage =
            |e: InvalidSetting| InvalidSetting { name: format!("{stage} {}", e.name), ..e };
        check_guidance_scale("guidance", settings.guidance_scale).map_err(of_stage)?;
        settings.sampler.validate().map_err(of_stage)?;
        config.schedule(settings.steps, &settings.spacing).map_err(of_stage)?;
        let last = config.num_train_timesteps - 1;
        match settings.guidance_range {
            Some(range) if range.to > last || range.from > range.to => {
                let name = format!("{stage} guidance range");
                Err(InvalidSetting::new(name, range, format!("timesteps from 0 to {last}")))
            }
            Some(range) if settings.guidance_scale == 1.0 => {
                let name = format!("{stage} guidance range");
                let expected = "absent: with a scale of 1 there is no guidance";
                Err(InvalidSetting::new(name, range, expected))
            }
            _ => Ok(settings),
        }
    }
}

/// Options for making pictures.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Seed of the first picture; picture k has the seed `seed + k`, wrapping.
    pub seed: u64,
    /// Number of pictures per caption (or variations per picture), 1 to [`MAX_IMAGES`] in all.
    pub n: usize,
    /// A caption of what the picture should not show: guidance leads away from it. The default is
    /// the empty caption, which stands for any picture.
    pub negative_prompt: String,
    /// Embeddings that the prior draws for each picture, of which the one closest to the caption is
    /// kept; 1 to 64, by default 1.
    pub candidates: usize,
    /// Noise from a file, in place of the seeds' noise.
    pub noise: Option<Arc<RecordedNoise>>,
    /// The prior.
    pub prior: StageOptions,
    /// The decoder.
    pub decoder: StageOptions,
    /// Every upsampler. They are not conditioned, so guidance is refused.
    pub upsampler: StageOptions,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            n: 1,
            negative_prompt: String::new(),
            candidates: 1,
            noise: None,
            prior: StageOptions::default(),
            decoder: StageOptions::default(),
            upsampler: StageOptions::default(),
        }
    }
}

impl GenerateOptions {
    setters! {
        /// Sets [`seed`](Self::seed).
        with_seed: seed: u64 = |seed| seed;
        /// Sets [`n`](Self::n).
        with_n: n: usize = |n| n;
        /// Sets [`negative_prompt`](Self::negative_prompt).
        with_negative_prompt: negative_prompt: impl Into<String> = |prompt| prompt.into();
        /// Sets [`candidates`](Self::candidates).
        with_candidates: candidates: usize = |candidates| candidates;
        /// Sets [`noise`](Self::noise).
        with_noise: noise: Arc<RecordedNoise> = |noise| Some(noise);
        /// Sets [`prior`](Self::prior).
        with_prior: prior: StageOptions = |prior| prior;
        /// Sets [`decoder`](Self::decoder).
        with_decoder: decoder: StageOptions = |decoder| decoder;
        /// Sets [`upsampler`](Self::upsampler).
        with_upsampler: upsampler: StageOptions = |upsampler| upsampler;
    }

    /// Seeds of the pictures: first those of the first caption's pictures, then of the next
    /// caption's.
    ///
    /// # Errors
    /// No caption; or the number of pictures is 0 or more than [`MAX_IMAGES`].
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

    /// Refuses candidates where the prior has no part.
    pub(crate) fn expect_no_candidates(&self) -> Result<(), InvalidSetting> {
        if self.candidates == 1 {
            return Ok(());
        }
        let expected = "1: the prior, which draws them, has no part in this";
        Err(InvalidSetting::new("candidates", self.candidates, expected))
    }

    /// Fills in what is open from the model, and checks everything.
    ///
    /// # Errors
    /// Names the first option that cannot be used.
    pub fn resolve(&self, bundle: &Bundle) -> Result<Settings, Error> {
        let upsampler = &self.upsampler;
        if upsampler.guidance_scale.is_some() || upsampler.guidance_range.is_some() {
            let found = match (upsampler.guidance_scale, upsampler.guidance_range) {
                (Some(scale), _) => scale.to_string(),
                (None, range) => range.map_or(String::new(), |range| range.to_string()),
            };
            let expected = "absent: upsamplers have no condition";
            return Err(InvalidSetting::new("upsampler guidance", found, expected).into());
        }
        if bundle.upsamplers.is_empty() && *upsampler != StageOptions::default() {
            let expected = "absent: the model has no upsampler";
            let found = format!("{upsampler:?}");
            return Err(InvalidSetting::new("upsampler options", found, expected).into());
        }
        let prior = bundle.prior.as_ref();
        let prior = prior.map(|it| self.prior.resolve(it.id(), &it.config().diffusion));
        let decoder = &bundle.decoder;
        let upsamplers =
            bundle.upsamplers.iter().map(|it| upsampler.resolve(it.id(), &it.config().diffusion));
        if !(1..=MAX_IMAGES).contains(&self.candidates) {
            let expected = format!("1 to {MAX_IMAGES}");
            return Err(InvalidSetting::new("candidates", self.candidates, expected).into());
        }
        Ok(Settings {
            candidates: self.candidates,
            prior: prior.transpose()?,
            decoder: self.decoder.resolve(decoder.id(), &decoder.config().diffusion)?,
            upsamplers: upsamplers.collect::<Result<_, _>>()?,
        })
    }
}

/// Settings of one stage with nothing left open, as kept with the picture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageSettings {
    /// Number of reverse steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance_scale: f64,
    /// Noise levels at which guidance acts; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_range: Option<TimestepRange>,
    /// Sampler.
    pub sampler: SamplerKind,
    /// The rule that picks the timesteps.
    #[serde(default, skip_serializing_if = "Spacing::is_even")]
    pub spacing: Spacing,
}

impl From<StageSettings> for StageOptions {
    fn from(settings: StageSettings) -> Self {
        Self {
            steps: Some(settings.steps),
            guidance_scale: Some(settings.guidance_scale),
            guidance_range: settings.guidance_range,
            sampler: Some(settings.sampler),
            spacing: Some(settings.spacing),
        }
    }
}

/// Settings of every stage, with nothing left open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Settings {
    /// Embeddings of which the prior's best was kept.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub candidates: usize,
    /// The prior, if it is used.
    pub prior: Option<StageSettings>,
    /// The decoder.
    pub decoder: StageSettings,
    /// Each upsampler.
    #[serde(alias = "upsample")]
    pub upsamplers: Vec<StageSettings>,
}

impl Settings {
    /// Refuses a negative prompt that would do nothing.
    pub(crate) fn check_negative_prompt(&self, prompt: &str) -> Result<(), InvalidSetting> {
        let mut stages = self.prior.iter().chain([&self.decoder]);
        if prompt.is_empty() || stages.any(|stage| stage.guidance_scale != 1.0) {
            return Ok(());
        }
        let expected = "none: guidance leads away from it, and no stage has a guidance scale other \
                        than 1";
        Err(InvalidSetting::new("negative prompt", format!("{prompt:?}"), expected))
    }

    /// Reverse steps of all stages together.
    pub(crate) fn steps(&self) -> usize {
        let stages = [&self.decoder].into_iter().chain(&self.upsamplers);
        let prior = self.prior.as_ref().map_or(0, |prior| prior.steps * self.candidates);
        prior + stages.map(|stage| stage.steps).sum::<usize>()
    }
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

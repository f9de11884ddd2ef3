//! Options of one stage, and the settings that they become for a given model.

use std::fmt;

use serde::{Deserialize, Serialize};
use unclip_core::{
    DiffusionConfig, InvalidSetting, SamplerKind, Spacing, TimestepRange, check_guidance_scale,
};

use crate::StageId;

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
    /// How strongly the picture alone is followed, for the decoder; `guidance_scale` is then that
    /// of the caption alone. A step takes three calls instead of two (Brooks et al. 2023, eq. 3).
    pub image_guidance: Option<f64>,
    /// Share of a sample's values that stay within its range without being cut, from 0 to 1
    /// ([dynamic thresholding](unclip_core::Clamped)): 0.995 tames strong guidance. By default all
    /// that is beyond the range is cut.
    pub dynamic_threshold: Option<f64>,
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

pub(crate) use setters;

impl StageOptions {
    setters! {
        /// Sets [`steps`](Self::steps).
        with_steps: steps: usize = |steps| Some(steps);
        /// Sets [`guidance_scale`](Self::guidance_scale).
        with_guidance_scale: guidance_scale: f64 = |scale| Some(scale);
        /// Sets [`image_guidance`](Self::image_guidance).
        with_image_guidance: image_guidance: f64 = |scale| Some(scale);
        /// Sets [`dynamic_threshold`](Self::dynamic_threshold).
        with_dynamic_threshold: dynamic_threshold: f64 = |share| Some(share);
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
        let is_open = self.guidance_scale.is_none();
        let is_unguided = self.guidance_scale == Some(1.0)
            && self.image_guidance.is_none_or(|scale| scale == 1.0);
        let range = other.guidance_range.filter(|_| !is_unguided);
        Self {
            steps: steps.or(other.steps),
            guidance_scale: self.guidance_scale.or(other.guidance_scale),
            // both scales are one choice
            image_guidance: self.image_guidance.or(other.image_guidance.filter(|_| is_open)),
            dynamic_threshold: self.dynamic_threshold.or(other.dynamic_threshold),
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
        // the model's own list of steps gives way to another number of them
        let lists_others = |own: &&Spacing| {
            own.steps().is_some_and(|n| self.steps.is_some_and(|asked| asked != n))
        };
        let own = Some(&config.spacing).filter(|own| !lists_others(own)).cloned();
        let spacing = self.spacing.clone().unwrap_or_else(|| own.unwrap_or_default());
        let settings = StageSettings {
            steps: self.steps.or(spacing.steps()).unwrap_or(config.steps),
            guidance_scale: self.guidance_scale.unwrap_or(match self.image_guidance {
                None => config.guidance_scale,
                Some(_) => 1.0,
            }),
            image_guidance: self.image_guidance,
            dynamic_threshold: self.dynamic_threshold,
            guidance_range: self.guidance_range,
            sampler: self.sampler.clone().unwrap_or_else(|| config.sampler.clone()),
            spacing,
        };
        let of_stage =
            |e: InvalidSetting| InvalidSetting { name: format!("{stage} {}", e.name), ..e };
        check_guidance_scale("guidance", settings.guidance_scale).map_err(of_stage)?;
        settings.check(stage, config).map_err(of_stage)?;
        settings.sampler.validate().map_err(of_stage)?;
        settings.sampler.suits(&config.variances()).map_err(of_stage)?;
        config.schedule(settings.steps, &settings.spacing).map_err(of_stage)?;
        let last = config.num_train_timesteps - 1;
        match settings.guidance_range {
            Some(range) if range.to > last || range.from > range.to => {
                let name = format!("{stage} guidance range");
                Err(InvalidSetting::new(name, range, format!("timesteps from 0 to {last}")))
            }
            Some(range) if !settings.is_guided() => {
                let name = format!("{stage} guidance range");
                let expected = "absent: with a scale of 1 there is no guidance";
                Err(InvalidSetting::new(name, range, expected))
            }
            _ => Ok(settings),
        }
    }
}

impl fmt::Display for StageOptions {
    /// What is chosen, as in `steps 20, guidance 3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn part(name: &str, value: Option<impl fmt::Display>) -> Option<String> {
            value.map(|value| format!("{name} {value}"))
        }
        let parts = [
            part("steps", self.steps),
            part("guidance", self.guidance_scale),
            part("image guidance", self.image_guidance),
            part("dynamic threshold", self.dynamic_threshold),
            part("guidance range", self.guidance_range),
            part("sampler", self.sampler.as_ref()),
            part("spacing", self.spacing.as_ref()),
        ];
        f.pad(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
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
    /// Guidance scale of the picture, if it has one of its own; `guidance_scale` is then the
    /// caption's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_guidance: Option<f64>,
    /// Share of values for dynamic thresholding, if there is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_threshold: Option<f64>,
    /// Noise levels at which guidance acts; all of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance_range: Option<TimestepRange>,
    /// Sampler.
    pub sampler: SamplerKind,
    /// The rule that picks the timesteps.
    #[serde(default, skip_serializing_if = "Spacing::is_even")]
    pub spacing: Spacing,
}

impl StageSettings {
    /// Under how many conditions the network is asked for each sample.
    pub(crate) fn conditions(&self) -> usize {
        match self.image_guidance {
            Some(scale) if scale != self.guidance_scale => 3,
            _ if self.is_guided() => 2,
            _ => 1,
        }
    }

    /// Whether any guidance acts.
    pub(crate) fn is_guided(&self) -> bool {
        self.guidance_scale != 1.0 || self.image_guidance.is_some_and(|scale| scale != 1.0)
    }

    fn check(&self, stage: StageId, config: &DiffusionConfig) -> Result<(), InvalidSetting> {
        if let Some(scale) = self.image_guidance {
            check_guidance_scale("image guidance", scale)?;
            if stage != StageId::Decoder {
                let expected = "absent: only the decoder has a picture for a condition";
                return Err(InvalidSetting::new("image guidance", scale, expected));
            }
        }
        let Some(share) = self.dynamic_threshold else { return Ok(()) };
        InvalidSetting::check_range("dynamic threshold", share, 0.0, 1.0)?;
        match config.clamp {
            Some(_) => Ok(()),
            None => {
                let expected = "absent: the stage's samples have no range";
                Err(InvalidSetting::new("dynamic threshold", share, expected))
            }
        }
    }
}

impl From<StageSettings> for StageOptions {
    fn from(settings: StageSettings) -> Self {
        Self {
            steps: Some(settings.steps),
            guidance_scale: Some(settings.guidance_scale),
            image_guidance: settings.image_guidance,
            dynamic_threshold: settings.dynamic_threshold,
            guidance_range: settings.guidance_range,
            sampler: Some(settings.sampler),
            spacing: Some(settings.spacing),
        }
    }
}

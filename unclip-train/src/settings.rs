//! How a model is trained.

use serde::{Deserialize, Serialize};
use unclip_core::InvalidSetting;

/// How a model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// Steps in all.
    pub steps: u64,
    /// Items of a step.
    pub batch: usize,
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises to its peak, where it stays.
    pub warmup: u64,
    /// Steps at the end over which the learning rate falls. A run that is made longer goes on from
    /// where it began to fall, so that it never rises a second time.
    pub cooldown: u64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of all gradients together.
    pub max_norm: f64,
    /// Decay of the averaged weights, which are the ones that are kept.
    pub ema_decay: f64,
    /// Seed of weights, data and noise.
    pub seed: u64,
    /// What the run rests on beside these numbers, in words: a frozen network that it learns from,
    /// weights that it starts from. A checkpoint of a run that rests on something else is refused.
    #[serde(default)]
    pub rests_on: String,
}

impl TrainSettings {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field that cannot be used.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let positive = |name: &str, n: u64| match n {
            0 => Err(InvalidSetting::new(name, n, "at least 1")),
            _ => Ok(()),
        };
        positive("training steps", self.steps)?;
        positive("training batch", self.batch as u64)?;
        if self.cooldown >= self.steps {
            let expected = format!("less than the {} steps of the run", self.steps);
            return Err(InvalidSetting::new("cooldown", self.cooldown, expected));
        }
        InvalidSetting::check_range("learning rate", self.learning_rate, 1e-9, 1.0)?;
        InvalidSetting::check_range("weight decay", self.weight_decay, 0.0, 1.0)?;
        InvalidSetting::check_range("largest gradient norm", self.max_norm, 1e-6, 1e6)?;
        InvalidSetting::check_range("decay of the average", self.ema_decay, 0.0, 1.0)
    }

    /// The step at which the learning rate begins to fall.
    pub fn cooldown_start(&self) -> u64 {
        self.steps.saturating_sub(self.cooldown)
    }

    /// The learning rate at a step: a linear rise, a plateau, and at the end a linear fall to a
    /// fiftieth.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        const FLOOR: f64 = 0.02;
        let rise = ((step + 1) as f64 / self.warmup.max(1) as f64).min(1.0);
        let left = self.steps.saturating_sub(step) as f64 / (self.cooldown + 1) as f64;
        self.learning_rate * rise * left.clamp(FLOOR, 1.0)
    }
}

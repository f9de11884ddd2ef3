//! How a model is trained.

use serde::{Deserialize, Serialize};
use unclip_core::InvalidSetting;

/// What the learning rate does after it has risen to its peak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays there, and falls in a line at the end.
    #[default]
    Constant,
    /// It falls as half a cosine, over all steps that are left.
    Cosine,
}

/// How a model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// Steps in all.
    pub steps: u64,
    /// Items of a step.
    pub batch: usize,
    /// Parts in which the items of a step go through the network, one after another: the gradients are
    /// those of the whole batch, and the activations those of a part.
    pub accumulate: usize,
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// What the learning rate does after its rise.
    pub schedule: Schedule,
    /// Steps over which the learning rate rises to its peak.
    pub warmup: u64,
    /// Steps at the end over which a constant learning rate falls. A run that is made longer goes on
    /// from where it began to fall, so that it never rises a second time.
    pub cooldown: u64,
    /// AdamW's decay rates of the first and the second moment, and its epsilon.
    pub adam: Adam,
    /// Decoupled weight decay, of the matrices and kernels of linear layers and convolutions; norms,
    /// biases and embeddings have none.
    pub weight_decay: f64,
    /// Largest norm of all gradients together.
    pub max_norm: f64,
    /// Decay of the averaged weights, which are the ones that are kept. It begins lower, as
    /// (1 + step)/(10 + step), so that the average forgets the fresh weights.
    pub ema_decay: f64,
    /// Whether what takes more memory than time is computed again on the way back; the steps are the same.
    pub gradient_checkpointing: bool,
    /// Seed of weights, data and noise.
    pub seed: u64,
    /// The data, in words.
    pub data: String,
    /// What the run rests on beside these numbers, in words: a frozen network that it learns from,
    /// weights that it starts from. A checkpoint of a run that rests on something else is refused.
    pub rests_on: String,
}

/// AdamW's constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Adam {
    /// Decay rate of the first moment.
    pub beta_1: f64,
    /// Decay rate of the second moment.
    pub beta_2: f64,
    /// What is added to the root of the second moment.
    pub epsilon: f64,
}

impl Default for Adam {
    fn default() -> Self {
        Self { beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8 }
    }
}

impl Default for TrainSettings {
    /// One step on one item; what is to be another is set.
    fn default() -> Self {
        Self {
            steps: 1,
            batch: 1,
            accumulate: 1,
            learning_rate: 1e-4,
            schedule: Schedule::Constant,
            warmup: 0,
            cooldown: 0,
            adam: Adam::default(),
            weight_decay: 0.01,
            max_norm: 1.0,
            ema_decay: 0.999,
            gradient_checkpointing: false,
            seed: 0,
            data: String::new(),
            rests_on: String::new(),
        }
    }
}

/// No step has more items: CLIP's own training has 32,768.
const MAX_BATCH: usize = 1 << 20;

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
        positive("steps", self.steps)?;
        positive("batch", self.batch as u64)?;
        if self.batch > MAX_BATCH {
            return Err(InvalidSetting::new("batch", self.batch, format!("at most {MAX_BATCH}")));
        }
        if self.accumulate == 0 || !self.batch.is_multiple_of(self.accumulate) {
            let expected = format!("a divisor of the {} items of a step", self.batch);
            return Err(InvalidSetting::new("accumulate", self.accumulate, expected));
        }
        if self.schedule == Schedule::Cosine && self.cooldown > 0 {
            let expected = "0 where the learning rate falls as a cosine";
            return Err(InvalidSetting::new("cooldown", self.cooldown, expected));
        }
        if self.cooldown >= self.steps {
            let expected = format!("less than the {} steps of the run", self.steps);
            return Err(InvalidSetting::new("cooldown", self.cooldown, expected));
        }
        InvalidSetting::check_range("learning_rate", self.learning_rate, 1e-9, 1.0)?;
        let Adam { beta_1, beta_2, epsilon } = self.adam;
        InvalidSetting::check_range("adam.beta_1", beta_1, 0.0, 0.999_999)?;
        InvalidSetting::check_range("adam.beta_2", beta_2, 0.0, 0.999_999)?;
        InvalidSetting::check_range("adam.epsilon", epsilon, 1e-16, 1.0)?;
        InvalidSetting::check_range("weight_decay", self.weight_decay, 0.0, 1.0)?;
        InvalidSetting::check_range("max_norm", self.max_norm, 1e-6, 1e6)?;
        InvalidSetting::check_range("ema_decay", self.ema_decay, 0.0, 1.0)
    }

    /// The step at which the learning rate begins to fall.
    pub fn cooldown_start(&self) -> u64 {
        self.steps.saturating_sub(self.cooldown)
    }

    /// The learning rate at a step: a linear rise, then a plateau with a linear fall at its end, or half a
    /// cosine; both end at a fiftieth of the peak.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        const FLOOR: f64 = 0.02;
        let rise = ((step + 1) as f64 / self.warmup.max(1) as f64).min(1.0);
        let left = self.steps.saturating_sub(step) as f64;
        let fall = match self.schedule {
            Schedule::Constant => (left / (self.cooldown + 1) as f64).clamp(FLOOR, 1.0),
            Schedule::Cosine => {
                let all = self.steps.saturating_sub(self.warmup).max(1) as f64;
                let done = 1.0 - (left / all).min(1.0);
                FLOOR + (1.0 - FLOOR) * (1.0 + (done * std::f64::consts::PI).cos()) / 2.0
            }
        };
        self.learning_rate * rise * fall
    }

    /// What is other than in the settings of a checkpoint, with both values, but for the number of steps
    /// and the schedule, which a run that is made longer may have others of.
    pub fn changes(&self, before: &Self) -> Vec<String> {
        let own = [
            ("batch", format!("{}", self.batch), format!("{}", before.batch)),
            (
                "learning_rate",
                format!("{}", self.learning_rate),
                format!("{}", before.learning_rate),
            ),
            ("schedule", format!("{:?}", self.schedule), format!("{:?}", before.schedule)),
            ("adam", format!("{:?}", self.adam), format!("{:?}", before.adam)),
            ("weight_decay", format!("{}", self.weight_decay), format!("{}", before.weight_decay)),
            ("max_norm", format!("{}", self.max_norm), format!("{}", before.max_norm)),
            ("ema_decay", format!("{}", self.ema_decay), format!("{}", before.ema_decay)),
            ("seed", format!("{}", self.seed), format!("{}", before.seed)),
            ("data", self.data.clone(), before.data.clone()),
        ];
        let changed = own.into_iter().filter(|(_, own, before)| own != before);
        changed.map(|(name, own, before)| format!("{name} was {before}, is {own}")).collect()
    }
}

/// Which of how many machines this is, counted from 0.
pub(crate) fn check_share((machine, machines): (usize, usize)) -> Result<(), InvalidSetting> {
    if machine < machines {
        return Ok(());
    }
    let expected = "a number below that of the machines, counted from 0";
    Err(InvalidSetting::new("shard", format!("{machine}/{machines}"), expected))
}

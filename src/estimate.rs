//! What a call will need, from sizes alone: nothing is loaded or computed.

use unclip_core::{InvalidSetting, Limit, Stage};
use unclip_nn::Precision;
use unclip_nn::checkpoint::StageConfig;

use crate::bound::Diffuses;
use crate::{
    Bundle, Error, GenerateOptions, PriorSettings, Residency, Settings, Slot, StageCost, StageId,
    StageSettings,
};

/// What one stage will need.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StageEstimate {
    /// The stage.
    pub stage: StageId,
    /// Number of parameters.
    pub parameters: u64,
    /// Bytes of its weights in memory.
    pub weights: u64,
    /// Bytes of what it works on, at most: those of the pictures that go through it together, and of all
    /// samples between its steps.
    pub working: u64,
    /// Calls of its network.
    pub calls: usize,
    /// Pictures that go through it together.
    pub rows: usize,
}

/// What a call will need.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// Each stage, in the order of their turns.
    pub stages: Vec<StageEstimate>,
}

impl Estimate {
    /// Bytes of memory at the most: of [`Residency::OneByOne`], those of the largest stage; else those of
    /// all weights, and of the largest work. The program itself, and what a graphics driver takes, come on
    /// top.
    pub fn memory(&self, residency: Residency) -> u64 {
        let weights = self.stages.iter().map(|stage| stage.weights);
        match residency {
            Residency::OneByOne => {
                let each =
                    self.stages.iter().map(|stage| stage.weights.saturating_add(stage.working));
                each.max().unwrap_or(0)
            }
            Residency::Resident => {
                let working = self.stages.iter().map(|stage| stage.working).max().unwrap_or(0);
                weights.fold(working, u64::saturating_add)
            }
        }
    }

    /// Seconds, at the rate that a call before had on this machine. `None` if it did not run all of these
    /// stages.
    pub fn seconds(&self, before: &[Rate]) -> Option<f64> {
        let stage = |stage: &StageEstimate| {
            let Rate { loading, each, .. } =
                before.iter().find(|rate| rate.stage == stage.stage)?;
            Some(loading + each * (stage.calls * stage.rows) as f64)
        };
        self.stages.iter().map(stage).sum()
    }

    /// Refuses more than [`Limit::MemoryBytes`].
    ///
    /// # Errors
    /// Names the largest stage, what is needed, and how the limit is raised.
    pub fn check(&self, residency: Residency) -> Result<(), InvalidSetting> {
        let largest =
            self.stages.iter().max_by_key(|stage| stage.weights.saturating_add(stage.working));
        let name = match largest {
            Some(largest) => format!("memory of the call, most of it of the {},", largest.stage),
            None => "memory of the call".into(),
        };
        Limit::MemoryBytes.check(&name, self.memory(residency))
    }
}

/// How fast a stage was on some machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// The stage.
    pub stage: StageId,
    /// Seconds to load it.
    pub loading: f64,
    /// Seconds of a step for each picture.
    pub each: f64,
}

impl From<&StageCost> for Rate {
    fn from(cost: &StageCost) -> Self {
        let calls: f64 = cost.calls.iter().map(|call| call.as_secs_f64()).sum();
        let each = calls / (cost.calls.len() * cost.rows).max(1) as f64;
        Self { stage: cost.stage, loading: cost.loading.as_secs_f64(), each }
    }
}

impl Bundle {
    /// What pictures of so many captions will need.
    ///
    /// ```no_run
    /// use unclip::{Bundle, GenerateOptions, Precision, Residency};
    ///
    /// let bundle = Bundle::open("karlo-v1-alpha")?;
    /// let estimate = bundle.estimate(1, &GenerateOptions::default(), Precision::F32)?;
    /// println!("{} MB", estimate.memory(Residency::OneByOne) / 1_000_000);
    /// # Ok::<(), unclip::Error>(())
    /// ```
    ///
    /// # Errors
    /// Options that are out of range.
    pub fn estimate(
        &self,
        captions: usize,
        options: &GenerateOptions,
        precision: Precision,
    ) -> Result<Estimate, Error> {
        let rows = options.seeds(captions)?.len();
        let settings = options.resolve(self)?;
        Ok(self.estimate_of(rows, &settings, options.size, precision))
    }

    pub(crate) fn estimate_of(
        &self,
        rows: usize,
        settings: &Settings,
        size: Option<[u32; 2]>,
        precision: Precision,
    ) -> Estimate {
        let of = Of { rows, precision };
        let mut stages = Vec::new();
        stages.extend(self.text.as_ref().map(|text| of.encoder(&text.encoder)));
        stages.extend(self.prior_text.as_ref().map(|text| of.encoder(&text.encoder)));
        match (&settings.prior, &self.prior, &self.ar_prior) {
            (Some(PriorSettings::Diffusion(own)), Some(slot), _) => {
                let shape = [rows * settings.candidates, slot.config().d_embedding];
                let stage = of.diffusion(slot, own, shape);
                let calls = stage.calls * settings.candidates;
                stages.push(StageEstimate { calls, ..stage });
            }
            (Some(PriorSettings::Autoregressive(own)), _, Some(slot)) => {
                let stage = of.encoder(slot);
                stages.push(StageEstimate { calls: own.codes * settings.candidates, ..stage });
            }
            _ => {}
        }
        let decoder = self.decoder.config();
        let [mut height, mut width] = match size {
            // the decoder's own pixels, or those of its latents
            Some([width, height]) => {
                let factor = self.autoencoder.as_ref().map_or(1, |it| it.config().factor());
                [height as usize / factor, width as usize / factor]
            }
            None => [decoder.unet.image_size(); 2],
        };
        let shape = [rows, decoder.channels, height, width];
        let decoding = of.diffusion(&self.decoder, &settings.decoder, shape);
        // what guides it is in memory beside it
        let guides = self.guides(settings).saturating_mul(precision.bytes_each());
        let weights = decoding.weights.saturating_add(guides);
        stages.push(StageEstimate { weights, ..decoding });
        if let Some(slot) = &self.autoencoder {
            let factor = slot.config().factor();
            (height, width) = (height * factor, width * factor);
            let working = slot.config().row_bytes([height, width]) as u64;
            stages.push(StageEstimate { working, ..of.encoder(slot) });
        }
        for (slot, own) in self.upsamplers.iter().zip(&settings.upsamplers) {
            let factor = slot.config().factor;
            (height, width) = (height * factor, width * factor);
            stages.push(of.diffusion(slot, own, [rows, 3, height, width]));
        }
        Estimate { stages }
    }
}

impl Bundle {
    /// Number of parameters of the networks that guide the decoder.
    fn guides(&self, settings: &Settings) -> u64 {
        let clip = settings.clip_guidance.map(|guidance| guidance.gradient.stage());
        let of_clip = match clip {
            Some(StageId::ImageEncoder) => self.image_encoder.as_ref().map(Slot::parameters),
            Some(_) => self.noised_image_encoder.as_ref().map(Slot::parameters),
            None => None,
        };
        let classifier = self.classifier.as_ref().filter(|_| settings.classifier_scale.is_some());
        let of_classifier = classifier.map(Slot::parameters);
        of_clip.unwrap_or(0).saturating_add(of_classifier.unwrap_or(0))
    }
}

/// What all stages of a call have in common.
struct Of {
    rows: usize,
    precision: Precision,
}

impl Of {
    /// A network that is called once.
    fn encoder<T: StageConfig>(&self, slot: &Slot<T>) -> StageEstimate {
        let (parameters, bytes) = (slot.parameters(), self.precision.bytes_each());
        StageEstimate {
            stage: slot.id(),
            parameters,
            weights: parameters.saturating_mul(bytes),
            working: 0,
            calls: 1,
            rows: self.rows,
        }
    }

    /// A network that samples.
    fn diffusion<T: Diffuses<D>, const D: usize>(
        &self,
        slot: &Slot<T>,
        settings: &StageSettings,
        shape: [usize; D],
    ) -> StageEstimate {
        // the sample, its noise, its prediction, and what samplers and samples between stages keep of them
        const SAMPLES: u64 = 6;
        let conditions = settings.conditions();
        let at_once = rows_at_once(slot.config(), shape, conditions).min(shape[0].max(1));
        let row = slot.config().row_bytes(shape).saturating_mul(conditions) as u64;
        let sample =
            shape.iter().fold(size_of::<f32>() as u64, |all, &n| all.saturating_mul(n as u64));
        let working = row.saturating_mul(at_once as u64);
        let calls =
            settings.steps * settings.sampler.calls_per_step() * self.rows.div_ceil(at_once);
        StageEstimate {
            working: working.saturating_add(sample.saturating_mul(SAMPLES)),
            calls,
            rows: at_once,
            ..self.encoder(slot)
        }
    }
}

/// How many samples may go through a network at once, which is at least one.
pub(crate) fn rows_at_once<T: Stage<D>, const D: usize>(
    config: &T,
    shape: [usize; D],
    conditions: usize,
) -> usize {
    let row = config.row_bytes(shape).saturating_mul(conditions).max(1) as u64;
    usize::try_from(Limit::BatchBytes.value() / row).unwrap_or(usize::MAX).max(1)
}

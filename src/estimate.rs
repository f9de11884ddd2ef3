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
    /// Bytes of what networks that sample and the autoencoder work on: those of the samples that go through
    /// together, and of all samples between the steps. Of encoders and of the autoregressive prior, which work
    /// on embeddings, it is 0.
    pub working: u64,
    /// Steps that it takes, as [`StageCost::calls`] counts them.
    pub steps: usize,
    /// Captions (the negative prompt is one), pictures or samples of a step.
    pub rows: usize,
    /// How many of them go through the network together.
    pub at_once: usize,
    /// Calls of the network, for all steps and rows.
    pub calls: usize,
}

/// What a call will need.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Estimate {
    /// Each stage, in the order of their turns.
    pub stages: Vec<StageEstimate>,
    /// Bytes of the weights of the whole model, those of stages included that have no turn.
    pub weights: u64,
}

impl Estimate {
    /// Bytes of memory that weights and work take: of [`Residency::OneByOne`], those of the largest stage; else
    /// those of the model's weights, and of the largest work. The program itself, its encoders' work, the
    /// conditions that a prior keeps for each sample, and what a graphics driver takes, come on top.
    pub fn memory(&self, residency: Residency) -> u64 {
        match residency {
            Residency::OneByOne => {
                let each =
                    self.stages.iter().map(|stage| stage.weights.saturating_add(stage.working));
                each.max().unwrap_or(0)
            }
            Residency::Resident => {
                let working = self.stages.iter().map(|stage| stage.working).max().unwrap_or(0);
                self.weights.saturating_add(working)
            }
        }
    }

    /// Seconds, at the rate that a call before had on this machine. `None` if it did not run all of these
    /// stages.
    pub fn seconds(&self, before: &[Rate]) -> Option<f64> {
        let stage = |stage: &StageEstimate| {
            let Rate { loading, each, .. } =
                before.iter().find(|rate| rate.stage == stage.stage)?;
            Some(loading + each * stage.steps as f64 * stage.rows as f64)
        };
        self.stages.iter().map(stage).sum()
    }

    /// Refuses more than [`Limit::MemoryBytes`].
    ///
    /// # Errors
    /// Names the largest stage, what is needed, and the limit.
    pub fn check(&self, residency: Residency) -> Result<(), InvalidSetting> {
        let largest =
            self.stages.iter().max_by_key(|stage| stage.weights.saturating_add(stage.working));
        let name = match largest {
            Some(largest) => format!(
                "memory of the call (most of it of the {}; fewer pictures at once, smaller ones, 16 bits and \
                 one stage in memory at a time take less)",
                largest.stage
            ),
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
        Ok(self.estimate_of([captions, rows], &settings, options.size, precision))
    }

    pub(crate) fn estimate_of(
        &self,
        [captions, rows]: [usize; 2],
        settings: &Settings,
        size: Option<[u32; 2]>,
        precision: Precision,
    ) -> Estimate {
        // the negative prompt is read beside the captions
        let reading = Of { rows: captions.saturating_add(1), precision };
        let of = Of { rows, precision };
        let mut stages = Vec::new();
        stages.extend(self.text.as_ref().map(|text| reading.encoder(&text.encoder)));
        stages.extend(self.prior_text.as_ref().map(|text| reading.encoder(&text.encoder)));
        match (&settings.prior, &self.prior, &self.ar_prior) {
            (Some(PriorSettings::Diffusion(own)), Some(slot), _) => {
                // one candidate for each row after the other
                let stage = of.diffusion(slot, own, [rows, slot.config().d_embedding]);
                stages.push(stage.times(settings.candidates));
            }
            (Some(PriorSettings::Autoregressive(own)), _, Some(slot)) => {
                let stage = of.encoder(slot);
                stages.push(stage.times(own.codes.saturating_mul(settings.candidates)));
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
        Estimate { stages, weights: self.weights_of_all(precision) }
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

impl StageEstimate {
    /// The same so many times over.
    fn times(self, count: usize) -> Self {
        let [steps, calls] = [self.steps, self.calls].map(|it| it.saturating_mul(count));
        Self { steps, calls, ..self }
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
            steps: 1,
            rows: self.rows,
            at_once: self.rows,
            calls: 1,
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
        let most = rows_at_once(slot.config(), shape, conditions).min(self.rows.max(1));
        let parts = self.rows.div_ceil(most);
        // parts are as equal as they can be
        let at_once = self.rows.div_ceil(parts.max(1));
        let row = slot.config().row_bytes(shape).saturating_mul(conditions) as u64;
        let sample =
            shape.iter().fold(size_of::<f32>() as u64, |all, &n| all.saturating_mul(n as u64));
        let working = row.saturating_mul(at_once as u64);
        StageEstimate {
            working: working.saturating_add(sample.saturating_mul(SAMPLES)),
            steps: settings.steps,
            at_once,
            calls: (settings.steps * settings.sampler.calls_per_step()).saturating_mul(parts),
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

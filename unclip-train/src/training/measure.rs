//! What the stages of a bundle are worth on all that is held out.

use std::ops::ControlFlow;

use burn::module::Module;
use unclip_core::{InvalidSetting, Limit};
use unclip_nn::checkpoint::{Fnv, Weights, read_file};

use super::Training;
use super::ready::Ready;
use super::watch::SEED;
use crate::TrainError;
use crate::evaluation::{Evaluation, HeldOut, Measured};
use crate::objective::{Objective, Source};
use crate::plan::{EvaluationPlan, RunPlan};
use crate::train_stage::TrainStage;

/// Who hears of progress: parts that are done, of how many.
type Observer<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

impl Training {
    /// Measures a stage of the bundle on all that is held out, in parts of `evaluation.items` (what is left
    /// over is not measured): everything that is not there yet, or the share of one of several machines,
    /// which have the folder `evaluation` of the run in common. Ranks are those among the items of a part.
    /// The result are the measures of all parts, once none is missing. The observer hears after each part
    /// how many are done, of how many.
    ///
    /// # Errors
    /// A plan that cannot be trained, nothing that is held out, a stage that is not there, cannot be read or
    /// gives no numbers, files that cannot be written.
    pub fn measure(
        &self,
        stage: TrainStage,
        share: (usize, usize),
        observer: Observer<'_>,
    ) -> Result<Option<Evaluation>, TrainError> {
        self.check()?;
        let (held_out, measured) = self.parts_of(stage)?;
        if let Some(all) = measured.merged()? {
            return Ok(Some(all));
        }
        let mut own = self.clone();
        // with the weights that are there, which are asked for what is held out
        own.from = Some(self.bundle());
        own.plan.embeddings.enabled = false;
        let settings = own.plan.settings(stage)?;
        let parts = (&held_out, &measured, share);
        match stage {
            TrainStage::Embeddings => return Err(no_network()),
            TrainStage::Clip => worth(own.clip_towers(&settings)?, parts, observer),
            TrainStage::Prior => worth(own.prior(&settings)?, parts, observer),
            TrainStage::ArPrior => worth(own.ar_prior(&settings)?, parts, observer),
            TrainStage::Noised => worth(own.noised(&settings)?, parts, observer),
            TrainStage::Decoder => worth(own.decoder(&settings)?, parts, observer),
            TrainStage::Upsampler(place) => {
                worth(own.upsampler(place, &settings)?, parts, observer)
            }
        }?;
        Ok(measured.merged()?)
    }

    /// What is held out, and where the measures of a stage are.
    fn parts_of(&self, stage: TrainStage) -> Result<(HeldOut, Measured), TrainError> {
        if stage == TrainStage::Embeddings {
            return Err(no_network());
        }
        let name = if stage == TrainStage::Clip { "text_encoder".into() } else { stage.name() };
        if !self.bundle().join(&name).is_dir() {
            let found = format!("absent from {}", self.bundle().display());
            let expected = format!("trained: train the stage {} first", stage.name());
            return Err(InvalidSetting::new(name, found, expected).into());
        }
        let Some(data) = &self.held_out else {
            let expected = "held-out data: evaluation.paths, or a share, evaluation.held_out";
            return Err(InvalidSetting::new("evaluation", "nothing is held out", expected).into());
        };
        let device = self.device().clone();
        let source = Source { data: data.clone(), batch: 1, seed: SEED, device };
        let held_out = HeldOut::new(source, self.plan.evaluation.items, 0);
        let measured = Measured {
            folder: self.plan.run.out.join("evaluation").join(stage.name()),
            origin: self.origin_of(stage, &held_out)?,
            n: held_out.parts(),
        };
        Ok((held_out, measured))
    }

    /// What measures are of: files of the bundle, data, and the plan but for where things are.
    fn origin_of(&self, stage: TrainStage, held_out: &HeldOut) -> Result<String, TrainError> {
        // what it is measured by is part of what is measured
        let mut stages = vec!["text_encoder".to_string(), "image_encoder".to_string()];
        match stage {
            TrainStage::Clip => {}
            TrainStage::Upsampler(_) => stages = vec![stage.name()],
            _ => stages.push(stage.name()),
        }
        let mut hash = Fnv::default();
        for name in &stages {
            let folder = self.bundle().join(name);
            hash.add(&read_file(&folder.join("config.json"), Limit::ConfigBytes)?);
            hash.add(Weights::open(&folder.join("model.safetensors"))?.fingerprint()?.as_bytes());
        }
        if stages.len() > 1 {
            hash.add(&read_file(
                &self.bundle().join("tokenizer/merges.txt"),
                Limit::VocabularyBytes,
            )?);
        }
        let mut plan = self.plan.clone();
        plan.run = RunPlan { seed: plan.run.seed, ..RunPlan::default() };
        plan.data.paths.clear();
        plan.evaluation =
            EvaluationPlan { items: plan.evaluation.items, ..EvaluationPlan::default() };
        hash.add(plan.to_toml().as_bytes());
        let data = held_out.source.data.name();
        Ok(format!("{} and plan {}, {} items of {data}", stage.name(), hash.name(), held_out.items))
    }
}

fn worth<O: Objective, C>(
    ready: Ready<O, C>,
    (held_out, measured, share): (&HeldOut, &Measured, (usize, usize)),
    observer: Observer<'_>,
) -> Result<(), TrainError> {
    let network = ready.network.valid();
    let measure = |part| ready.objective.evaluate(&network, &HeldOut { part, ..held_out.clone() });
    measured.measure(share, measure, observer)
}

fn no_network() -> TrainError {
    let expected = "a stage with a network";
    InvalidSetting::new("stage", TrainStage::Embeddings.name(), expected).into()
}

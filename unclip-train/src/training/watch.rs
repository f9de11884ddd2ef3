//! What happens between the steps of a stage: measuring, drawing, writing down.

use unclip_nn::checkpoint::StageFiles;
use unclip_prior::DiffusionPriorConfig;

use super::Training;
use crate::evaluation::{EvaluationLog, HeldOut};
use crate::objective::{Objective, Source};
use crate::train_stage::TrainStage;
use crate::{StepReport, TrainError, Trainer};

/// Seed of the draws of evaluations, which are the same in every run.
pub(super) const SEED: u64 = 0x5eed;

/// Evaluates every so many steps, and writes it down.
pub(super) struct Watch {
    held_out: Option<HeldOut>,
    every: u64,
    log: EvaluationLog,
}

impl Watch {
    /// After a step.
    pub(super) fn after<O: Objective>(
        &mut self,
        report: &StepReport,
        trainer: &Trainer<O::Network>,
        objective: &O,
    ) -> Result<(), TrainError> {
        self.log.step(report)?;
        let Some(held_out) = &self.held_out else { return Ok(()) };
        let is_due = self.every > 0 && report.step.is_multiple_of(self.every);
        if !is_due && report.step != trainer.settings().steps {
            return Ok(());
        }
        let evaluation = objective.evaluate(trainer.average(), held_out)?;
        self.log.evaluation(report.step, &evaluation)?;
        match evaluation.get("loss") {
            Some(loss) => trainer.keep_if_best(loss),
            None => Ok(()),
        }
    }
}

impl Training {
    /// What watches over a stage whose last step was this one.
    pub(super) fn watch(&self, stage: TrainStage, step: u64) -> Result<Watch, TrainError> {
        let plan = &self.plan.evaluation;
        let folder = self.plan.run.out.join(stage.name());
        let log = EvaluationLog::open(&folder, (&stage.name(), step), plan.tensorboard)?;
        let held_out = match &self.held_out {
            Some(data) if plan.every > 0 => {
                let device = self.device().clone();
                let source = Source { data: data.clone(), batch: 1, seed: SEED, device };
                let mut held_out = HeldOut::new(source, plan.items, plan.shown);
                held_out.captions.clone_from(&plan.captions);
                held_out.prior = self.prior_of(stage)?;
                Some(held_out)
            }
            _ => None,
        };
        Ok(Watch { held_out, every: plan.every, log })
    }

    /// The prior that shows what a decoder draws from captions, if it is there already and of the same CLIP.
    fn prior_of(
        &self,
        stage: TrainStage,
    ) -> Result<Option<(DiffusionPriorConfig, unclip_prior::DiffusionPrior)>, TrainError> {
        let folder = self.bundle().join(TrainStage::Prior.name());
        if stage != TrainStage::Decoder || !folder.is_dir() {
            return Ok(None);
        }
        let files = StageFiles::<DiffusionPriorConfig>::open(&folder)?;
        if files.manifest.embedding_space != self.clip()?.1 {
            return Ok(None);
        }
        Ok(Some((files.manifest.config.clone(), files.load(self.device())?)))
    }
}

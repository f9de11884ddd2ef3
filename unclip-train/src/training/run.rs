//! The loop of a stage.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use unclip_nn::checkpoint::{StageConfig, save_stage};
use unclip_nn::{Precision, is_cpu};

use super::Training;
use super::ready::{Constraint, Loop, Ready};
use crate::ahead::Ahead;
use crate::loss_curve::Curve;
use crate::objective::Objective;
use crate::parts::Parts;
use crate::{StepReport, TrainError, TrainSettings, Trainer};

impl Training {
    /// Trains a stage of one network, and writes it into the bundle.
    pub(super) fn train_stage<O: Objective, C: StageConfig<Network = O::Network> + Clone>(
        &self,
        ready: Ready<O, C>,
        of: Loop<'_>,
    ) -> Result<bool, TrainError> {
        let (stage, space, config) = (ready.stage, ready.space.clone(), ready.config.clone());
        let trainer = self.run(ready, of, |network| network)?;
        let folder = self.bundle().join(stage.name());
        save_stage(&folder, &space, &config, trainer.average(), Precision::F16)?;
        Ok(trainer.is_done())
    }

    /// Runs the loop with a time limit and a loss curve on disk. A run rests on a CLIP, by the name
    /// of its space, and on the weights that it starts from: with others it is another run.
    pub(super) fn run<O: Objective, C>(
        &self,
        ready: Ready<O, C>,
        (settings, observer): Loop<'_>,
        constrain: Constraint<O::Network>,
    ) -> Result<Trainer<O::Network>, TrainError> {
        let Ready { stage, space, network, objective, .. } = ready;
        let folder = self.plan.run.out.join(stage.name());
        let from = self.from.as_ref().map(|from| format!("weights of {}", from.display()));
        let clip = (!space.is_empty()).then(|| format!("CLIP {space}"));
        let rests_on: Vec<String> = clip.into_iter().chain(from).collect();
        let (data, rests_on) = (self.data.name(), rests_on.join(", "));
        let settings = TrainSettings { data, rests_on, ..settings };
        let parts = Parts::new(objective, &self.devices, (settings.batch, settings.accumulate))?
            .in_precision(self.plan.run.precision)
            .with_all_reduce(self.plan.run.all_reduce)?;
        let trainer = Trainer::new(network, settings, &folder, self.changes)?;
        let kept = self.plan.run.keep_checkpoints;
        let mut trainer = trainer.with_constraint(constrain).keeping(kept);
        let mut curve = Curve::open(&folder.join("loss.jsonl"), trainer.step())?;
        let mut watch = self.watch(stage, trainer.step())?;
        let start = Instant::now();
        let interval = Duration::from_secs(self.plan.run.checkpoint_seconds);
        let waited = Cell::new(0.0);
        let observer = |report: &StepReport, trainer: &Trainer<O::Network>| {
            let report = &StepReport { waited: waited.get(), ..*report };
            curve.push(report);
            watch.after(report, trainer, parts.first())?;
            if self.time_limit.is_some_and(|limit| start.elapsed() >= limit) {
                return Ok(ControlFlow::Break(()));
            }
            Ok(observer(report))
        };
        let make = |step| parts.first().batch(step);
        std::thread::scope(|scope| {
            // where the CPU trains, no core is free to prepare batches meanwhile
            let batches = if is_cpu(self.device()) {
                Ahead::in_turn(&make)
            } else {
                Ahead::on_threads(&make, trainer.step(), scope)
            };
            let learn = |model: &O::Network, step| {
                let asked = Instant::now();
                let batch = batches.next(step)?;
                waited.set(asked.elapsed().as_secs_f64());
                Ok(parts.learn(model, batch))
            };
            trainer.run(interval, learn, observer)
        })?;
        if self.plan.evaluation.use_best { trainer.with_best() } else { Ok(trainer) }
    }
}

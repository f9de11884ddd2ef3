//! The training loop: model-agnostic, step-based, resumable at any moment.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use burn::tensor::Tensor;
use serde::Serialize;

use crate::best::{best_digest, keep_if_best, read_best};
use crate::checkpoint::{
    Changes, Place, Pointer, Progress, put_in_force, read_checkpoint, write_files,
};
use crate::ema::{update_average, warmed_decay};
use crate::finite::all_finite;
use crate::gradients::{self, Learned};
use crate::mixed::checkpointed;
use crate::optimizer::optimizer;
use crate::{TrainError, TrainSettings};

/// Steps in a row without a finite loss after which training gives up.
const MAX_SKIPPED_IN_A_ROW: u64 = 50;

/// One finished training step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// Loss of the step's batch.
    pub loss: f64,
    /// Norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Steps so far that were skipped because they were not finite.
    pub skipped: u64,
    /// Seconds that the step took.
    pub seconds: f64,
    /// Seconds of these that were spent waiting for the batch. [`Trainer`] itself reports 0.
    pub waited: f64,
}

/// A model in training.
pub struct Trainer<M: Module> {
    model: M,
    average: M,
    optimizer: ModuleOptimizer,
    settings: TrainSettings,
    folder: PathBuf,
    progress: Progress,
    /// What keeps weights where they may be, after each step.
    constrain: fn(M) -> M,
    /// The checkpoint from which the learning rate fell, if it has.
    plateau: Option<Place>,
    /// How many checkpoints stay.
    kept: usize,
    /// The step of the checkpoint from which another run would go on.
    in_force: Option<u64>,
}

impl<M: Module> Trainer<M> {
    /// Starts, or goes on where a checkpoint in `folder` ends.
    ///
    /// `model` is on a plain device; it gives the sizes, and the first weights if there is no
    /// checkpoint.
    ///
    /// # Errors
    /// Settings that cannot be used, or a checkpoint that cannot be read, belongs to other sizes or
    /// settings, or is beyond the steps asked for.
    pub fn new(
        model: M,
        settings: TrainSettings,
        folder: &Path,
        changes: Changes,
    ) -> Result<Self, TrainError> {
        settings.validate()?;
        let model_in_training = if settings.gradient_checkpointing {
            checkpointed(model.clone())
        } else {
            model.clone().train()
        };
        let mut trainer = Self {
            optimizer: optimizer(&settings, &model_in_training),
            average: model,
            model: model_in_training,
            settings,
            folder: folder.into(),
            progress: Progress::default(),
            constrain: |model| model,
            plateau: None,
            kept: 1,
            in_force: None,
        };
        if let Some(saved) = read_checkpoint(&trainer.folder, &trainer.settings, changes)? {
            trainer.progress = saved.place.progress.clone();
            trainer.in_force = Some(trainer.progress.step);
            trainer.plateau = saved.plateau.clone();
            trainer.model = saved.load("model", trainer.model)?;
            trainer.average = saved.load("average", trainer.average)?;
            // which weights decay goes by names that come with the weights
            trainer.optimizer = optimizer(&trainer.settings, &trainer.model);
            trainer.optimizer = saved.load_optimizer(trainer.optimizer)?;
        }
        Ok(trainer)
    }

    /// Lets a function bring weights back to where they may be, after each step.
    #[must_use]
    pub fn with_constraint(self, constrain: fn(M) -> M) -> Self {
        Self { constrain, ..self }
    }

    /// Lets so many checkpoints stay, the last ones.
    #[must_use]
    pub fn keeping(self, checkpoints: usize) -> Self {
        Self { kept: checkpoints, ..self }
    }

    /// Steps done so far, those of earlier runs included.
    pub fn step(&self) -> u64 {
        self.progress.step
    }

    /// Whether all steps are done.
    pub fn is_done(&self) -> bool {
        self.progress.step >= self.settings.steps
    }

    /// How it trains.
    pub fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    /// Keeps the averaged weights if no others had a lower loss, in the folder `best` beside the
    /// checkpoints.
    ///
    /// # Errors
    /// Files that cannot be written; what was best before then stays.
    pub fn keep_if_best(&self, loss: f64) -> Result<(), TrainError> {
        keep_if_best(&self.folder, (self.progress.step, loss), &self.average)
    }

    /// The same with the weights of the lowest loss as its average, if any were kept.
    ///
    /// # Errors
    /// Files that cannot be read.
    pub fn with_best(mut self) -> Result<Self, TrainError> {
        self.average = read_best(&self.folder, self.average)?;
        Ok(self)
    }

    /// The digest of the weights of the lowest loss, if any were kept.
    pub(crate) fn best_digest(&self) -> Result<Option<String>, TrainError> {
        best_digest(&self.folder)
    }

    /// The averaged weights, on a plain device: the model to use.
    pub fn average(&self) -> &M {
        &self.average
    }

    /// Trains until all steps are done or the observer, which gets the report of every step and the
    /// trainer, stops it, writing a checkpoint every
    /// `interval` and at the end. `learn` gets the model and the step, from which it draws its
    /// batch, and gives the loss and its gradients.
    ///
    /// # Errors
    /// Those of `learn` and of the observer, a checkpoint that cannot be written, [`TrainError::Diverged`], or
    /// [`TrainError::WeightsNotFinite`]; the checkpoint of before then stays.
    pub fn run(
        &mut self,
        interval: Duration,
        mut learn: impl FnMut(&M, u64) -> Result<Learned, TrainError>,
        mut observer: impl FnMut(&StepReport, &Self) -> Result<ControlFlow<()>, TrainError>,
    ) -> Result<(), TrainError> {
        let mut saved = Instant::now();
        while self.progress.step < self.settings.steps {
            let report = self.take_step(&mut learn)?;
            match observer(&report, self) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => return self.save_if_sound(),
                Err(error) => {
                    // what went wrong first is what is said
                    let _ = self.save_if_sound();
                    return Err(error);
                }
            }
            if (self.plateau_ends() || saved.elapsed() >= interval) && self.is_sound() {
                self.save()?;
                saved = Instant::now();
            }
        }
        if self.is_sound() { self.save() } else { Err(self.diverged()) }
    }

    /// Whether the last step was taken: weights whose losses are not finite may be of no use, and a
    /// checkpoint of before is worth more than theirs.
    fn is_sound(&self) -> bool {
        self.progress.skipped_in_a_row == 0
    }

    fn save_if_sound(&mut self) -> Result<(), TrainError> {
        if self.is_sound() {
            return self.save();
        }
        let skipped = self.progress.skipped_in_a_row;
        tracing::warn!(skipped, "losses are not finite: the checkpoint of before them stays");
        Ok(())
    }

    /// Writes a checkpoint from which [`new`](Self::new) goes on.
    ///
    /// # Errors
    /// Files that cannot be written, [`TrainError::WeightsNotFinite`]; an older checkpoint then stays.
    pub fn save(&mut self) -> Result<(), TrainError> {
        if !all_finite(&self.model) || !all_finite(&self.average) {
            let Progress { step, .. } = self.progress;
            return Err(TrainError::WeightsNotFinite { step, checkpoint: self.in_force });
        }
        let modules = [("model", &self.model), ("average", &self.average)];
        let mut place = Place::free(&self.folder, &self.progress);
        write_files(&self.folder, &mut place, modules, &self.optimizer)?;
        if self.plateau_ends() {
            self.plateau = Some(place.clone());
        }
        let pointer =
            Pointer { place, settings: self.settings.clone(), plateau: self.plateau.clone() };
        put_in_force(&self.folder, &pointer, self.kept)?;
        self.in_force = Some(self.progress.step);
        Ok(())
    }

    fn plateau_ends(&self) -> bool {
        self.settings.cooldown > 0 && self.progress.step == self.settings.cooldown_start()
    }

    fn take_step(
        &mut self,
        learn: &mut impl FnMut(&M, u64) -> Result<Learned, TrainError>,
    ) -> Result<StepReport, TrainError> {
        let start = Instant::now();
        let step = self.progress.step;
        let learning_rate = self.settings.learning_rate_at(step);
        let Learned { loss, gradients } = learn(&self.model, step)?;
        let norm = gradients::global_norm(&self.model, &gradients)
            .unwrap_or_else(|| loss.clone().zeros_like());
        let read = Tensor::cat(vec![loss, norm], 0).into_data();
        let read: Vec<f64> = read.iter::<f64>().collect();
        let (value, norm) = (read[0], read[1]);
        if value.is_finite() && norm.is_finite() {
            self.apply(gradients, norm, learning_rate);
            self.progress.skipped_in_a_row = 0;
        } else {
            self.skip()?;
        }
        self.progress.step += 1;
        Ok(StepReport {
            step: self.progress.step,
            loss: value,
            gradient_norm: norm,
            learning_rate,
            skipped: self.progress.skipped,
            seconds: start.elapsed().as_secs_f64(),
            waited: 0.0,
        })
    }

    fn apply(&mut self, gradients: burn::optim::GradientsParams, norm: f64, learning_rate: f64) {
        let gradients = if norm > self.settings.max_norm {
            gradients::scale(&self.model, gradients, self.settings.max_norm / norm)
        } else {
            gradients
        };
        let stepped = self.optimizer.step(learning_rate, self.model.clone(), gradients);
        self.model = (self.constrain)(stepped);
        let decay = warmed_decay(self.settings.ema_decay, self.progress.step);
        self.average = update_average(self.average.clone(), &self.model.valid(), decay);
    }

    fn skip(&mut self) -> Result<(), TrainError> {
        self.progress.skipped += 1;
        self.progress.skipped_in_a_row += 1;
        if self.progress.skipped_in_a_row <= MAX_SKIPPED_IN_A_ROW {
            return Ok(());
        }
        Err(self.diverged())
    }

    fn diverged(&self) -> TrainError {
        let Progress { step, skipped_in_a_row, .. } = self.progress;
        TrainError::Diverged { step, skipped: skipped_in_a_row, checkpoint: self.in_force }
    }
}

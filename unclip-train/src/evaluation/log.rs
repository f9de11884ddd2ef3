//! What is written down of a run: JSON lines, pictures, and TensorBoard's events.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::ImageFormat;
use serde::{Deserialize, Serialize};
use unclip_nn::checkpoint::{LoadError, write_whole};

use super::held_out::Evaluation;
use super::tensorboard::Events;
use crate::loss_curve::Curve;
use crate::{StepReport, TrainError};

/// Steps between two losses in TensorBoard's file.
const EVERY: u64 = 10;

/// A line of `evaluation.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    step: u64,
    #[serde(flatten)]
    measures: BTreeMap<String, f64>,
}

/// The records of a stage's run.
pub(crate) struct EvaluationLog {
    folder: PathBuf,
    stage: String,
    lines: Curve,
    events: Option<Events>,
}

impl EvaluationLog {
    /// Goes on after a step; `events` is whether TensorBoard's file is wanted.
    pub(crate) fn open(
        folder: &Path,
        (stage, step): (&str, u64),
        events: bool,
    ) -> Result<Self, TrainError> {
        let lines = Curve::open(&folder.join("evaluation.jsonl"), step)?;
        let events = if events { Some(Events::create(&folder.join("events"))?) } else { None };
        Ok(Self { folder: folder.into(), stage: stage.into(), lines, events })
    }

    /// A step.
    pub(crate) fn step(&mut self, report: &StepReport) -> Result<(), LoadError> {
        let Some(events) = &mut self.events else { return Ok(()) };
        if report.step.is_multiple_of(EVERY) {
            for (name, value) in [
                ("loss", report.loss),
                ("gradient_norm", report.gradient_norm),
                ("learning_rate", report.learning_rate),
            ] {
                events.scalar(report.step, &format!("{}/{name}", self.stage), value)?;
            }
        }
        Ok(())
    }

    /// An evaluation.
    pub(crate) fn evaluation(
        &mut self,
        step: u64,
        evaluation: &Evaluation,
    ) -> Result<(), LoadError> {
        let values = evaluation.measures.iter().map(|(name, mean)| (name.clone(), mean.value));
        self.lines.push(&Line { step, measures: values.collect() });
        if let Some(events) = &mut self.events {
            for (name, mean) in &evaluation.measures {
                events.scalar(step, &format!("{}/held_out/{name}", self.stage), mean.value)?;
            }
        }
        let Some(pictures) = &evaluation.pictures else { return Ok(()) };
        let folder = self.folder.join("samples");
        let path = folder.join(format!("step-{step:08}.png"));
        let io = |source| LoadError::Io { path: path.clone(), source };
        std::fs::create_dir_all(&folder).map_err(io)?;
        let mut png = Cursor::new(Vec::new());
        pictures
            .write_to(&mut png, ImageFormat::Png)
            .map_err(|error| io(std::io::Error::other(error)))?;
        write_whole(&path, png.get_ref())?;
        if let Some(events) = &mut self.events {
            let name = format!("{}/samples", self.stage);
            events.picture(step, &name, (pictures.dimensions().into(), png.get_ref()))?;
        }
        Ok(())
    }
}

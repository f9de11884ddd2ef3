//! The reports of a run on disk, one JSON object on a line.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use unclip_nn::checkpoint::{LoadError, write_whole};

use crate::TrainError;

/// A file that grows by a line with every step.
pub(crate) struct Curve(BufWriter<File>);

/// What of a report tells where it belongs.
#[derive(Deserialize)]
struct Position {
    step: u64,
}

impl Curve {
    /// Goes on after the reports of the steps up to `step`: an interrupted run takes those after
    /// its last checkpoint once more.
    pub(crate) fn open(path: &Path, step: u64) -> Result<Self, TrainError> {
        let io = |source| LoadError::Io { path: path.into(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        match std::fs::read_to_string(path) {
            Ok(before) => {
                let counts = |line: &&str| {
                    let report: Option<Position> = serde_json::from_str(line).ok();
                    report.is_some_and(|report| report.step <= step)
                };
                let kept: Vec<&str> = before.lines().filter(counts).collect();
                if kept.len() < before.lines().count() {
                    let lines: String = kept.iter().flat_map(|line| [*line, "\n"]).collect();
                    write_whole(path, lines.as_bytes())?;
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io(error).into()),
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        Ok(Self(BufWriter::new(file)))
    }

    /// Appends a report. A curve that cannot be written does not stop the training.
    pub(crate) fn push(&mut self, report: &impl Serialize) {
        let line = serde_json::to_string(report).unwrap_or_default();
        if let Err(error) = writeln!(self.0, "{line}").and_then(|()| self.0.flush()) {
            tracing::warn!(%error, "a curve cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StepReport;

    #[test]
    fn a_step_that_is_taken_again_stands_there_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let report = |step| StepReport {
            step,
            loss: 0.5,
            gradient_norm: 1.0,
            learning_rate: 0.1,
            skipped: 0,
            seconds: 0.0,
            waited: 0.0,
        };
        for (from, to) in [(0, 5), (3, 4), (4, 7)] {
            let mut curve =
                Curve::open(&folder.path().join("loss.jsonl"), from).expect("it can be opened");
            (from + 1..=to).for_each(|step| curve.push(&report(step)));
        }
        let text = std::fs::read_to_string(folder.path().join("loss.jsonl")).expect("it is there");
        let steps: Vec<u64> = text
            .lines()
            .map(|line| serde_json::from_str::<Position>(line).expect("a report").step)
            .collect();
        assert_eq!(steps, [1, 2, 3, 4, 5, 6, 7]);
    }
}

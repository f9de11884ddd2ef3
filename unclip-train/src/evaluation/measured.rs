//! Measures of all that is held out, part by part, and divided among machines.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::{LoadError, load_config, write_whole};

use super::held_out::{Evaluation, Mean};
use crate::TrainError;
use crate::settings::check_share;

/// The measures of a stage, in files of a folder, one for each part of the data.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    pub(crate) folder: PathBuf,
    /// Of which weights on which data.
    pub(crate) origin: String,
    /// How many there are.
    pub(crate) n: usize,
}

/// A file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    origin: String,
    measures: BTreeMap<String, Mean>,
}

impl Measured {
    /// Measures the parts of one of several machines that are not there yet. The observer hears after each
    /// of them how many are done, of how many.
    pub(crate) fn measure(
        &self,
        (machine, machines): (usize, usize),
        mut measure: impl FnMut(u64) -> Result<Evaluation, TrainError>,
        observer: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        check_share((machine, machines))?;
        let io = |source| LoadError::Io { path: self.folder.clone(), source };
        std::fs::create_dir_all(&self.folder).map_err(io)?;
        let own: Vec<usize> = (machine..self.n).step_by(machines).collect();
        for (done, part) in own.iter().enumerate() {
            if self.read(*part)?.is_none() {
                let Evaluation { measures, .. } = measure(*part as u64)?;
                if let Some((name, mean)) = measures.iter().find(|(_, it)| !it.value.is_finite()) {
                    let expected = "a number: weights are damaged, or their training diverged";
                    let name = format!("{name} of {}", self.folder.display());
                    return Err(InvalidSetting::new(name, mean.value, expected).into());
                }
                let text = serde_json::to_string(&Part { origin: self.origin.clone(), measures });
                let text = text.map_err(|error| io(std::io::Error::other(error)))?;
                write_whole(&self.path(*part), text.as_bytes())?;
            }
            if observer(done as u64 + 1, own.len() as u64).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn path(&self, part: usize) -> PathBuf {
        self.folder.join(format!("part-{part:05}-of-{:05}.json", self.n))
    }

    /// A part, if it is there; one of other weights or of other data is not, nor one that is damaged.
    fn read(&self, part: usize) -> Result<Option<BTreeMap<String, Mean>>, LoadError> {
        let path = self.path(part);
        if !path.exists() {
            return Ok(None);
        }
        let part: Part = match load_config(&path) {
            Ok(part) => part,
            Err(error @ LoadError::Io { .. }) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "a part is measured again");
                return Ok(None);
            }
        };
        let counts = part.measures.values().all(|mean| mean.n > 0 && mean.value.is_finite());
        let is_own = part.origin == self.origin && counts && !part.measures.is_empty();
        Ok(is_own.then_some(part.measures))
    }

    /// The measures of all parts together, if none is missing.
    pub(crate) fn merged(&self) -> Result<Option<Evaluation>, LoadError> {
        let mut measures: BTreeMap<String, Mean> = BTreeMap::new();
        for part in 0..self.n {
            let Some(found) = self.read(part)? else { return Ok(None) };
            for (name, mean) in found {
                let joined = measures.get(&name).map_or(mean, |before| before.joined(mean));
                measures.insert(name, joined);
            }
        }
        Ok(Some(Evaluation { measures, pictures: None }))
    }
}

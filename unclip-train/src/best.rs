//! The weights of the lowest loss on what is held out.

use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::{Deserialize, Serialize};
use unclip_core::Printable;
use unclip_nn::checkpoint::{LoadError, load_config, save_config};

use crate::TrainError;
use crate::digest::{digest, expect_digest};

/// Which weights they are; it is written after them.
#[derive(Debug, Serialize, Deserialize)]
struct Best {
    step: u64,
    loss: f64,
    /// The digest of the file.
    #[serde(default)]
    digest: Option<String>,
}

const RECORD: &str = "best.json";

impl Best {
    /// Where the weights are. A step that is taken once more may have others, which get another name.
    fn weights(&self, folder: &Path) -> PathBuf {
        let name = match &self.digest {
            Some(digest) => format!("step-{}-{digest}.bpk", self.step),
            None => format!("step-{}.bpk", self.step),
        };
        folder.join("best").join(name)
    }
}

/// Keeps weights in a folder if those that are there had a higher loss, or come later in the run: a run that
/// was interrupted takes steps once more.
pub(crate) fn keep_if_best<M: Module>(
    folder: &Path,
    (step, loss): (u64, f64),
    model: &M,
) -> Result<(), TrainError> {
    let record = folder.join(RECORD);
    let before: Option<Best> = if record.exists() { Some(load_config(&record)?) } else { None };
    let place = folder.join("best");
    if let Some(before) = before.as_ref().filter(|it| it.step < step && it.loss <= loss) {
        remove_others(&place, &before.weights(folder));
        return Ok(());
    }
    if !loss.is_finite() {
        return Ok(());
    }
    std::fs::create_dir_all(&place)
        .map_err(|source| LoadError::Io { path: place.clone(), source })?;
    let unfinished = place.join("unfinished.bpk");
    let failed = |error: &dyn std::fmt::Display| TrainError::Checkpoint {
        path: unfinished.clone(),
        message: format!("cannot be written: {error}"),
    };
    model.clone().save_file(&unfinished).map_err(|error| failed(&error))?;
    let best = Best { step, loss, digest: Some(digest(&unfinished)?) };
    let path = best.weights(folder);
    std::fs::rename(&unfinished, &path).map_err(|error| failed(&error))?;
    save_config(&record, &best)?;
    remove_others(&place, &path);
    Ok(())
}

/// Removes what is no longer the best, and what was left of writing it by a process that was killed. What cannot be
/// removed costs only space.
fn remove_others(folder: &Path, best: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_weights = path.to_string_lossy().contains(".bpk");
        if path != best
            && is_weights
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(%error, "weights that are no longer the best stay");
        }
    }
}

/// The digest of the weights that were kept, if any were.
pub(crate) fn best_digest(folder: &Path) -> Result<Option<String>, TrainError> {
    let record = folder.join(RECORD);
    if !record.exists() {
        return Ok(None);
    }
    Ok(load_config::<Best>(&record)?.digest)
}

/// The weights that were kept, or the model as it is.
pub(crate) fn read_best<M: Module>(folder: &Path, model: M) -> Result<M, TrainError> {
    let record = folder.join(RECORD);
    if !record.exists() {
        return Ok(model);
    }
    let best: Best = load_config(&record)?;
    let path = best.weights(folder);
    let remedy = format!("remove {RECORD} beside its folder to go without it");
    expect_digest(&path, best.digest.as_deref(), &remedy)?;
    model.try_load_file(&path).map_err(|error| TrainError::Checkpoint {
        path: path.clone(),
        message: format!("{}; {remedy}", Printable(error)),
    })
}

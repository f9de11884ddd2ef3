//! The weights of the lowest loss on what is held out.

use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::{Deserialize, Serialize};
use unclip_nn::checkpoint::{LoadError, load_config, save_config};

use crate::TrainError;

/// Which weights they are; it is written after them.
#[derive(Debug, Serialize, Deserialize)]
struct Best {
    step: u64,
    loss: f64,
}

const RECORD: &str = "best.json";

fn weights(folder: &Path, step: u64) -> PathBuf {
    folder.join("best").join(format!("step-{step}.bpk"))
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
    if !loss.is_finite() || before.as_ref().is_some_and(|it| it.step < step && it.loss <= loss) {
        return Ok(());
    }
    let path = weights(folder, step);
    let place = folder.join("best");
    std::fs::create_dir_all(&place)
        .map_err(|source| LoadError::Io { path: place.clone(), source })?;
    model.clone().save_file(&path).map_err(|error| TrainError::Checkpoint {
        path: path.clone(),
        message: format!("cannot be written: {error}"),
    })?;
    save_config(&record, &Best { step, loss })?;
    if let Some(before) = before.filter(|it| it.step != step)
        && let Err(error) = std::fs::remove_file(weights(folder, before.step))
    {
        tracing::warn!(%error, "weights that are no longer the best stay");
    }
    Ok(())
}

/// The weights that were kept, or the model as it is.
pub(crate) fn read_best<M: Module>(folder: &Path, model: M) -> Result<M, TrainError> {
    let record = folder.join(RECORD);
    if !record.exists() {
        return Ok(model);
    }
    let Best { step, .. } = load_config(&record)?;
    let path = weights(folder, step);
    model.try_load_file(&path).map_err(|error| TrainError::Checkpoint {
        path: path.clone(),
        message: format!("{error}; remove {RECORD} beside its folder to go without it"),
    })
}

//! Everything that an interrupted run needs to go on as if nothing had happened.
//!
//! A checkpoint is a folder of its own; `checkpoint.json` names the one that counts and is replaced
//! last, so a crash at any moment leaves the older checkpoint in force.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use serde::{Deserialize, Serialize};
use unclip_nn::checkpoint::{LoadError, load_config, save_config};

use crate::{TrainError, TrainSettings};

const POINTER: &str = "checkpoint.json";

/// How far a run is. The position in the data follows from the step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) step: u64,
    pub(crate) skipped: u64,
    pub(crate) skipped_in_a_row: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Pointer {
    folder: String,
    progress: Progress,
    settings: TrainSettings,
}

/// A checkpoint that was found.
pub(crate) struct Saved {
    folder: PathBuf,
    pub(crate) progress: Progress,
}

impl Saved {
    fn error(&self, name: &str, error: impl std::fmt::Display) -> TrainError {
        TrainError::Checkpoint {
            path: self.folder.join(format!("{name}.bpk")),
            message: format!("{error}; remove the folder to start over"),
        }
    }

    pub(crate) fn load<M: Module>(&self, name: &str, module: M) -> Result<M, TrainError> {
        let path = self.folder.join(format!("{name}.bpk"));
        module.try_load_file(path).map_err(|error| self.error(name, error))
    }

    pub(crate) fn load_optimizer(
        &self,
        optimizer: ModuleOptimizer,
    ) -> Result<ModuleOptimizer, TrainError> {
        let path = self.folder.join("optimizer.bpk");
        optimizer.load(path).map_err(|error| self.error("optimizer", error))
    }
}

/// Finds the checkpoint of a run with these settings, if there is one. The number of steps
/// may differ, and with it the warm-up: a finished run can be made longer.
pub(crate) fn read_checkpoint(
    folder: &Path,
    settings: &TrainSettings,
) -> Result<Option<Saved>, TrainError> {
    let path = folder.join(POINTER);
    if !path.exists() {
        return Ok(None);
    }
    let pointer: Pointer = load_config(&path)?;
    let TrainSettings { steps, warmup, .. } = *settings;
    let same = TrainSettings { steps, warmup, ..pointer.settings.clone() };
    if same != *settings {
        let message = format!(
            "made with other settings ({:?}); use those, or another folder",
            pointer.settings
        );
        return Err(TrainError::Checkpoint { path, message });
    }
    Ok(Some(Saved { folder: folder.join(pointer.folder), progress: pointer.progress }))
}

/// Writes a checkpoint beside the one in force, then puts it in force, then removes the older one.
pub(crate) fn write_checkpoint<M: Module>(
    folder: &Path,
    settings: &TrainSettings,
    progress: &Progress,
    modules: [(&str, &M); 2],
    optimizer: &ModuleOptimizer,
) -> Result<(), TrainError> {
    let name = format!("step-{}", progress.step);
    let target = folder.join(&name);
    std::fs::create_dir_all(&target)
        .map_err(|source| LoadError::Io { path: target.clone(), source })?;
    let failed = |file: &Path, error: &dyn std::fmt::Display| TrainError::Checkpoint {
        path: file.into(),
        message: format!("cannot be written: {error}"),
    };
    for (name, module) in modules {
        let path = target.join(format!("{name}.bpk"));
        module.clone().save_file(&path).map_err(|error| failed(&path, &error))?;
    }
    let path = target.join("optimizer.bpk");
    optimizer.save(&path).map_err(|error| failed(&path, &error))?;
    let pointer =
        Pointer { folder: name.clone(), progress: progress.clone(), settings: settings.clone() };
    save_config(&folder.join(POINTER), &pointer)?;
    remove_others(folder, &name);
    Ok(())
}

/// Removes older checkpoints. One that cannot be removed costs only space.
fn remove_others(folder: &Path, keep: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let old = name.to_string_lossy().starts_with("step-") && name != *keep;
        if old && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "an old checkpoint stays");
        }
    }
}

//! Everything that an interrupted run needs to go on as if nothing had happened.
//!
//! A checkpoint is a folder of its own; `checkpoint.json` names the one that counts and is replaced
//! last, so a crash at any moment leaves the older checkpoint in force.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::ModuleOptimizer;
use serde::{Deserialize, Serialize};
use unclip_core::Printable;
use unclip_nn::checkpoint::{LoadError, load_config, save_config};

use crate::digest::{digest, expect_digest};
use crate::{TrainError, TrainSettings};

const POINTER: &str = "checkpoint.json";

/// How far a run is. The position in the data follows from the step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Progress {
    pub(crate) step: u64,
    pub(crate) skipped: u64,
    pub(crate) skipped_in_a_row: u64,
}

/// A checkpoint: its folder, by name, and how far it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Place {
    folder: String,
    pub(crate) progress: Progress,
    /// Digests of its files, by name.
    #[serde(default)]
    digests: BTreeMap<String, String>,
}

impl Place {
    /// A place where no checkpoint is yet. A run that was made longer may come to the same step
    /// again while the checkpoint of before is in force.
    pub(crate) fn free(folder: &Path, progress: &Progress) -> Self {
        let names = std::iter::once(format!("step-{}", progress.step))
            .chain((1..).map(|n| format!("step-{}.{n}", progress.step)));
        let mut free = names.filter(|name| !folder.join(name).exists());
        let folder = free.next().unwrap_or_default();
        Self { folder, progress: progress.clone(), digests: BTreeMap::new() }
    }
}

/// What counts among the checkpoints of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pointer {
    pub(crate) place: Place,
    pub(crate) settings: TrainSettings,
    /// Where the learning rate began to fall, for runs that are made longer.
    pub(crate) plateau: Option<Place>,
}

/// A checkpoint that was found.
pub(crate) struct Saved {
    folder: PathBuf,
    pub(crate) place: Place,
    pub(crate) plateau: Option<Place>,
}

/// What to do about a checkpoint that cannot be read.
const START_OVER: &str = "remove the folder of the stage, which it is in, to start over";

impl Saved {
    /// A file of it, whole.
    fn file(&self, name: &str) -> Result<PathBuf, TrainError> {
        let name = format!("{name}.bpk");
        let path = self.folder.join(&name);
        let noted = self.place.digests.get(&name).map(String::as_str);
        expect_digest(&path, noted, START_OVER)?;
        Ok(path)
    }

    fn error(&self, name: &str, error: impl std::fmt::Display) -> TrainError {
        let path = self.folder.join(format!("{name}.bpk"));
        TrainError::Checkpoint { path, message: format!("{}; {START_OVER}", Printable(error)) }
    }

    pub(crate) fn load<M: Module>(&self, name: &str, module: M) -> Result<M, TrainError> {
        let path = self.file(name)?;
        module.try_load_file(path).map_err(|error| self.error(name, error))
    }

    pub(crate) fn load_optimizer(
        &self,
        optimizer: ModuleOptimizer,
    ) -> Result<ModuleOptimizer, TrainError> {
        let path = self.file("optimizer")?;
        optimizer.load(path).map_err(|error| self.error("optimizer", error))
    }
}

/// What to do with a checkpoint that other settings have made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Changes {
    /// It is an error, which names the differences.
    #[default]
    Refused,
    /// The run goes on with the settings that are given now.
    Accepted,
}

/// Finds the checkpoint of a run with these settings, if there is one. The number of steps may
/// differ, and with it warm-up and cool-down: a run that is made longer goes on from where its
/// learning rate began to fall. What a run rests on may never differ.
pub(crate) fn read_checkpoint(
    folder: &Path,
    settings: &TrainSettings,
    changes: Changes,
) -> Result<Option<Saved>, TrainError> {
    let path = folder.join(POINTER);
    if !path.exists() {
        return Ok(None);
    }
    let pointer: Pointer = load_config(&path)?;
    let refused = |message: String| Err(TrainError::Checkpoint { path: path.clone(), message });
    let before = &pointer.settings;
    if settings.rests_on != before.rests_on {
        return refused(format!(
            "made with {}, and what is given is {}; use that, remove the folder of this file to train the \
             stage anew, or use another folder for the run",
            shown(&before.rests_on),
            shown(&settings.rests_on)
        ));
    }
    let changed = settings.changes(before);
    if changes == Changes::Refused && !changed.is_empty() {
        return refused(format!(
            "made with other settings: {}; use those, resume explicitly, or use another folder",
            changed.join(", ")
        ));
    }
    let Pointer { place, plateau, settings: before } = pointer;
    let longer = settings.cooldown_start() > before.cooldown_start();
    let (place, plateau) = match plateau {
        Some(plateau) if longer => (plateau, None),
        Some(plateau) => (place, Some(plateau)),
        // made shorter: from here on it falls
        None if place.progress.step > settings.cooldown_start() => (place.clone(), Some(place)),
        None => (place, None),
    };
    if place.progress.step > settings.steps {
        return refused(format!(
            "is at step {}, beyond the {} that are asked for; ask for more, or choose another folder",
            place.progress.step, settings.steps
        ));
    }
    Ok(Some(Saved { folder: folder.join(&place.folder), place, plateau }))
}

/// What a run rests on, in an error.
fn shown(rests_on: &str) -> &str {
    if rests_on.is_empty() { "nothing else" } else { rests_on }
}

/// Writes the files of a checkpoint into a folder of their own, beside the one in force, and notes their
/// digests. None of them stays if one cannot be written.
pub(crate) fn write_files<M: Module>(
    folder: &Path,
    place: &mut Place,
    modules: [(&str, &M); 2],
    optimizer: &ModuleOptimizer,
) -> Result<(), TrainError> {
    let target = folder.join(&place.folder);
    let written = fill(&target, modules, optimizer);
    place.digests = written.inspect_err(|_| {
        // what is there of it is of no use, and the disk may be full
        let _ = std::fs::remove_dir_all(&target);
    })?;
    Ok(())
}

/// Puts a checkpoint in force whose files are there, then removes older ones, but for the one from which
/// the learning rate fell.
pub(crate) fn put_in_force(
    folder: &Path,
    pointer: &Pointer,
    kept: usize,
) -> Result<(), TrainError> {
    save_config(&folder.join(POINTER), pointer).inspect_err(|_| {
        let _ = std::fs::remove_dir_all(folder.join(&pointer.place.folder));
    })?;
    let counts = std::iter::once(&pointer.place).chain(&pointer.plateau);
    remove_others(folder, &counts.map(|place| place.folder.as_str()).collect::<Vec<_>>(), kept);
    Ok(())
}

/// The files of a checkpoint, safe from a loss of power, and their digests.
fn fill<M: Module>(
    target: &Path,
    modules: [(&str, &M); 2],
    optimizer: &ModuleOptimizer,
) -> Result<BTreeMap<String, String>, TrainError> {
    std::fs::create_dir_all(target)
        .map_err(|source| LoadError::Io { path: target.into(), source })?;
    let failed = |file: &Path, error: &dyn std::fmt::Display| TrainError::Checkpoint {
        path: file.into(),
        message: format!("cannot be written: {error}; what was there before stays in force"),
    };
    let mut digests = BTreeMap::new();
    // burn itself writes each file whole, and flushes it to the disk
    let mut note = |path: &Path| -> Result<(), TrainError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        digests.insert(name.into_owned(), digest(path)?);
        Ok(())
    };
    for (name, module) in modules {
        let path = target.join(format!("{name}.bpk"));
        module.clone().save_file(&path).map_err(|error| failed(&path, &error))?;
        note(&path)?;
    }
    let path = target.join("optimizer.bpk");
    optimizer.save(&path).map_err(|error| failed(&path, &error))?;
    note(&path)?;
    Ok(digests)
}

/// Removes older checkpoints, but for the last ones. One that cannot be removed costs only space.
fn remove_others(folder: &Path, keep: &[&str], last: usize) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let step = |path: &Path| -> Option<u64> {
        let name = path.file_name()?.to_str()?.strip_prefix("step-")?;
        name.split('.').next()?.parse().ok()
    };
    let mut found: Vec<(u64, PathBuf)> =
        entries.flatten().filter_map(|it| Some((step(&it.path())?, it.path()))).collect();
    found.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
    for (_, path) in found.into_iter().skip(last) {
        let is_kept = keep.iter().any(|name| path.ends_with(name));
        if !is_kept && let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "an old checkpoint stays");
        }
    }
}

//! What the files of ADM's family have in common, as they were published with their own code: ADM's
//! names of a U-Net's tensors, sizes that are read off tensors, pickles that must be converted.

pub(super) mod clip;
pub(super) mod shapes;
pub(super) mod unet;
pub(super) mod unet_names;

use std::path::Path;

use unclip_nn::checkpoint::{LoadError, StageConfig, StageFiles, Weights};

use crate::Error;

/// What files that are read here end in.
const READ: [&str; 2] = ["safetensors", "safetensors.index.json"];
/// What the published ones end in, which are pickles.
const PICKLED: [&str; 4] = ["ckpt", "pt", "pth", "th"];

fn exists(folder: &Path, name: &str, endings: &[&str]) -> bool {
    // a link to nowhere is there too, and refused when it is opened
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    endings.iter().any(|ending| is_there(&folder.join(format!("{name}.{ending}"))))
}

/// Whether a folder has a file of this name, converted or not.
pub(super) fn is_there(folder: &Path, name: &str) -> bool {
    exists(folder, name, &READ) || exists(folder, name, &PICKLED)
}

/// Opens a file. Where only the pickle is, that is opened: the refusal says what to do with it.
pub(super) fn weights(folder: &Path, name: &str) -> Result<Weights, LoadError> {
    let pickle = PICKLED.iter().find(|ending| exists(folder, name, &[ending]));
    match pickle.filter(|_| !exists(folder, name, &READ)) {
        Some(ending) => Weights::open(&folder.join(format!("{name}.{ending}"))),
        None => Weights::open_in(folder, name),
    }
}

/// A stage of sizes that were read off its own weights, which stand for the configuration in
/// errors.
pub(super) fn stage<T: StageConfig>(config: T, weights: Weights) -> Result<StageFiles<T>, Error> {
    let path = weights.path().to_path_buf();
    Ok(StageFiles::of(&path, config, weights)?)
}

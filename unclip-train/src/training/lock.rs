//! One training of a stage at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::LoadError;

use crate::TrainError;

/// A lock on the folder of a stage, which falls with the process that has it.
pub(super) fn alone(folder: &Path) -> Result<File, TrainError> {
    let path = folder.join("lock");
    let io = |source| LoadError::Io { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    // what is there is not ours: a link may lead to a file of somebody's
    match path.symlink_metadata() {
        Ok(found) if !found.is_file() => {
            let found = "a link, a folder or a pipe";
            return Err(LoadError::NotAFile { path, found }.into());
        }
        _ => {}
    }
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        // some network file systems have no locks
        Err(TryLockError::Error(error)) => {
            tracing::warn!(path = %path.display(), %error, "nothing keeps a second training out");
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let found = format!("{}, on which another training works", folder.display());
            let expected = "a folder of its own (run.out), or wait until that training has ended";
            Err(InvalidSetting::new("folder of the stage", found, expected).into())
        }
    }
}

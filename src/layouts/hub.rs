//! Folders as the clients of model hubs make them: `models--owner--name`, with the files in `blobs`
//! and one folder of links to them for each revision in `snapshots`.

use std::path::{Path, PathBuf};

use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::{LoadError, read_file};

use crate::Error;

/// The revision of such a folder that `main` means, or else the only one; none of another folder.
///
/// # Errors
/// Several revisions of which none is `main`, or none at all.
pub(super) fn snapshot(folder: &Path) -> Result<Option<PathBuf>, Error> {
    const MAX_BYTES: u64 = 4096;
    let snapshots = folder.join("snapshots");
    if !snapshots.is_dir() || !folder.join("blobs").is_dir() {
        return Ok(None);
    }
    let main = folder.join("refs").join("main");
    if main.exists() {
        let name = read_file(&main, MAX_BYTES)?;
        let path = snapshots.join(String::from_utf8_lossy(&name).trim());
        if path.is_dir() {
            return Ok(Some(path));
        }
    }
    let io = |source| LoadError::Io { path: snapshots.clone(), source };
    let entries = std::fs::read_dir(&snapshots).map_err(io)?.flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    match (found.pop(), found.len()) {
        (Some(only), 0) => Ok(Some(only)),
        (_, others) => {
            let name = format!("revisions in {}", snapshots.display());
            let (found, expected) =
                (others, "one, or one of the name in refs/main: name its folder");
            let found = if others == 0 { found } else { found + 1 };
            Err(InvalidSetting::new(name, found, expected).into())
        }
    }
}

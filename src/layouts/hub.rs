//! Folders made by model hub clients: `models--owner--name`, with the files in `blobs` and one
//! folder of links to them for each revision in `snapshots`.

use std::path::{Path, PathBuf};

use unclip_core::{InvalidSetting, Limit};
use unclip_nn::checkpoint::{LoadError, read_text};

use crate::Error;

/// The revision of such a folder that `main` refers to, or else the only one; `None` for any other
/// folder.
///
/// # Errors
/// Several revisions of which none is `main`, or none at all.
pub(super) fn snapshot(folder: &Path) -> Result<Option<PathBuf>, Error> {
    let snapshots = folder.join("snapshots");
    if !snapshots.is_dir() || !folder.join("blobs").is_dir() {
        return Ok(None);
    }
    let main = folder.join("refs").join("main");
    if main.exists() {
        let name = read_text(&main, Limit::ConfigBytes)?;
        let name = String::from_utf8_lossy(&name).trim().to_string();
        let path = snapshots.join(&name);
        let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric());
        if is_plain && path.is_dir() {
            return Ok(Some(path));
        }
        let expected = format!("the name of a folder in {}", snapshots.display());
        let (found, main) = (format!("{name:?}"), main.display().to_string());
        return Err(InvalidSetting::new(main, found, expected).into());
    }
    let io = |source| LoadError::Io { path: snapshots.clone(), source };
    let entries = std::fs::read_dir(&snapshots).map_err(io)?.flatten();
    let found: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    match found.as_slice() {
        [only] => Ok(Some(only.clone())),
        others => {
            let name = format!("revisions in {}", snapshots.display());
            let expected = "one, or one of the name in refs/main: name its folder";
            Err(InvalidSetting::new(name, others.len(), expected).into())
        }
    }
}

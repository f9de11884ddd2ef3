//! Digests of files, by which damage is noticed.

use std::io::Read;
use std::path::Path;

use unclip_nn::checkpoint::{Fnv, LoadError, open_file};

use crate::TrainError;

/// The digest of a file.
pub(crate) fn digest(path: &Path) -> Result<String, TrainError> {
    let (mut file, _) = open_file(path)?;
    let mut hash = Fnv::default();
    let mut bytes = vec![0; 1 << 20];
    loop {
        match file.read(&mut bytes) {
            Ok(0) => return Ok(hash.name()),
            Ok(read) => hash.add(&bytes[..read]),
            Err(source) => return Err(LoadError::Io { path: path.into(), source }.into()),
        }
    }
}

/// Refuses a file that is not as it was when it was written. Where nothing was noted, it is taken as it
/// is.
pub(crate) fn expect_digest(
    path: &Path,
    noted: Option<&str>,
    remedy: &str,
) -> Result<(), TrainError> {
    let Some(noted) = noted else { return Ok(()) };
    let found = digest(path)?;
    if found == noted {
        return Ok(());
    }
    let message = format!("damaged: its digest is {found}, expected {noted}; {remedy}");
    Err(TrainError::Checkpoint { path: path.into(), message })
}

//! Two folders that change places.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// How the name begins under which a folder lies while another takes its place, where the system cannot exchange
/// two. Nobody clears it away: after a kill at this moment it is all that there is.
const REPLACED: &str = ".unclip-replaced-";

/// Lets two folders change places; after an error, each is where it was.
pub(super) fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        match renameat_with(CWD, new, CWD, old, RenameFlags::EXCHANGE) {
            Ok(()) => return Ok(()),
            // some file systems cannot
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    one_by_one(new, old)
}

fn one_by_one(new: &Path, old: &Path) -> io::Result<()> {
    let aside = aside(old);
    fs::rename(old, &aside)?;
    if let Err(error) = fs::rename(new, old) {
        fs::rename(&aside, old)?;
        return Err(error);
    }
    fs::rename(&aside, new)
}

/// Brings back what a kill left aside: its place is empty, or holds what replaced it.
pub(super) fn settle(place: &Path) -> io::Result<()> {
    let aside = aside(place);
    if aside.symlink_metadata().is_err() {
        return Ok(());
    }
    if place.symlink_metadata().is_err() {
        fs::rename(aside, place)
    } else {
        fs::remove_dir_all(aside)
    }
}

fn aside(place: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(REPLACED);
    name.push(place.file_name().unwrap_or_default());
    place.with_file_name(name)
}

/// Makes the names in a folder safe from a loss of power, where the system lets one ask for it.
pub(super) fn sync_folder(folder: &Path) {
    #[cfg(unix)]
    let _ = fs::File::open(folder).and_then(|folder| folder.sync_all());
    #[cfg(not(unix))]
    let _ = folder;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with two in it, each with a file that tells them apart.
    fn two() -> (tempfile::TempDir, [PathBuf; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let two = ["new", "old"].map(|name| {
            let path = folder.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("which"), name).unwrap();
            path
        });
        (folder, two)
    }

    fn which(path: &Path) -> Option<String> {
        fs::read_to_string(path.join("which")).ok()
    }

    #[test]
    fn both_ways_of_changing_places_do() {
        for way in [exchange, one_by_one] {
            let (folder, [new, old]) = two();
            way(&new, &old).unwrap();
            assert_eq!([which(&new), which(&old)], [Some("old".into()), Some("new".into())]);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        }
    }

    #[test]
    fn nothing_moves_if_it_cannot() {
        let (folder, [_, old]) = two();
        let missing = folder.path().join("missing");
        for way in [exchange, one_by_one] {
            way(&missing, &old).unwrap_err();
            assert_eq!(which(&old), Some("old".into()));
        }
    }

    #[test]
    fn a_kill_between_two_renames_loses_nothing() {
        // after the first
        let (_folder, [_, old]) = two();
        fs::rename(&old, aside(&old)).unwrap();
        settle(&old).unwrap();
        assert_eq!(which(&old), Some("old".into()));
        // after the second
        let (_folder, [new, old]) = two();
        fs::rename(&old, aside(&old)).unwrap();
        fs::rename(&new, &old).unwrap();
        settle(&old).unwrap();
        assert_eq!(which(&old), Some("new".into()));
        assert!(!aside(&old).exists());
        settle(&old).unwrap();
    }
}

//! Opens a path that a user calls a file, which may be anything.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::path::Path;

use unclip_core::Limit;

use super::LoadError;

/// Opens a regular file, and returns its length too. Anything else is refused before it is opened:
/// opening a pipe would wait for its other end.
///
/// # Errors
/// A file that is missing, not regular, or that cannot be read.
pub fn open_file(path: &Path) -> Result<(File, u64), LoadError> {
    let io = |source| LoadError::Io { path: path.into(), source };
    let metadata = std::fs::metadata(path).map_err(|error| match std::fs::read_link(path) {
        Ok(target) if error.kind() == ErrorKind::NotFound => {
            LoadError::DanglingLink { path: path.into(), target }
        }
        _ => io(error),
    })?;
    expect_regular(path, &metadata)?;
    Ok((File::open(path).map_err(io)?, metadata.len()))
}

/// Reads a regular file that is not over the limit; a larger one is refused unread.
///
/// # Errors
/// As [`open_file`], and [`LoadError::TooLarge`].
pub fn read_file(path: &Path, limit: Limit) -> Result<Vec<u8>, LoadError> {
    let (file, found) = open_file(path)?;
    if found > limit.value() {
        return Err(LoadError::TooLarge { path: path.into(), found, limit });
    }
    let mut bytes = Vec::new();
    let read = file.take(found).read_to_end(&mut bytes);
    read.map_err(|source| LoadError::Io { path: path.into(), source })?;
    Ok(bytes)
}

/// Reads a text file that is not over the limit, without the byte-order mark that some editors put
/// before it.
///
/// # Errors
/// As [`read_file`], and [`LoadError::WrongKind`] for what often lies there instead: a git-LFS
/// pointer, or the web page about the file.
pub fn read_text(path: &Path, limit: Limit) -> Result<Vec<u8>, LoadError> {
    let bytes = read_file(path, limit)?;
    refuse(path, &bytes, &[POINTER, PAGE], "the file itself")?;
    Ok(without_mark(&bytes).to_vec())
}

/// A text without the byte-order mark that some editors put before it.
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// The first bytes of a kind of file, what it is, and what to do about it.
pub(super) type Kind = (&'static [u8], &'static str, &'static str);
pub(super) const POINTER: Kind =
    (b"version https://git-lfs", "a git-LFS pointer", "run `git lfs pull` where it came from");
pub(super) const PAGE: Kind =
    (b"<", "an HTML or XML page", "download the file itself, not the page about it");

/// Refuses a file that begins as one of these kinds.
pub(super) fn refuse(
    path: &Path,
    start: &[u8],
    kinds: &[Kind],
    expected: &'static str,
) -> Result<(), LoadError> {
    match kinds.iter().find(|(magic, ..)| start.starts_with(magic)) {
        Some(&(_, found, remedy)) => {
            Err(LoadError::WrongKind { path: path.into(), found, expected, remedy })
        }
        None => Ok(()),
    }
}

/// Refuses folders, pipes and devices.
pub(super) fn expect_regular(path: &Path, metadata: &Metadata) -> Result<(), LoadError> {
    let found = match () {
        () if metadata.is_file() => return Ok(()),
        () if metadata.is_dir() => "a folder",
        () => "a device, a pipe or a socket",
    };
    Err(LoadError::NotAFile { path: path.into(), found })
}

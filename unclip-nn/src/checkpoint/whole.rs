//! Files and folders that are written whole or not at all.
//!
//! What is not whole yet lies beside its place, under a name that begins with `.unclip-unfinished-`. A process that
//! is killed leaves it there; whoever writes into the same folder a day later clears it away.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use tempfile::{NamedTempFile, TempDir};

use super::LoadError;
use super::file::expect_regular;
use super::swap::{exchange, settle, sync_folder};

/// How the names of what is not whole yet begin.
const UNFINISHED: &str = ".unclip-unfinished-";

/// How long nothing has been written to what was left by a process that is no more.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// An error that names files.
pub trait NamesFiles: From<LoadError> {
    /// The same, with what lies in `from` named as in `to`.
    #[must_use]
    fn moved(self, from: &Path, to: &Path) -> Self;
}

impl NamesFiles for LoadError {
    fn moved(mut self, from: &Path, to: &Path) -> Self {
        if let Ok(rest) = self.path().strip_prefix(from) {
            let path = if rest.as_os_str().is_empty() { to.into() } else { to.join(rest) };
            *self.path_mut() = path;
        }
        self
    }
}

/// Writes a file whole or not at all: next to its place, then moved there. A link stays a link, and
/// its target is written; a file that is replaced passes on its permissions.
///
/// # Errors
/// [`LoadError::Io`], with the path that was asked for, also if a read-only file is there;
/// [`LoadError::NotAFile`] if something other than a file is.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), LoadError> {
    let mut pending = Pending::begin(path)?;
    // by the file itself, whose errors do not speak of its temporary name
    let written = pending.file.as_file_mut().write_all(bytes);
    written.map_err(|source| LoadError::Io { path: path.into(), source })?;
    pending.finish()
}

/// Checks that [`write_whole`] could write a file here, so that what takes long to make is not lost
/// at the end. Leaves nothing behind.
///
/// # Errors
/// As [`write_whole`].
pub fn check_place(path: &Path) -> Result<(), LoadError> {
    Pending::begin(path).map(drop)
}

/// Lets `fill` write a folder, whole or not at all: next to its place, then moved there.
///
/// # Errors
/// Errors of `fill`, which name files in `path`; [`LoadError::Io`] if something is there already, or if
/// nothing can be written there.
pub fn write_folder<E: NamesFiles>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let io = |source| LoadError::Io { path: path.into(), source };
    // of a link that leads nowhere as well
    if path.symlink_metadata().is_ok() {
        let found = "something is there already, expected the name of a new folder";
        return Err(io(io::Error::new(ErrorKind::AlreadyExists, found)).into());
    }
    let folder = filled(path, path, fill)?;
    std::fs::rename(folder.path(), path).map_err(io)?;
    sync_folder(parent(path));
    // nothing is left to be removed
    let _ = folder.keep();
    Ok(())
}

/// As [`write_folder`], in the place of a folder that may be there: at any moment, the place holds the
/// whole of the old one or the whole of the new one, where the system can exchange two folders (Linux),
/// and else nothing for a moment, after which the next write brings back the old one if a kill hit it. What `fill` does not write is taken over from the old one.
///
/// # Errors
/// As [`write_folder`], but for a folder that is there.
pub fn replace_folder<E: NamesFiles>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let io = |source| LoadError::Io { path: path.into(), source };
    let target = followed(path);
    if let Some(above) = target.parent().filter(|above| !above.as_os_str().is_empty()) {
        std::fs::create_dir_all(above).map_err(io)?;
    }
    settle(&target).map_err(io)?;
    if target.symlink_metadata().is_err() {
        return write_folder(&target, fill).map_err(|error| error.moved(&target, path));
    }
    let folder = filled(&target, path, fill)?;
    take_over(&target, folder.path()).map_err(|error| error.moved(&target, path))?;
    exchange(folder.path(), &target).map_err(io)?;
    sync_folder(parent(&target));
    // the old folder, which is dropped with what it still holds
    drop(folder);
    Ok(())
}

/// A folder beside `target` with what `fill` writes, whose errors name `path` instead.
fn filled<E: NamesFiles>(
    target: &Path,
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<TempDir, E> {
    clear_leftovers(parent(target));
    let folder =
        builder(0o755).tempdir_in(parent(target)).map_err(|error| unnamed(path, &error))?;
    fill(folder.path()).map_err(|error| error.moved(folder.path(), path))?;
    Ok(folder)
}

/// Gives `new` what is in `old` alone, and the permissions of what it replaces.
fn take_over(old: &Path, new: &Path) -> Result<(), LoadError> {
    let io = |source| LoadError::Io { path: old.into(), source };
    let found = std::fs::metadata(old).map_err(io)?;
    expect_writable(old, &found.permissions())?;
    for entry in std::fs::read_dir(old).map_err(io)? {
        let entry = entry.map_err(io)?;
        let (from, to) = (entry.path(), new.join(entry.file_name()));
        let io = |source| LoadError::Io { path: from.clone(), source };
        if is_unfinished(&from) {
            continue;
        }
        if let Ok(written) = to.symlink_metadata() {
            // in the place of a folder or a device, nothing is written
            let found = std::fs::metadata(&from).map_err(io)?;
            if written.is_file() {
                expect_regular(&from, &found)?;
                expect_writable(&from, &found.permissions())?;
                std::fs::set_permissions(&to, found.permissions()).map_err(io)?;
            } else {
                take_over(&from, &to)?;
            }
        } else if from.symlink_metadata().map_err(io)?.is_dir() {
            std::fs::create_dir(&to).map_err(io)?;
            take_over(&from, &to)?;
        } else if std::fs::hard_link(&from, &to).is_err() {
            // not every file system has a second name for a file
            std::fs::copy(&from, &to).map_err(io)?;
            std::fs::File::open(&to).and_then(|copy| copy.sync_all()).map_err(io)?;
        }
    }
    sync_folder(new);
    std::fs::set_permissions(new, found.permissions()).map_err(io)
}

/// Refuses to write over a file that may not change.
fn expect_writable(path: &Path, permissions: &std::fs::Permissions) -> Result<(), LoadError> {
    if !permissions.readonly() {
        return Ok(());
    }
    let why = "what is there is read-only; expected another name, or something that may change";
    let source = io::Error::new(ErrorKind::PermissionDenied, why);
    Err(LoadError::Io { path: path.into(), source })
}

/// Removes what processes that were killed have left in a folder. What cannot be removed costs only
/// space.
pub fn clear_leftovers(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if !is_unfinished(&path) || !is_old(&path) {
            continue;
        }
        // a link is removed, not what it leads to
        let _ = match path.symlink_metadata() {
            Ok(found) if found.is_dir() => std::fs::remove_dir_all(&path),
            _ => std::fs::remove_file(&path),
        };
    }
}

/// The same once for each folder, since one may hold a hundred thousand pictures.
fn clear_leftovers_once(folder: &Path) {
    static CLEARED: OnceLock<Mutex<HashSet<PathBuf>>> = OnceLock::new();
    let cleared = CLEARED.get_or_init(Mutex::default);
    if cleared.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.into()) {
        clear_leftovers(folder);
    }
}

fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| name.starts_with(UNFINISHED))
}

/// Whether nothing has been written to it, or into it, for long. A clock that went back says no.
fn is_old(path: &Path) -> bool {
    let is_old = |path: &Path| {
        let changed = path.symlink_metadata().and_then(|found| found.modified());
        let age = changed.map(|changed| SystemTime::now().duration_since(changed));
        matches!(age, Ok(Ok(age)) if age > OLD)
    };
    is_old(path)
        && std::fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .all(|entry| is_old(&entry.path()))
}

/// The folder in which something lies.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// How something temporary is made: readable for everybody, as one expects of a picture or a
/// model. The default is private to the user.
fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    #[cfg_attr(not(unix), allow(unused_mut))]
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// A file that lies beside its place until it is whole.
pub(super) struct Pending<'a> {
    file: NamedTempFile,
    /// Where it goes: what `path` leads to if that is a link.
    target: PathBuf,
    /// The place as it was asked for.
    path: &'a Path,
}

impl<'a> Pending<'a> {
    pub(super) fn begin(path: &'a Path) -> Result<Self, LoadError> {
        let refused = |kind, why: &str| LoadError::Io {
            path: path.into(),
            source: io::Error::new(kind, why),
        };
        let permissions = match std::fs::metadata(path) {
            // moving a file onto a device would replace the device
            Ok(metadata) => {
                expect_regular(path, &metadata)?;
                Some(metadata.permissions())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            // a name that is too long, links in a circle, a folder that may not be entered
            Err(source) => return Err(LoadError::Io { path: path.into(), source }),
        };
        permissions.as_ref().map_or(Ok(()), |permissions| expect_writable(path, permissions))?;
        let ends_so = path.to_string_lossy().ends_with(std::path::is_separator);
        if ends_so || path.file_name().is_none() {
            return Err(refused(ErrorKind::InvalidInput, "expected a file's name"));
        }
        let target = followed(path);
        clear_leftovers_once(parent(&target));
        let file = builder(0o644).tempfile_in(parent(&target));
        let file = file.map_err(|error| unnamed(path, &error))?;
        if let Some(permissions) = permissions {
            let io = |source| LoadError::Io { path: path.into(), source };
            file.as_file().set_permissions(permissions).map_err(io)?;
        }
        Ok(Self { file, target, path })
    }

    pub(super) fn as_file(&self) -> &std::fs::File {
        self.file.as_file()
    }

    /// Moves the file to its place.
    pub(super) fn finish(self) -> Result<(), LoadError> {
        let Self { file, target, path } = self;
        let io = |source| LoadError::Io { path: path.into(), source };
        file.as_file().sync_all().map_err(io)?;
        file.persist(&target).map_err(|error| io(error.error))?;
        sync_folder(parent(&target));
        Ok(())
    }
}

/// The target of a link, even if nothing is there yet. A path that is not a link is returned
/// unchanged.
pub fn followed(path: &Path) -> PathBuf {
    const MOST: usize = 40;
    let mut target = path.to_path_buf();
    for _ in 0..MOST {
        match std::fs::read_link(&target) {
            Ok(next) => target = parent(&target).join(next),
            Err(_) => return target,
        }
    }
    path.to_path_buf()
}

/// The error of a temporary file or folder, without its meaningless name.
fn unnamed(path: &Path, error: &io::Error) -> LoadError {
    let source = match error.kind() {
        ErrorKind::NotFound => io::Error::new(ErrorKind::NotFound, "its folder was not found"),
        other => other.into(),
    };
    LoadError::Io { path: path.into(), source }
}

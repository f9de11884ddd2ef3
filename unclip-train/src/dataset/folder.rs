//! A folder of pictures: captions in files beside them, or in one list.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use unclip_core::Limit;
use unclip_nn::checkpoint::{LoadError, read_file};

use super::complaint::{Complaints, DataError};
use super::item::{Item, Place, is_picture, name_in};
use super::{Reason, captions, metadata, shard};

/// What a data set is expected to be.
pub(super) const EXPECTED: &str = "pictures with captions: name.png beside name.txt, a metadata.jsonl \
                                   or metadata.csv with file_name and text, or webdataset shards \
                                   (.tar)";

/// A folder's own files and those of the folders in it.
#[derive(Debug, Default)]
struct Found {
    /// Pictures by their path without the ending.
    pictures: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// Captions likewise.
    captions: BTreeMap<PathBuf, PathBuf>,
    lists: Vec<PathBuf>,
    shards: Vec<PathBuf>,
}

/// The items of a folder and of the folders in it, in the order of their names.
///
/// # Errors
/// A folder or a list that cannot be read. A picture that a list names has its captions from there alone.
pub(super) fn items(
    folder: &Path,
    (complaints, except): (&Complaints, &[PathBuf]),
) -> Result<Vec<Item>, DataError> {
    let mut found = Found::default();
    // those that are left alone count as seen
    let mut seen: HashSet<PathBuf> = except.iter().cloned().collect();
    collect(folder, &mut seen, &mut found)?;
    let mut items = Vec::new();
    for shard in &found.shards {
        items.extend(shard::items(shard, complaints)?);
    }
    for list in &found.lists {
        let (listed, named) = metadata::items(folder, list, complaints)?;
        // what is listed is not looked for once more, whatever was said of it
        for path in named {
            found.pictures.remove(&path.with_extension(""));
            found.captions.remove(&path.with_extension(""));
        }
        items.extend(listed);
    }
    items.extend(beside(folder, found, complaints));
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

/// Sorts the files of a folder, and of those in it and those that links in it lead to, by what they are: of each
/// folder once, since a link may lead back. Hidden ones are left alone.
fn collect(folder: &Path, seen: &mut HashSet<PathBuf>, found: &mut Found) -> Result<(), LoadError> {
    let io = |source| LoadError::Io { path: folder.into(), source };
    seen.extend(folder.canonicalize());
    let mut entries =
        std::fs::read_dir(folder).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if path.canonicalize().is_ok_and(|it| seen.insert(it)) {
                collect(&path, seen, found)?;
            }
            continue;
        }
        let ending = path.extension().map(|it| it.to_string_lossy().to_ascii_lowercase());
        match ending.as_deref() {
            _ if name == metadata::LINES || name == metadata::TABLE => found.lists.push(path),
            _ if shard::is_shard(&name) => found.shards.push(path),
            Some("txt") => drop(found.captions.insert(path.with_extension(""), path)),
            Some(ending) if is_picture(ending) => {
                found.pictures.entry(path.with_extension("")).or_default().push(path);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The items whose captions are in files beside them.
fn beside(folder: &Path, found: Found, complaints: &Complaints) -> Vec<Item> {
    let Found { pictures, mut captions, .. } = found;
    let mut items = Vec::new();
    for (stem, pictures) in pictures {
        let said = captions.remove(&stem);
        for picture in pictures {
            let name = name_in(folder, &picture);
            match said.as_deref().map_or(Err(Reason::NoCaption), read) {
                Ok(captions) => items.push(Item { name, captions, place: Place::File(picture) }),
                Err(reason) => complaints.add(name, reason),
            }
        }
    }
    for (_, path) in captions {
        complaints.add(name_in(folder, &path), Reason::NoPicture);
    }
    items
}

fn read(path: &Path) -> Result<Vec<String>, Reason> {
    let bytes =
        read_file(path, Limit::CaptionBytes).map_err(|error| Reason::Caption(error.to_string()))?;
    captions::of_text(&bytes)
}

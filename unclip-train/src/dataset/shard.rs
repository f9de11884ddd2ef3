//! Webdataset shards: tar files in which the entries of an item have its name. Those that webdataset writes follow
//! each other, those of a folder that was packed may not.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unclip_core::Limit;
use unclip_nn::checkpoint::{LoadError, open_file};

use super::complaint::{Complaints, DataError};
use super::item::{Item, Place, is_picture};
use super::{Reason, captions};

/// The entries of one item, as far as they were read.
#[derive(Debug, Default)]
struct Group {
    key: String,
    picture: Option<Picture>,
    captions: Option<Result<Vec<String>, Reason>>,
    /// What is wrong with it as a whole.
    wrong: Option<Reason>,
}

/// A picture's entry.
#[derive(Debug)]
struct Picture {
    offset: u64,
    len: u64,
}

/// Items as they come in a shard.
#[derive(Debug, Default)]
struct Groups {
    all: Vec<Group>,
    /// Places of names.
    places: HashMap<String, usize>,
}

impl Groups {
    fn of(&mut self, key: &str) -> &mut Group {
        let next = self.all.len();
        let place = *self.places.entry(key.to_string()).or_insert(next);
        if place == next {
            self.all.push(Group { key: key.to_string(), ..Group::default() });
        }
        &mut self.all[place]
    }
}

/// First bytes of compressed files, and what compresses so.
const COMPRESSED: [(&[u8], &str); 4] =
    [(b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2"), (b"\xfd7zXZ", "xz")];

/// What stands in the first header of a tar file, and where.
const MAGIC: &[u8] = b"ustar";
const MAGIC_AT: usize = 257;

/// Endings of shards' names, also of those that would have to be decompressed.
const ENDINGS: [&str; 6] = [".tar", ".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz"];

/// Whether a name is that of a shard.
pub(super) fn is_shard(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// The items of a shard, in the order in which they begin. A shard that is cut short has those before the cut.
///
/// # Errors
/// A file that cannot be read.
pub(super) fn items(path: &Path, complaints: &Complaints) -> Result<Vec<Item>, DataError> {
    let io = |source| LoadError::Io { path: path.into(), source };
    let (file, len) = open_file(path)?;
    let mut file = BufReader::new(file);
    let beginning = file.fill_buf().map_err(io)?;
    // an archive begins with the name of its first entry, which may be any
    let is_plain = beginning.get(MAGIC_AT..).is_some_and(|rest| rest.starts_with(MAGIC));
    let compressed = COMPRESSED.iter().find(|(bytes, _)| !is_plain && beginning.starts_with(bytes));
    let shard = Shard {
        name: path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into()),
        path: Arc::new(path.to_path_buf()),
        len,
    };
    let mut groups = Groups::default();
    let cut = match compressed {
        Some((_, by)) => {
            Err(format!("it is compressed by {by}, expected a plain tar file; decompress it first"))
        }
        None => {
            let (sound, odd) = sound_entries(&mut tar::Archive::new(&mut file));
            file.rewind().map_err(io)?;
            let read = shard.read(&mut tar::Archive::new(file), sound, &mut groups);
            read.and_then(|()| odd.map_or(Ok(()), Err))
        }
    };
    let items = groups.all.into_iter().filter_map(|group| shard.item(group, complaints)).collect();
    if let Err(reason) = cut {
        complaints.add(shard.name.clone(), Reason::Shard(reason));
    }
    Ok(items)
}

/// How many entries come before one whose name or description is longer than any has to be, and what that one is:
/// such would be read into memory as a whole.
fn sound_entries<R: Read + Seek>(archive: &mut tar::Archive<R>) -> (usize, Option<String>) {
    let mut count = 0;
    for entry in archive.entries_with_seek().into_iter().flat_map(|all| all.raw(true)) {
        // what is wrong is told when it is read
        let Ok(entry) = entry else { break };
        let kind = entry.header().entry_type();
        let names = kind.is_gnu_longname() || kind.is_gnu_longlink();
        if !(names || kind.is_pax_local_extensions() || kind.is_pax_global_extensions()) {
            count += 1;
        } else if let Err(odd) =
            Limit::CaptionBytes.check("name or header of an entry", entry.size())
        {
            return (count, Some(odd.to_string()));
        }
    }
    (usize::MAX, None)
}

struct Shard {
    name: String,
    path: Arc<PathBuf>,
    len: u64,
}

impl Shard {
    /// Walks over the first entries.
    fn read<R: Read + Seek>(
        &self,
        archive: &mut tar::Archive<R>,
        entries: usize,
        groups: &mut Groups,
    ) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        for entry in archive.entries_with_seek().map_err(text)?.take(entries) {
            let mut entry = entry.map_err(text)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let Some((key, ending)) = split(name.trim_start_matches("./")) else { continue };
            let group = groups.of(key);
            let (offset, len) = (entry.raw_file_position(), entry.size());
            if offset.saturating_add(len) > self.len {
                return Err(format!("{name} has {len} bytes, of which the end is missing"));
            }
            match ending {
                "txt" | "json" if len <= Limit::CaptionBytes.value() => {
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).map_err(text)?;
                    let read = if ending == "txt" { captions::of_text } else { captions::of_json };
                    group.hear(read(&bytes));
                }
                "txt" | "json" => {
                    let limit = Limit::CaptionBytes;
                    let found = format!("{len} bytes, expected {limit}");
                    group.hear(Err(Reason::Caption(found)));
                }
                ending if is_picture(ending) => group.see(Picture { offset, len }),
                other if other.rsplit('.').next().is_some_and(is_picture) => group.odd(other),
                _ => {}
            }
        }
        Ok(())
    }

    fn item(&self, group: Group, complaints: &Complaints) -> Option<Item> {
        let Group { key, picture, captions, wrong } = group;
        let name = format!("{}/{key}", self.name);
        if let Some(reason) = wrong.filter(|it| picture.is_none() || *it == second()) {
            complaints.add(name, reason);
            return None;
        }
        let reason = match (picture, captions) {
            (Some(Picture { len, .. }), _) if len > Limit::PictureFileBytes.value() => {
                Reason::Picture(format!("{len} bytes, expected {}", Limit::PictureFileBytes))
            }
            (Some(Picture { offset, len }), Some(Ok(captions))) => {
                let place = Place::Entry { path: self.path.clone(), offset, len };
                return Some(Item { name, captions, place });
            }
            (Some(_), Some(Err(reason))) => reason,
            (Some(_), None) => Reason::NoCaption,
            (None, Some(_)) => Reason::NoPicture,
            // of entries of other kinds alone
            (None, None) => return None,
        };
        complaints.add(name, reason);
        None
    }
}

/// Why an item with two pictures cannot be used.
fn second() -> Reason {
    Reason::Picture("a second picture has the same name up to its first dot".into())
}

impl Group {
    /// Takes the picture.
    fn see(&mut self, picture: Picture) {
        if self.picture.replace(picture).is_some() {
            self.wrong = Some(second());
        }
    }

    /// Notes what is a picture by its last ending alone.
    fn odd(&mut self, ending: &str) {
        let found = format!("the name goes on after its first dot ({ending}), expected name.jpg");
        self.wrong.get_or_insert(Reason::Picture(found));
    }

    /// Takes captions; those of a text file before those of a description.
    fn hear(&mut self, said: Result<Vec<String>, Reason>) {
        if !matches!(self.captions, Some(Ok(_))) {
            self.captions = Some(said);
        }
    }
}

/// A name's item and its ending, as webdataset has them: up to the first dot of its last part, and what
/// comes after.
fn split(name: &str) -> Option<(&str, &str)> {
    let last = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = last + name[last..].find('.')?;
    (dot > last).then_some((&name[..dot], &name[dot + 1..]))
}

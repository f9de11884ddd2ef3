//! A picture of a data set: its name, its captions, and where its bytes lie.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unclip_core::Limit;
use unclip_nn::checkpoint::{Fnv, open_file};

use super::Reason;

/// Endings of pictures' names, in small letters.
const PICTURES: [&str; 8] = ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"];

/// A picture and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Its name in the data set.
    pub name: String,
    /// What is said of it; at least one.
    pub captions: Vec<String>,
    pub(super) place: Place,
}

/// Where the bytes of a picture's file lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In a file of their own.
    File(PathBuf),
    /// In a shard.
    Entry {
        /// The shard.
        path: Arc<PathBuf>,
        /// Its first byte.
        offset: u64,
        /// How many there are.
        len: u64,
    },
}

impl Item {
    /// The bytes of the picture's file.
    pub(super) fn read(&self) -> Result<Vec<u8>, Reason> {
        let refused = |error: &dyn std::fmt::Display| Reason::Picture(error.to_string());
        match &self.place {
            Place::File(path) => {
                let (file, len) = open_file(path).map_err(|error| refused(&error))?;
                bytes(file, len)
            }
            Place::Entry { path, offset, len } => {
                let (mut file, _) = open_file(path).map_err(|error| refused(&error))?;
                file.seek(SeekFrom::Start(*offset)).map_err(|error| refused(&error))?;
                bytes(file, *len)
            }
        }
    }
}

fn bytes(file: File, len: u64) -> Result<Vec<u8>, Reason> {
    if len > Limit::PictureFileBytes.value() {
        let found = format!("{len} bytes, expected {}", Limit::PictureFileBytes);
        return Err(Reason::Picture(found));
    }
    let mut bytes = Vec::new();
    let read = file.take(len).read_to_end(&mut bytes);
    read.map_err(|error| Reason::Picture(error.to_string()))?;
    if bytes.len() as u64 == len {
        return Ok(bytes);
    }
    Err(Reason::Picture(format!("{} bytes of {len} are there", bytes.len())))
}

/// A path as it is called in its data set.
pub(super) fn name_in(folder: &Path, path: &Path) -> String {
    let own = path.strip_prefix(folder).unwrap_or(path);
    let parts: Vec<_> = own.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("/")
}

/// Whether a name is that of a picture.
pub(super) fn is_picture(ending: &str) -> bool {
    PICTURES.contains(&ending.to_ascii_lowercase().as_str())
}

/// FNV-1a of names, captions and sizes.
pub(super) fn fingerprint(items: &[Item]) -> u64 {
    let mut hash = Fnv::default();
    let mut add = |bytes: &[u8]| {
        hash.add(bytes);
        // no text has this byte
        hash.add(&[0xff]);
    };
    for item in items {
        add(item.name.as_bytes());
        item.captions.iter().for_each(|caption| add(caption.as_bytes()));
        match &item.place {
            Place::Entry { offset, len, .. } => {
                add(&offset.to_le_bytes());
                add(&len.to_le_bytes());
            }
            Place::File(path) => {
                let len = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
                add(&len.to_le_bytes());
            }
        }
    }
    hash.value()
}

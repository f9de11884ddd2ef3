//! One safetensors file, checked, from which tensors are read one by one.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use half::slice::HalfBitsSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserializer;
use serde::de::{Error, IgnoredAny, MapAccess, Visitor};

use unclip_core::Limit;

use super::file::{Kind, PAGE, POINTER, refuse};
use super::{LoadError, open_file};
use crate::precision::widen;

/// Length of the field that holds the header's length.
const LENGTH_BYTES: u64 = 8;

/// An open safetensors file. Nothing but its header is in memory.
#[derive(Debug)]
pub(super) struct WeightsFile {
    path: PathBuf,
    source: Source,
    header: Metadata,
    data_start: u64,
}

#[derive(Debug)]
enum Source {
    File(Mutex<File>),
    Embedded(&'static [u8]),
}

impl Source {
    fn read_exact_at(&self, start: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        match self {
            Self::File(file) => {
                let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(buffer)
            }
            Self::Embedded(bytes) => {
                let mut rest = bytes.get(start as usize..).unwrap_or_default();
                rest.read_exact(buffer)
            }
        }
    }
}

impl WeightsFile {
    /// Opens a file and checks its header.
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let (file, len) = open_file(path)?;
        Self::new(path.into(), Source::File(Mutex::new(file)), len)
    }

    /// Takes a file that is part of the program. `name` stands in for its path in errors.
    pub(super) fn embedded(name: &str, bytes: &'static [u8]) -> Result<Self, LoadError> {
        Self::new(name.into(), Source::Embedded(bytes), bytes.len() as u64)
    }

    fn new(path: PathBuf, source: Source, len: u64) -> Result<Self, LoadError> {
        let (header, data_start) = read_header(&path, &source, len)?;
        Ok(Self { path, source, header, data_start })
    }

    /// Where the file lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Keys of all tensors.
    pub(super) fn keys(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// What the header notes under a name.
    pub(super) fn note(&self, name: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(name).map(String::as_str)
    }

    /// Shape and number format of a tensor, if the file has it.
    pub(super) fn info(&self, key: &str) -> Option<(&[usize], Dtype)> {
        self.header.info(key).map(|info| (info.shape.as_slice(), info.dtype))
    }

    /// Reads some ranges of a floating-point tensor's values, one after the other, as f32, and
    /// checks that they are finite. `None` if the file does not have the tensor, or has it in
    /// another number format.
    pub(super) fn read(
        &self,
        key: &str,
        ranges: &[Range<usize>],
    ) -> Result<Option<Vec<f32>>, LoadError> {
        let Some(info) = self.header.info(key) else {
            return Ok(None);
        };
        let values = match info.dtype {
            Dtype::F32 => self.read_ranges(info, ranges)?,
            Dtype::F16 => widen(self.read_ranges::<u16>(info, ranges)?.reinterpret_cast::<f16>()),
            Dtype::BF16 => widen(self.read_ranges::<u16>(info, ranges)?.reinterpret_cast::<bf16>()),
            _ => return Ok(None),
        };
        match values.par_iter().filter(|value| !value.is_finite()).count() {
            0 => Ok(Some(values)),
            count => Err(LoadError::NonFinite { path: self.path.clone(), key: key.into(), count }),
        }
    }

    /// Reads straight into the vector that is returned.
    fn read_ranges<T: bytemuck::Pod>(
        &self,
        info: &TensorInfo,
        ranges: &[Range<usize>],
    ) -> Result<Vec<T>, LoadError> {
        let mut values = vec![T::zeroed(); ranges.iter().map(Range::len).sum()];
        let mut rest = values.as_mut_slice();
        for range in ranges {
            let (part, after) = rest.split_at_mut(range.len());
            rest = after;
            let offset = info.data_offsets.0 + range.start * size_of::<T>();
            let start = self.data_start + offset as u64;
            let io = |source| LoadError::Io { path: self.path.clone(), source };
            self.source.read_exact_at(start, bytemuck::cast_slice_mut(part)).map_err(io)?;
        }
        Ok(values)
    }
}

/// Reads and checks the header; returns it and where the data starts.
fn read_header(path: &Path, source: &Source, len: u64) -> Result<(Metadata, u64), LoadError> {
    let damaged = |message: String| LoadError::Header { path: path.into(), message };
    let io = |source| LoadError::Io { path: path.into(), source };
    let mut start = [0u8; 32];
    let start = &mut start[..32.min(len as usize)];
    source.read_exact_at(0, start).map_err(io)?;
    let Some((header_len, rest)) = start.split_first_chunk() else {
        refuse_other_kinds(path, start)?;
        return Err(damaged(format!("{len} bytes long, expected at least {LENGTH_BYTES}")));
    };
    let header_len = u64::from_le_bytes(*header_len);
    let (most, rest_len) = (Limit::HeaderBytes.value(), len - LENGTH_BYTES);
    // the bytes of a length can by chance be those by which another kind is recognized
    if header_len > most || rest.first().is_some_and(|&byte| byte != b'{') {
        refuse_other_kinds(path, start)?;
    }
    if header_len > rest_len {
        let found = format!("header of {header_len} bytes, expected at most {rest_len}");
        return Err(damaged(format!("{found}, which are there")));
    }
    if header_len > most {
        let limit = Limit::HeaderBytes;
        return Err(damaged(format!("header of {header_len} bytes, expected {limit}")));
    }
    let mut json = vec![0u8; header_len as usize];
    source.read_exact_at(LENGTH_BYTES, &mut json).map_err(io)?;
    let header: Metadata =
        serde_json::from_slice(&json).map_err(|error| damaged(format!("header: {error}")))?;
    let mut keys = serde_json::Deserializer::from_slice(&json);
    keys.deserialize_map(UniqueKeys).map_err(|error| damaged(format!("header: {error}")))?;
    for (key, info) in header.tensors() {
        let bytes = (info.data_offsets.1 - info.data_offsets.0) as u64;
        let limited = Limit::TensorBytes.check(&format!("size of {key}"), bytes);
        limited.map_err(|error| damaged(error.to_string()))?;
    }
    let (found, expected) = (len - LENGTH_BYTES - header_len, header.data_len() as u64);
    if found != expected {
        return Err(damaged(format!("{found} bytes of data, expected {expected}")));
    }
    Ok((header, LENGTH_BYTES + header_len))
}

/// Reads the keys of a header, each of which may stand there once. A map of them would keep the
/// last of two and not tell.
struct UniqueKeys;

impl<'de> Visitor<'de> for UniqueKeys {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
            if let Some(key) = seen.replace(key) {
                return Err(A::Error::custom(format!("{key} stands there twice, expected once")));
            }
        }
        Ok(())
    }
}

/// Recognizes what people put where weights should be, by the first bytes.
fn refuse_other_kinds(path: &Path, start: &[u8]) -> Result<(), LoadError> {
    const PICKLE: &str = "convert it with tools/convert_pickle.py in a place where you trust it: \
                          pickles run code when they are opened";
    const SHARDED: &str = "give the folder that it lies in";
    const KINDS: [Kind; 9] = [
        POINTER,
        (b"PK\x03\x04", "a zip archive, probably a PyTorch pickle", PICKLE),
        (b"\x80\x02", "a pickle", PICKLE),
        (b"\x80\x03", "a pickle", PICKLE),
        (b"\x80\x04", "a pickle", PICKLE),
        (b"\x80\x05", "a pickle", PICKLE),
        (b"GGUF", "a GGUF file", "download the safetensors version"),
        PAGE,
        (b"{", "a JSON file, perhaps the index of a model in shards", SHARDED),
    ];
    refuse(path, start, &KINDS, "a safetensors file")
}

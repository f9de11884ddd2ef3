//! TensorBoard's event files: records of a few fields of its protocol buffers.
//!
//! Source: TensorBoard's documentation of `Event` and `Summary`, and TensorFlow's of its record format.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use unclip_nn::checkpoint::LoadError;

/// An event file that is open.
#[derive(Debug)]
pub(super) struct Events {
    file: File,
    path: PathBuf,
}

/// Types of a field on the wire.
const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const BYTES: u64 = 2;
const FIXED_32: u64 = 5;

impl Events {
    /// Starts a file in this folder, of this process and moment.
    pub(super) fn create(folder: &Path) -> Result<Self, LoadError> {
        let seconds = now();
        let process = std::process::id();
        let path = folder.join(format!("events.out.tfevents.{}.unclip.{process}", seconds as u64));
        let io = |source| LoadError::Io { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let file = File::options().create(true).append(true).open(&path).map_err(io)?;
        let mut events = Self { file, path };
        let mut event = header(0);
        field(&mut event, 3, b"brain.Event:2");
        events.write(&event)?;
        Ok(events)
    }

    /// A number of a step.
    pub(super) fn scalar(&mut self, step: u64, name: &str, value: f64) -> Result<(), LoadError> {
        let mut own = Vec::new();
        field(&mut own, 1, name.as_bytes());
        key(&mut own, 2, FIXED_32);
        own.extend((value as f32).to_le_bytes());
        self.summary(step, &own)
    }

    /// A picture of a step, of this size, as a PNG file.
    pub(super) fn picture(
        &mut self,
        step: u64,
        name: &str,
        ([width, height], png): ([u32; 2], &[u8]),
    ) -> Result<(), LoadError> {
        let mut image = Vec::new();
        for (number, value) in [(1, height), (2, width), (3, 3)] {
            key(&mut image, number, VARINT);
            varint(&mut image, u64::from(value));
        }
        field(&mut image, 4, png);
        let mut own = Vec::new();
        field(&mut own, 1, name.as_bytes());
        field(&mut own, 4, &image);
        self.summary(step, &own)
    }

    fn summary(&mut self, step: u64, value: &[u8]) -> Result<(), LoadError> {
        let mut summary = Vec::new();
        field(&mut summary, 1, value);
        let mut event = header(step);
        field(&mut event, 5, &summary);
        self.write(&event)
    }

    fn write(&mut self, event: &[u8]) -> Result<(), LoadError> {
        let written = self.file.write_all(&record(event)).and_then(|()| self.file.flush());
        written.map_err(|source| LoadError::Io { path: self.path.clone(), source })
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |it| it.as_secs_f64())
}

/// What every event begins with: when, and at which step.
fn header(step: u64) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, FIXED_64);
    event.extend(now().to_le_bytes());
    key(&mut event, 2, VARINT);
    varint(&mut event, step);
    event
}

/// An event as it stands in a file: its length and its bytes, each with a checksum.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(event);
    record.extend(masked(event).to_le_bytes());
    record
}

/// CRC-32C, turned and shifted, so that a checksum of checksums is none of the same kind.
fn masked(bytes: &[u8]) -> u32 {
    const SHIFT: u32 = 0xa282_ead8;
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(SHIFT)
}

fn key(out: &mut Vec<u8>, number: u64, kind: u64) {
    varint(out, number << 3 | kind);
}

fn field(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    key(out, number, BYTES);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_those_of_tensorflow() {
        // what TensorBoard 2.20's own RecordWriter makes of "abc"
        let expected = [3, 0, 0, 0, 0, 0, 0, 0, 176, 153, 73, 14, 97, 98, 99, 110, 87, 241, 33];
        assert_eq!(record(b"abc"), expected);
    }

    #[test]
    fn numbers_of_any_size_are_varints() {
        let of = |value| {
            let mut out = Vec::new();
            varint(&mut out, value);
            out
        };
        assert_eq!((of(0), of(127), of(300)), (vec![0], vec![127], vec![0xac, 2]));
        assert_eq!(of(u64::MAX).len(), 10);
    }
}

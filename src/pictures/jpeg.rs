//! Whether a JPEG file is complete: decoders fill in missing parts with gray.

use std::io::{BufRead, Read, Seek};

const START_OF_SCAN: u8 = 0xda;
const END_OF_IMAGE: u8 = 0xd9;

/// Whether the picture's end is marked. The mark is looked for after the start of the first scan,
/// since what comes before may hold whole pictures of its own, such as a thumbnail.
pub(super) fn has_end(file: &mut (impl BufRead + Seek)) -> std::io::Result<bool> {
    file.rewind()?;
    Ok(skip_to_scan(file)? && finds(file, END_OF_IMAGE)?)
}

/// Passes over the segments before the first scan, by their lengths; tells whether there is one.
fn skip_to_scan(file: &mut (impl BufRead + Seek)) -> std::io::Result<bool> {
    let mut start = [0; 2];
    if file.by_ref().take(2).read(&mut start)? < 2 {
        return Ok(false);
    }
    loop {
        let mut head = [0; 4];
        match file.read_exact(&mut head) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
        let length = i64::from(u16::from_be_bytes([head[2], head[3]]));
        match head {
            // a mark may be filled up by bytes of its first kind
            [0xff, 0xff, ..] => file.seek_relative(-3)?,
            [0xff, START_OF_SCAN, ..] => return Ok(true),
            [0xff, ..] => file.seek_relative((length - 2).max(0))?,
            // not how files are written: whatever it is, it is no missing end
            _ => return Ok(true),
        }
    }
}

/// Looks for a mark among coded pixels, where the byte 255 is followed by 0 if it is none.
fn finds(file: &mut impl BufRead, mark: u8) -> std::io::Result<bool> {
    let mut before = 0;
    loop {
        let bytes = file.fill_buf()?;
        let len = bytes.len();
        if len == 0 {
            return Ok(false);
        }
        for &byte in bytes {
            if before == 0xff && byte == mark {
                return Ok(true);
            }
            before = byte;
        }
        file.consume(len);
    }
}

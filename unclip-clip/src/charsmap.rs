//! sentencepiece's table of replacements: a trie of bytes whose values are places in a text.
//!
//! `tokenizers` reads it as it is. What would lead it out of the table is found here first.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Decodes a table from base64.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(text).map_err(|error| error.to_string())
}

/// Bytes of a unit of the trie, and of the trie's length before it.
const UNIT: usize = 4;
/// Bytes of a replacement that are accepted; the longest of NFKC, that of U+FDFA, has 33.
const MAX_REPLACEMENT: usize = 256;
/// Children of a node lie in a block of so many units.
const BLOCK: usize = 256;

/// A unit of the trie (darts-clone's format).
#[derive(Clone, Copy)]
struct Unit(u32);

impl Unit {
    /// Whether it is a value, not a node.
    fn is_value(self) -> bool {
        self.0 >> 31 == 1
    }

    fn value(self) -> usize {
        (self.0 & 0x7fff_ffff) as usize
    }

    /// Whether a key ends at this node; its value is then the first child.
    fn has_value(self) -> bool {
        (self.0 >> 8) & 1 == 1
    }

    /// What the number of its children's block differs in from its own.
    fn offset(self) -> usize {
        ((self.0 >> 10) << ((self.0 & (1 << 9)) >> 6)) as usize
    }
}

/// Checks that every way through the trie stays in it, and that every value is a place in the text.
pub(crate) fn check(bytes: &[u8]) -> Result<(), String> {
    let number = |bytes: &[u8]| {
        let mut four = [0; UNIT];
        four.copy_from_slice(bytes);
        u32::from_le_bytes(four)
    };
    let Some((length, rest)) = bytes.split_at_checked(UNIT) else {
        return Err(format!("{} bytes, expected a length first", bytes.len()));
    };
    let length = number(length) as usize;
    let Some((trie, text)) = rest.split_at_checked(length) else {
        return Err(format!("a trie of {length} bytes in {}", rest.len()));
    };
    if length == 0 || !length.is_multiple_of(UNIT) {
        return Err(format!("a trie of {length} bytes, expected a multiple of {UNIT}"));
    }
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let units: Vec<Unit> = trie.chunks_exact(UNIT).map(|it| Unit(number(it))).collect();
    let ends_soon = |start: usize| {
        let rest = &text.as_bytes()[start..];
        rest.len() <= MAX_REPLACEMENT || rest[..MAX_REPLACEMENT].contains(&0)
    };
    // the first is the root, whatever it says of itself
    let is_node = |(place, unit): &(usize, &Unit)| *place == 0 || !unit.is_value();
    for (place, unit) in units.iter().enumerate().filter(is_node) {
        let children = place ^ unit.offset();
        if children | (BLOCK - 1) >= units.len() {
            return Err(format!("unit {place} leads out of the trie"));
        }
        if unit.has_value() {
            let start = units[children].value();
            if !text.is_char_boundary(start) {
                return Err(format!("unit {place} leads out of the text"));
            }
            if !ends_soon(start) {
                return Err(format!("unit {place} has more than {MAX_REPLACEMENT} bytes of text"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table that replaces "a" by "b": the root's children are the block 1, in which the node of
    /// `a` has its own children in the block 2, the first of which is the value.
    fn table(change: impl FnOnce(&mut Vec<u32>), text: &[u8]) -> Vec<u8> {
        let mut units = vec![0; 3 * BLOCK];
        units[0] = (256 << 10) | 0x80;
        let a = 256 + usize::from(b'a');
        units[a] = (((a ^ 512) as u32) << 10) | (1 << 8) | u32::from(b'a');
        units[512] = 1 << 31;
        change(&mut units);
        let mut bytes = ((units.len() * UNIT) as u32).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(text);
        bytes
    }

    fn replaced(bytes: &[u8]) -> String {
        let table = tokenizers::normalizers::Precompiled::from(bytes).unwrap();
        table.normalize_string("cab")
    }

    #[test]
    fn a_table_is_read() {
        let bytes = table(|_| (), b"b\0");
        check(&bytes).unwrap();
        assert_eq!(replaced(&bytes), "cbb");
    }

    #[test]
    fn what_leads_out_is_refused() {
        let refused = |change: fn(&mut Vec<u32>), text: &[u8], expected: &str| {
            let error = check(&table(change, text)).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        refused(|units| units[0] = 4096 << 10, b"b\0", "unit 0 leads out of the trie");
        refused(|units| units[512] |= 7, b"b\0", "leads out of the text");
        refused(|units| units[512] |= 1, "é\0".as_bytes(), "leads out of the text");
        refused(|_| (), b"\xff", "utf-8");
        refused(|_| (), &[b'b'; 1000], "more than 256 bytes of text");
        refused(|units| units[0] = u32::MAX, b"b\0", "unit 0 leads out of the trie");
        refused(|units| units.truncate(700), b"b\0", "leads out of the trie");
        let short = |bytes: &[u8]| check(bytes).unwrap_err();
        assert!(short(&[1, 2]).contains("a length first"));
        assert!(short(&u32::MAX.to_le_bytes()).contains("in 0"));
        assert!(short(&[0; 8]).contains("a multiple of 4"));
        assert!(decode("?").is_err());
    }
}

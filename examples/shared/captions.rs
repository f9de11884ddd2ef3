//! Reads captions from text files.

use std::io::Read;
use std::path::Path;

use unclip::unclip_core::Limit;
use unclip::unclip_nn::checkpoint::{read_file, without_mark};

use crate::console::AnyError;

/// The limit on what all captions have together.
const LIMIT: Limit = Limit::PromptFileBytes;

/// The captions of a text file, one per line, or of standard input if its name is `-`. Empty lines
/// are skipped.
pub(crate) fn read(path: &Path) -> Result<Vec<String>, AnyError> {
    let refused = |message: String| -> AnyError { format!("{}: {message}", path.display()).into() };
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().take(LIMIT.value().saturating_add(1)).read_to_end(&mut bytes)?;
        bytes
    } else {
        read_file(path, LIMIT)?
    };
    LIMIT.check_len("size of the captions", bytes.len()).map_err(|it| refused(it.to_string()))?;
    const MARKS: [(&[u8], &str); 4] = [
        (b"\xff\xfe\0\0", "UTF-32"),
        (b"\0\0\xfe\xff", "UTF-32"),
        (b"\xff\xfe", "UTF-16"),
        (b"\xfe\xff", "UTF-16"),
    ];
    if let Some((_, found)) = MARKS.iter().find(|(mark, _)| bytes.starts_with(mark)) {
        return Err(refused(format!("is {found}, expected UTF-8: save it as that")));
    }
    let bytes = without_mark(&bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
        refused(format!("line {line} is not UTF-8, expected that: save it as UTF-8"))
    })?;
    if text.contains('\0') {
        return Err(refused("holds zero bytes, expected a text".into()));
    }
    let lines = text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty());
    let captions: Vec<String> = lines.map(String::from).collect();
    let counted = Limit::Prompts.check_len("number of captions", captions.len());
    counted.map_err(|it| refused(it.to_string()))?;
    if captions.is_empty() {
        return Err(refused("holds no caption, expected one on each line".into()));
    }
    Ok(captions)
}

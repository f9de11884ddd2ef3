//! Names of classes: a text file, a line for each class.

use std::path::Path;

use unclip_core::{InvalidSetting, Limit};
use unclip_nn::checkpoint::{LoadError, read_text, write_whole};

use super::layout::Target;
use crate::Error;

/// The file.
const CLASSES: &str = "classes.txt";

/// The names of the classes of a folder's model, none if it does not say.
pub(super) fn class_names(folder: &Path) -> Result<Vec<String>, Error> {
    let path = folder.join(CLASSES);
    // a link to nowhere is there too, and refused when it is read
    if path.symlink_metadata().is_err() {
        return Ok(Vec::new());
    }
    let invalid = |found: String, expected: &str| {
        let source = InvalidSetting::new("names of classes", found, expected);
        Error::from(LoadError::Config { path: path.clone(), source })
    };
    let text = String::from_utf8(read_text(&path, Limit::VocabularyBytes)?)
        .map_err(|error| invalid(error.to_string(), "text in UTF-8"))?;
    // some editors begin a file with a mark of its encoding
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let names: Vec<String> = text.lines().map(|line| line.trim().to_string()).collect();
    match names.iter().position(String::is_empty) {
        Some(line) => Err(invalid(format!("line {} is empty", line + 1), "a name in each line")),
        None if names.is_empty() => Err(invalid("an empty file".into(), "a name for each class")),
        None => Ok(names),
    }
}

pub(super) fn write_class_names(names: &[String], target: &Target<'_>) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let text = names.iter().map(|name| format!("{name}\n")).collect::<String>();
    Ok(write_whole(&target.place(CLASSES)?, text.as_bytes())?)
}

//! `metadata.jsonl`: what pictures are of.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    pub file_name: String,
    pub text: Vec<String>,
    pub concept: String,
    pub style: String,
    pub background: String,
}

const NAME: &str = "metadata.jsonl";

pub fn read_lines(folder: &Path) -> Result<Vec<Line>, String> {
    let path = folder.join(NAME);
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
    let lines = text.lines().map(|line| serde_json::from_str(line).map_err(|error| failed(&error)));
    lines.collect()
}

pub fn write_lines(folder: &Path, lines: &[Line]) -> Result<(), String> {
    let path = folder.join(NAME);
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let texts = lines.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
    let texts = texts.map_err(|error| failed(&error))?;
    fs::write(&path, texts.join("\n") + "\n").map_err(|error| failed(&error))
}

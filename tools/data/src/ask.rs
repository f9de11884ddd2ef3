//! Captions to draw, and what they ask for.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::lines::{Line, read_lines, write_lines};

/// Chooses items of a folder that was made, each emoji at most once, and writes their first captions, one per
/// line, as `text_to_image --prompts` reads them.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Folder of pictures, as `make` writes it
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// How many
    #[arg(long, default_value_t = 200)]
    n: usize,
    /// Folder for captions.txt and metadata.jsonl, which must not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Copy the pictures themselves as well, in the place of drawn ones: what `check` says of the truth
    #[arg(long)]
    copy: bool,
    /// Seed of the choice
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(arguments: &Arguments) -> Result<(), String> {
    let lines = read_lines(&arguments.data)?;
    let chosen = chosen(lines, arguments.n, arguments.seed);
    if chosen.len() < arguments.n {
        let (found, data) = (chosen.len(), arguments.data.display());
        return Err(format!("{data}: {found} emoji, expected at least the {} of --n", arguments.n));
    }
    let out = &arguments.out;
    if let Some(parent) = out.parent() {
        fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    }
    fs::create_dir(out).map_err(|error| format!("{}: {error}", out.display()))?;
    let caption = |line: &Line| -> Result<String, String> {
        line.text.first().cloned().ok_or_else(|| format!("{}: no caption", line.file_name))
    };
    let captions = chosen.iter().map(caption).collect::<Result<Vec<_>, _>>()?;
    let path = out.join("captions.txt");
    fs::write(&path, captions.join("\n") + "\n")
        .map_err(|error| format!("{}: {error}", path.display()))?;
    if arguments.copy {
        for (number, line) in chosen.iter().enumerate() {
            let from = arguments.data.join(&line.file_name);
            fs::copy(&from, drawn(out, number))
                .map_err(|error| format!("{}: {error}", from.display()))?;
        }
    }
    write_lines(out, &chosen)
}

/// The picture of a caption, as `text_to_image` names it.
pub fn drawn(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number:05}.png"))
}

fn chosen(mut lines: Vec<Line>, n: usize, seed: u64) -> Vec<Line> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for at in (1..lines.len()).rev() {
        lines.swap(at, rng.random_range(0..=at));
    }
    let mut seen = BTreeSet::new();
    let mut first = |line: &Line| seen.insert((line.concept.clone(), line.style.clone()));
    lines.retain(|line| first(line));
    lines.truncate(n);
    lines
}

//! Captioned pictures.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use rayon::prelude::*;

use crate::icons::{self, Icon};
use crate::lines::{Line, write_lines};
use crate::{captions, draw};

/// Makes captioned pictures of emoji. `OUT/train` and `OUT/held_out` are image folders (`metadata.jsonl`);
/// `OUT/true` has every emoji once, as it is.
#[derive(Debug, Parser)]
pub struct Arguments {
    /// Folder of the unpacked packages: iconify-json-noto-…, iconify-json-fluent-emoji-flat-…, emojilib-…
    #[arg(long, value_name = "DIR")]
    packages: PathBuf,
    /// Folder to write, which must not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Side of the pictures, in pixels
    #[arg(long, default_value_t = 128)]
    side: u32,
    /// Pictures of each emoji, each placed and turned otherwise on another background
    #[arg(long, default_value_t = 4)]
    copies: u32,
    /// Seed of places, backgrounds and captions
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub fn run(arguments: &Arguments) -> Result<(), String> {
    if !(8..=2048).contains(&arguments.side) || !(1..=1000).contains(&arguments.copies) {
        return Err("--side is 8 to 2048, --copies 1 to 1000".into());
    }
    fs::create_dir(&arguments.out)
        .map_err(|error| format!("{}: {error}", arguments.out.display()))?;
    let icons = icons::all(&arguments.packages)?;
    let held_out = icons::held_out(&icons);
    let (tested, trained): (Vec<_>, Vec<_>) =
        icons.iter().partition(|icon| held_out.contains(&icon.id()));
    let own = |copies| Pictures { arguments, copies };
    own(arguments.copies).write("train", &trained)?;
    own(arguments.copies).write("held_out", &tested)?;
    own(0).write("true", &icons.iter().collect::<Vec<_>>())?;
    println!("{} emoji, of which {} are held out", icons.len(), tested.len());
    Ok(())
}

/// Pictures of a folder: so many of each emoji, or one as it is.
struct Pictures<'a> {
    arguments: &'a Arguments,
    copies: u32,
}

impl Pictures<'_> {
    fn write(&self, name: &str, icons: &[&Icon]) -> Result<(), String> {
        let folder = self.arguments.out.join(name);
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let lines: Result<Vec<Vec<Line>>, String> =
            icons.par_iter().map(|icon| self.of_icon(&folder, icon)).collect();
        let lines: Vec<Line> = lines?.into_iter().flatten().collect();
        write_lines(&folder, &lines)
    }

    fn of_icon(&self, folder: &Path, icon: &Icon) -> Result<Vec<Line>, String> {
        let seed = self.arguments.seed;
        (0..self.copies.max(1))
            .map(|copy| {
                let placing = match self.copies {
                    0 => draw::Placing::plain(),
                    _ => draw::Placing::drawn(&icon.id(), copy, seed),
                };
                let file_name = format!("{}-{copy}.png", icon.id());
                let png = draw::png(&icon.svg, self.arguments.side, &placing)
                    .map_err(|error| format!("{}: {error}", icon.id()))?;
                let path = folder.join(&file_name);
                fs::write(&path, png).map_err(|error| format!("{}: {error}", path.display()))?;
                let background = placing.background.0;
                let text = captions::captions(icon, background);
                let concept = icon.concept.clone();
                Ok(Line {
                    file_name,
                    text,
                    concept,
                    style: icon.style.into(),
                    background: background.into(),
                })
            })
            .collect()
    }
}

//! Several pictures and captions as one: the weighted mixture of their embeddings.
//!
//! ```text
//! cargo run --release --example mix -- picture.png:0.7 "a blue star:0.3" --out mixed.png
//! ```
//! A caption is what the prior imagines of it.

#[path = "shared/apart.rs"]
mod apart;
#[path = "shared/console.rs"]
mod console;
#[path = "shared/hint.rs"]
mod hint;
mod latents;
#[path = "pictures/progress.rs"]
mod progress;
#[path = "shared/seed.rs"]
mod seed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::Parser;
use unclip::ImageEmbedding;

use latents::{Common, Studio};

/// Mixes pictures and captions.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Pictures and captions, each with :WEIGHT, or 1 if it has none; a negative weight leads away
    #[arg(required = true, allow_negative_numbers = true)]
    parts: Vec<Part>,
    #[command(flatten)]
    common: Common,
}

/// A file if there is one of this name, or else a caption.
#[derive(Debug, Clone)]
struct Part {
    name: String,
    weight: f64,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let whole = Self { name: text.into(), weight: 1.0 };
        let Some((name, weight)) = text.rsplit_once(':') else { return Ok(whole) };
        // a time of the caption's own, such as 10:30
        if name.ends_with(|c: char| c.is_ascii_digit()) && !Path::new(name).exists() {
            return Ok(whole);
        }
        match weight.trim().parse::<f64>() {
            Ok(weight) if weight.is_finite() => Ok(Self { name: name.into(), weight }),
            Ok(weight) => Err(format!("weight is {weight}, expected a finite number")),
            Err(_) if Path::new(name).exists() => {
                Err(format!("weight of {name} is {weight:?}, expected a number"))
            }
            // a colon of the caption's own
            Err(_) => Ok(whole),
        }
    }
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    let Arguments { parts, common } = arguments;
    let files: Vec<&Path> = parts.iter().map(|part| Path::new(&part.name)).collect();
    let studio = common.open("mixed.png", 1, &files, &[])?;
    let embed = |part: &Part| Ok((embedding(&studio, &part.name)?, part.weight));
    let parts = parts.iter().map(embed).collect::<Result<Vec<_>, console::AnyError>>()?;
    let latents = studio.drawn(ImageEmbedding::mix(&parts)?, None)?;
    studio.write(&studio.draw(&latents)?.pictures)
}

/// Endings of pictures.
const PICTURES: [&str; 9] = ["png", "jpg", "jpeg", "jfif", "webp", "gif", "bmp", "tif", "tiff"];

fn embedding(studio: &Studio, name: &str) -> Result<ImageEmbedding, console::AnyError> {
    let path = PathBuf::from(name);
    if path.is_file() {
        return Ok(studio.unclip.embed_images(&[studio.read(&path)?])?);
    }
    if path.exists() {
        return Err(format!("{name}: is no file, expected a picture or a caption").into());
    }
    // the name of a picture, perhaps before a weight that is none
    let file = name.rsplit_once(':').map_or(name, |(file, _)| file);
    let is_picture = |name: &str| {
        let ending = Path::new(name).extension().map(|it| it.to_string_lossy().to_lowercase());
        ending.is_some_and(|it| PICTURES.contains(&it.as_str()))
    };
    if is_picture(name) || is_picture(file) {
        return Err(format!("{name}: no such file").into());
    }
    studio.look_at(&[name]);
    Ok(studio.settled(studio.unclip.imagine(&[name], &studio.options)?)?)
}

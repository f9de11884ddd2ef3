//! A path from one picture to another: both of a picture's latents move, its embedding (what it
//! shows) and the noise from which the decoder draws it (all the rest; paper, section 3.2). Or from
//! one caption to another, with one noise all the way.
//!
//! ```text
//! cargo run --release --example interpolate -- from.png to.png --frames 8 --out path.png
//! cargo run --release --example interpolate -- --captions "a red circle" "a blue star"
//! ```

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

use clap::Parser;
use unclip::{Ddim, Latents};

use latents::{Common, Studio};

/// Draws a path from one picture or caption to another.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The first and the last picture: PNG, JPEG, WebP, GIF, BMP or TIFF files
    #[arg(num_args = 2, value_names = ["FROM", "TO"])]
    #[arg(required_unless_present = "captions", conflicts_with = "captions")]
    pictures: Vec<PathBuf>,
    /// Two captions in the place of pictures
    #[arg(long, num_args = 2, value_names = ["FROM", "TO"])]
    captions: Option<Vec<String>>,
    /// Number of pictures, both ends included, 2 to 64
    #[arg(long, value_name = "N", default_value_t = 7)]
    #[arg(value_parser = clap::value_parser!(u64).range(2..=64))]
    frames: u64,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    let Arguments { pictures, captions, frames, common } = arguments;
    let inputs: Vec<&Path> = pictures.iter().map(PathBuf::as_path).collect();
    let studio = common.open("path.png", *frames as usize, &inputs, &[])?;
    let ends = match captions {
        Some(captions) => imagined(&studio, captions)?,
        None => {
            let seen = pictures.iter().map(|path| studio.read(path));
            studio.invert(&seen.collect::<Result<Vec<_>, _>>()?, Ddim { eta: 0.0 })?
        }
    };
    let [from, to] = [0, 1].map(|row| ends.narrow(row, 1));
    let way = (0..*frames).map(|k| from.between(&to, k as f64 / (frames - 1) as f64));
    let way = Latents::cat(&way.collect::<Result<Vec<_>, _>>()?)?;
    studio.write(&studio.draw(&way)?.pictures)
}

/// What the prior makes of captions; the noise is the seed's.
fn imagined(studio: &Studio, captions: &[String]) -> Result<Latents, console::AnyError> {
    studio.look_at(captions);
    let image = studio.unclip.imagine(captions, &studio.options)?;
    studio.drawn(studio.settled(image)?, None)
}

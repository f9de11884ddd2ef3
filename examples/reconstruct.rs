//! A picture from its two latents: the embedding that CLIP gives it, and the noise from which the
//! decoder draws it under that embedding (paper, section 3).
//!
//! ```text
//! cargo run --release --example reconstruct -- picture.png --decoder-steps 50 --out again.png
//! ```
//! Prints how close the picture comes, in decibels, at the size of the decoder's pictures and at
//! its own.

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
use unclip::unclip_core::image::{psnr, to_rgb};
use unclip::unclip_core::resize::bicubic_8bit;
use unclip::{Belm, Ddim, SamplerKind};

use latents::Common;

/// Draws a picture again from its two latents.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file
    picture: PathBuf,
    /// Find the noise exactly, by O-BELM instead of DDIM
    #[arg(long)]
    exact: bool,
    /// Also write the latents, as safetensors
    #[arg(long, value_name = "FILE")]
    latents: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    let Arguments { picture, exact, latents: kept, common } = arguments;
    let others: Vec<&Path> = kept.iter().map(PathBuf::as_path).collect();
    let studio = common.open("again.png", 1, &[picture], &others)?;
    let (unclip, seen) = (&studio.unclip, studio.read(picture)?);
    let sampler: SamplerKind = if *exact { Belm.into() } else { Ddim { eta: 0.0 }.into() };
    let latents = studio.invert(std::slice::from_ref(&seen), sampler)?;
    if let Some(path) = kept {
        latents.save(path, unclip.bundle())?;
    }
    let made = studio.draw(&latents)?;
    let small = unclip.bundle().fit_small(&seen, &unclip.device())?;
    let drawn = to_rgb(made.trace.decoder.ok_or("no picture of the decoder")?).remove(0);
    let (square, _) = unclip.bundle().fit(&seen, &unclip.device())?;
    let large = &made.pictures[0].image;
    let shrunk = bicubic_8bit(large, square.width(), square.height());
    console::say(format_args!(
        "{} at the decoder's {} pixels, {} at {}, as CLIP sees it",
        decibels(psnr(&small, &drawn)),
        small.width(),
        decibels(psnr(&square, &shrunk)),
        square.width()
    ));
    studio.write(&made.pictures)
}

fn decibels(psnr: f64) -> String {
    if psnr.is_finite() { format!("{psnr:.1} dB") } else { "equal".into() }
}

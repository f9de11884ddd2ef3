//! A part of a picture drawn anew: where the mask is white. The rest stays to the last bit, and
//! guides what is drawn (RePaint, Lugmayr et al. 2022).
//!
//! ```text
//! cargo run --release --example inpaint -- picture.png mask.png "a small red circle" --out edited.png
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

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use latents::Common;
use latents::edits::{Edit, Repaint, read_mask};

/// Draws a part of a picture anew.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file
    picture: PathBuf,
    /// Picture of the same size: white where something new is drawn
    mask: PathBuf,
    #[command(flatten)]
    edit: Edit,
    #[command(flatten)]
    repaint: Repaint,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    let Arguments { picture, mask, edit, repaint, common } = arguments;
    edit.check()?;
    let studio = common.open("edited.png", edit.n(), &[picture, mask], &[])?;
    let (picture, mask) = (studio.read_whole(picture)?, read_mask(mask)?);
    let subject = edit.subject(&picture);
    let made = studio.show(|unclip| {
        unclip.inpaint((&picture, &mask), subject, repaint.resampling(), &edit.options(&studio))
    })?;
    studio.write(&made.pictures)
}

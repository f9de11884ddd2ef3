//! A picture drawn again from a noisy version of it: its large shapes stay, the rest follows the
//! caption.
//!
//! ```text
//! cargo run --release --example image_to_image -- picture.png "a red circle" --strength 0.6
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
use latents::edits::Edit;

/// Draws the square in the middle of a picture again from a noisy version of it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file
    picture: PathBuf,
    /// How much noise: 1 leaves nothing of the picture, near 0 nearly everything
    #[arg(long, value_name = "SHARE", default_value_t = 0.6)]
    strength: f64,
    #[command(flatten)]
    edit: Edit,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    let Arguments { picture, strength, edit, common } = arguments;
    edit.check()?;
    let studio = common.open("redrawn.png", edit.n(), &[picture], &[])?;
    // only an image encoder would leave out what is beside the square
    let has_encoder = studio.unclip.bundle().image_encoder.is_some();
    let picture = if has_encoder { studio.read(picture)? } else { studio.read_whole(picture)? };
    let subject = edit.subject(&picture);
    let made = studio.show(|unclip| {
        unclip.image_to_image(&picture, *strength, subject, &edit.options(&studio))
    })?;
    studio.write(&made.pictures)
}

//! A picture changed by words: its embedding turns toward what one caption says and another does
//! not, while the noise stays (paper, section 3.3).
//!
//! ```text
//! cargo run --release --example text_diff -- picture.png --from "a red circle" --to "a blue circle"
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
use unclip::{Ddim, ImageEmbedding, InvalidSetting, SHARE};

use latents::Common;

/// Changes a picture by the difference of two captions, more from frame to frame.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file
    picture: PathBuf,
    /// What the picture shows, or something that says nothing, as "a photo"
    #[arg(long, value_name = "CAPTION")]
    from: String,
    /// What it is to show
    #[arg(long, value_name = "CAPTION")]
    to: String,
    /// How far the last frame goes, 0 to 1; the paper goes up to 0.25 to 0.5
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, allow_negative_numbers = true)]
    theta: f64,
    /// Number of pictures, the first of which is the picture itself, 2 to 64
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(2..=64))]
    frames: u64,
    /// Share of the variance of pictures' embeddings that a turned one keeps: beyond it lies what
    /// no picture has [default: 0.995; 1, which is everything, for a model without principal
    /// components]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    keep_variance: Option<f64>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    let Arguments { picture, from, to, theta, frames, common, .. } = arguments;
    InvalidSetting::check_range("theta", *theta, 0.0, 1.0)?;
    if let Some(share) = arguments.keep_variance {
        InvalidSetting::check_range("share of the variance", share, 0.0, 1.0)?;
    }
    let studio = common.open("text_diff.png", *frames as usize, &[picture], &[])?;
    studio.look_at(&[from, to]);
    let texts = studio.unclip.embed_texts(&[from, to])?;
    let [from, to] = [0, 1].map(|row| texts.narrow(row, 1).pooled);
    let share = arguments.keep_variance.unwrap_or(match &studio.unclip.bundle().prior {
        Some(prior) if prior.config().principal_components => SHARE,
        _ => 1.0,
    });
    let latents = studio.invert(&[studio.read(picture)?], Ddim { eta: 0.0 })?;
    let turned = (0..*frames).map(|k| {
        let theta = theta * k as f64 / (frames - 1) as f64;
        let turned = latents.image.text_diff(&from, &to, theta)?;
        // the first frame is the picture itself
        let is_whole = k == 0 || share == 1.0;
        if is_whole { Ok(turned) } else { studio.unclip.keep_variance(&turned, share) }
    });
    let image = ImageEmbedding::cat(turned.collect::<Result<_, unclip::Error>>()?);
    let all = latents.repeat_rows(image.batch()).with_image(image);
    studio.write(&studio.draw(&all)?.pictures)
}

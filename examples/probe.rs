//! What each part of a picture's embedding says: the picture drawn from its first principal
//! components alone, more and more of them, always with the same noise (paper, section 3.4).
//!
//! ```text
//! cargo run --release --example probe -- picture.png --components 1,2,4,8,16,32
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
use unclip::{Ddim, ImageEmbedding, InvalidSetting};

use latents::Common;

/// Draws a picture from a part of its embedding.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file
    picture: PathBuf,
    /// Numbers of principal components, one picture for each
    #[arg(long, value_name = "K", value_delimiter = ',', default_value = "1,2,4,8,16,32,64")]
    components: Vec<usize>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    let Arguments { picture, components, common } = arguments;
    let studio = common.open("probe.png", components.len(), &[picture], &[])?;
    let prior = studio.unclip.bundle().prior()?.config();
    if !prior.principal_components {
        let expected = "a model whose prior whitens along principal components";
        let found = studio.unclip.bundle().name();
        return Err(InvalidSetting::new("model", found, expected).into());
    }
    let width = prior.d_embedding as f64;
    components
        .iter()
        .try_for_each(|&k| InvalidSetting::check_range("components", k as f64, 1.0, width))?;
    let latents = studio.invert(&[studio.read(picture)?], Ddim { eta: 0.0 })?;
    let parts = components.iter().map(|&k| studio.unclip.keep_components(&latents.image, k));
    let image = ImageEmbedding::cat(parts.collect::<Result<_, _>>()?);
    let all = latents.repeat_rows(image.batch()).with_image(image);
    studio.write(&studio.draw(&all)?.pictures)
}

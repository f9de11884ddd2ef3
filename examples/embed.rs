//! Embeds the pictures of a folder by CLIP, for `map`, `rank` and `text_to_image --prior
//! retrieval`.
//!
//! ```text
//! cargo run --release --example embed -- FOLDER --out embeddings.safetensors
//! ```

#[path = "shared/apart.rs"]
mod apart;
#[path = "shared/clip.rs"]
mod clip;
#[path = "shared/console.rs"]
mod console;
#[path = "shared/folder.rs"]
mod folder;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use unclip::unclip_nn::checkpoint::check_place;
use unclip::{Gallery, ImageEmbedding, RgbImage};

use apart::check_apart;
use clip::Clip;
use console::AnyError;
use folder::{pictures_in, read_all};

/// Pictures that are embedded together.
const TOGETHER: usize = 16;

/// Embeds the pictures of a folder.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Folder of PNG, JPEG, WebP, GIF, BMP or TIFF files; its subfolders count
    folder: PathBuf,
    /// File of the embeddings
    #[arg(long, value_name = "FILE", default_value = "embeddings.safetensors")]
    out: PathBuf,
    #[command(flatten)]
    clip: Clip,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let Arguments { folder, out, clip } = arguments;
    let files = pictures_in(folder)?;
    let inputs: Vec<_> = files.iter().map(PathBuf::as_path).collect();
    check_apart([out.as_path()].into_iter(), &inputs, clip.model.as_deref())?;
    check_place(out)?;
    let unclip = clip.open()?;
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} eta {eta}")?;
    let bar = ProgressBar::new(files.len() as u64).with_style(style);
    let (mut images, mut names) = (Vec::new(), Vec::new());
    for files in files.chunks(TOGETHER) {
        let (numbers, pictures): (Vec<usize>, Vec<RgbImage>) = read_all(files).into_iter().unzip();
        if !pictures.is_empty() {
            images.push(unclip.embed_images(&pictures)?);
            names.extend(numbers.iter().map(|&at| files[at].to_string_lossy().into_owned()));
        }
        bar.inc(files.len() as u64);
    }
    bar.finish_and_clear();
    if images.is_empty() {
        return Err(format!("{}: no picture can be read", folder.display()).into());
    }
    let gallery = Gallery::new(ImageEmbedding::cat(images), names)?;
    gallery.save(out, unclip.bundle())?;
    console::say(format_args!("{}: {} embeddings", out.display(), gallery.len()));
    Ok(())
}

//! A map of pictures: those that CLIP finds alike lie side by side.
//!
//! ```text
//! cargo run --release --example map -- embeddings.safetensors --method tsne --out map.png
//! ```
//! `embed` writes the embeddings. The pictures are read again, from where they were then.

#[path = "../shared/apart.rs"]
mod apart;
#[path = "../shared/clip.rs"]
mod clip;
#[path = "../shared/console.rs"]
mod console;
#[path = "../shared/folder.rs"]
mod folder;
mod plane;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use unclip::image::imageops::{self, FilterType};
use unclip::unclip_nn::checkpoint::check_place;
use unclip::{Gallery, PictureFormat, RgbImage, write_picture};

use apart::check_apart;
use clip::Clip;
use console::{AnyError, say};
use folder::read;
use plane::{pca, tsne};

/// Draws a map of pictures.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Embeddings that `embed` wrote
    embeddings: PathBuf,
    /// How the embeddings are laid out in the plane
    #[arg(long, value_enum, default_value = "pca")]
    method: Method,
    /// File of the map: .png, .jpg or .webp
    #[arg(long, value_name = "FILE", default_value = "map.png")]
    out: PathBuf,
    /// Side of the map, in pixels
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..=8192))]
    size: u32,
    /// Side of each picture on it, in pixels
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u32).range(4..=512))]
    thumbnail: u32,
    #[command(flatten)]
    clip: Clip,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Method {
    /// The two directions in which the embeddings differ most
    Pca,
    /// Neighbors stay neighbors (van der Maaten & Hinton 2008)
    Tsne,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let Arguments { embeddings, out, clip, size, thumbnail, .. } = arguments;
    if thumbnail > size {
        let message = format!("--thumbnail is {thumbnail}, expected at most the --size, {size}");
        return Err(message.into());
    }
    PictureFormat::of(out)?;
    let places = [out.as_path()];
    check_apart(places.into_iter(), &[embeddings.as_path()], &clip.models())?;
    check_place(out)?;
    let unclip = clip.open()?;
    let gallery = Gallery::open(embeddings, unclip.bundle())?;
    let files: Vec<PathBuf> = gallery.names().iter().map(PathBuf::from).collect();
    check_apart(places.into_iter(), &files.iter().map(PathBuf::as_path).collect::<Vec<_>>(), &[])?;
    // a point of the map is all that is kept of a picture
    let shrink = |whole: RgbImage| {
        Ok(imageops::resize(&whole, *thumbnail, *thumbnail, FilterType::Triangle))
    };
    let seen = files.iter().enumerate();
    let pictures: Vec<(usize, RgbImage)> =
        seen.filter_map(|(at, path)| Some((at, read(path, shrink)?))).collect();
    if pictures.is_empty() {
        let message = "none of its pictures can be read: run this from where `embed` was run";
        return Err(format!("{}: {message}", embeddings.display()).into());
    }
    let points = match arguments.method {
        Method::Pca => pca(&gallery, &unclip.device()),
        Method::Tsne => tsne(&gallery, &unclip.device())?,
    };
    let mut map = RgbImage::from_pixel(*size, *size, [225; 3].into());
    let room = f64::from(size - thumbnail);
    for (number, picture) in &pictures {
        let [x, y] = points[*number];
        imageops::replace(&mut map, picture, (x * room) as i64, (y * room) as i64);
    }
    write_picture(out, &map)?;
    say(out.display());
    Ok(())
}

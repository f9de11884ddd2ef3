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
use unclip::unclip_core::Limit;
use unclip::unclip_nn::checkpoint::check_place;

use apart::check_apart;
use clip::Clip;
use console::AnyError;
use folder::{embedded, pictures_in};

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
    check_apart([out.as_path()].into_iter(), &inputs, &clip.models())?;
    check_place(out)?;
    // names stand in the header of what is written, which has to be read again
    let names = files.iter().map(|file| file.to_string_lossy().escape_default().count() + 3);
    Limit::HeaderBytes.check_len("length of all names of pictures", names.sum())?;
    let unclip = clip.open()?;
    let gallery = embedded(&unclip, &files)?;
    gallery.save(out, unclip.bundle())?;
    console::say(format_args!("{}: {} embeddings", out.display(), gallery.len()));
    Ok(())
}

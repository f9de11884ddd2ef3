//! What CLIP says of pictures and captions.
//!
//! ```text
//! cargo run --release --example rank -- picture.png "a red circle" "a blue star"
//! ```
//! Of a picture: a line for each caption, the best first, with the probability that CLIP gives it
//! among the others, and the cosine. Of a folder, or of a file that `embed` wrote: for each caption
//! the pictures that are closest to it.

#[path = "shared/clip.rs"]
mod clip;
#[path = "shared/console.rs"]
mod console;
#[path = "shared/folder.rs"]
mod folder;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use unclip::{Gallery, ImageEmbedding, ReadOptions, RgbImage, UnClip};

use clip::Clip;
use console::{AnyError, note, say};
use folder::{pictures_in, read_all};

/// Compares pictures and captions.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// A picture, a folder of pictures, or embeddings that `embed` wrote
    pictures: PathBuf,
    /// The captions
    #[arg(required = true)]
    captions: Vec<String>,
    /// How many pictures of a folder are shown for each caption
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
    #[command(flatten)]
    clip: Clip,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let Arguments { pictures, captions, top, clip } = arguments;
    let unclip = clip.open()?;
    let tokens = unclip.bundle().tokenizer.encode(captions);
    for dropped in (0..captions.len()).filter_map(|row| tokens.dropped(row)) {
        note(format_args!("a caption is too long; left out: {dropped:?}"));
    }
    if !pictures.is_dir() && pictures.extension().is_none_or(|ending| ending != "safetensors") {
        return classify(&unclip, pictures, captions);
    }
    let gallery = gallery(&unclip, pictures)?;
    let text = unclip.embed_texts(captions)?;
    let found = gallery.nearest(&text.pooled, *top)?;
    for (caption, found) in captions.iter().zip(found) {
        say(caption);
        found
            .iter()
            .for_each(|(at, cosine)| say(format_args!("{cosine:8.3}  {}", gallery.names()[*at])));
    }
    Ok(())
}

fn classify(unclip: &UnClip, picture: &Path, captions: &[String]) -> Result<(), AnyError> {
    let read = ReadOptions::default().read(picture)?;
    let found = unclip.similarity(&[read.image], captions)?;
    for number in found.best_captions(0) {
        let percent = 100.0 * found.probability(0, number);
        let cosine = found.cosine(0, number);
        say(format_args!("{percent:6.2} %  {cosine:6.3}  {}", captions[number]));
    }
    Ok(())
}

/// The embeddings in a file, or of the pictures in a folder.
fn gallery(unclip: &UnClip, path: &Path) -> Result<Gallery, AnyError> {
    if !path.is_dir() {
        return Ok(Gallery::open(path, unclip.bundle())?);
    }
    let files = pictures_in(path)?;
    let (numbers, pictures): (Vec<usize>, Vec<RgbImage>) = read_all(&files).into_iter().unzip();
    let images = pictures.chunks(16).map(|some| unclip.embed_images(some));
    let image = ImageEmbedding::cat(images.collect::<Result<_, _>>()?);
    let names = numbers.iter().map(|&at| files[at].to_string_lossy().into_owned());
    Ok(Gallery::new(image, names.collect())?)
}

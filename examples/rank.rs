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
use unclip::{Gallery, UnClip};

use clip::Clip;
use console::{AnyError, note, say};
use folder::{embedded, pictures_in, read};

/// Compares pictures and captions.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// A picture, a folder of pictures, or embeddings that `embed` wrote
    pictures: PathBuf,
    /// The captions
    #[arg(required = true)]
    captions: Vec<String>,
    /// How many pictures of a folder are shown for each caption [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    top: Option<u64>,
    #[command(flatten)]
    clip: Clip,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let Arguments { pictures, captions, top, clip } = arguments;
    let unclip = clip.open()?;
    let tokens = unclip.bundle().clip_text()?.tokenizer.encode(captions);
    for dropped in (0..captions.len()).filter_map(|row| tokens.dropped(row)) {
        note(format_args!("a caption is too long; left out: {dropped:?}"));
    }
    if !pictures.is_dir() && pictures.extension().is_none_or(|ending| ending != "safetensors") {
        if top.is_some() {
            return Err("--top is of a folder or of embeddings: a picture has all captions".into());
        }
        return classify(&unclip, pictures, captions);
    }
    let gallery = gallery(&unclip, pictures)?;
    let text = unclip.embed_texts(captions)?;
    let found = gallery.nearest(&text.pooled, top.unwrap_or(5) as usize)?;
    for (caption, found) in captions.iter().zip(found) {
        say(caption);
        found
            .iter()
            .for_each(|(at, cosine)| say(format_args!("{cosine:8.3}  {}", gallery.names()[*at])));
    }
    Ok(())
}

fn classify(unclip: &UnClip, picture: &Path, captions: &[String]) -> Result<(), AnyError> {
    let name = picture.display();
    let fit = |whole| unclip.bundle().fit(&whole, &unclip.device());
    let Some((square, cropped)) = read(picture, fit) else {
        return Err(format!("{name}: expected a picture").into());
    };
    cropped.iter().for_each(|it| note(format_args!("{name}: {it}")));
    let found = unclip.similarity(&[square], captions)?;
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
    embedded(unclip, &pictures_in(path)?)
}

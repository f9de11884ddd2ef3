//! A picture to variations of it.
//!
//! ```text
//! cargo run --release --example image_variation -- picture.png --n 4 --grid
//! ```
//! The picture is embedded by CLIP and decoded again: what the embedding holds stays, the rest is
//! drawn anew. Works with every model that has an image encoder.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod pictures;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use unclip::Precision;

use pictures::{AnyError, Bars, Common};

/// Makes variations of pictures.
#[derive(Debug, Parser)]
struct Arguments {
    /// The pictures: PNG or JPEG files
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let common = &arguments.common;
    // with several pictures, --out is a folder
    let many = arguments.pictures.len() > 1 || common.out.as_ref().is_some_and(|out| out.is_dir());
    let bundle = common.bundle()?;
    let options = common.options()?;
    common.check_out(many)?;
    let pictures = arguments.pictures.iter().map(unclip::read_picture);
    let pictures = pictures.collect::<Result<Vec<_>, _>>()?;
    let together = if common.is_one_batch() { pictures.len() } else { 1 };
    let unclip = common.load(bundle, Precision::default(), pictures.len() > together)?;
    let (mut costs, mut written) = (Vec::new(), 0);
    for (pictures, paths) in pictures.chunks(together).zip(arguments.pictures.chunks(together)) {
        let mut bars = Bars::default();
        let mut generated =
            unclip.observed(&mut |event| bars.show(event)).image_variation(pictures, &options)?;
        bars.finish();
        common.note_dropped(&generated);
        for (i, picture) in generated.pictures.iter_mut().enumerate() {
            let name = paths[i / options.n].file_name().unwrap_or_default();
            picture.recipe.picture = Some(name.to_string_lossy().into_owned());
        }
        if let Some(path) = &common.trace {
            generated.trace.save(path)?;
        }
        common.write(&generated, written, many)?;
        written += generated.pictures.len();
        costs.extend(generated.costs);
    }
    common.write_reports(&costs)
}

//! A caption to a picture.
//!
//! ```text
//! cargo run --release --example text_to_image -- "a large red circle above a small blue square"
//! ```
//! Every setting is kept in the PNG; `--from picture.png` makes the picture again.

#![allow(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
mod pictures;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use unclip::{Bundle, GenerateOptions, Precision, Recipe};

use pictures::{AnyError, Bars, Common, shorten};

guided_stage!(PriorArguments, "prior");

/// Makes pictures of captions.
#[derive(Debug, Parser)]
struct Arguments {
    /// What the picture shows; nothing gives a picture of anything
    #[arg(required_unless_present_any = ["prompts", "from"])]
    prompt: Option<String>,
    /// File of captions, one on a line; writes 00000.png, 00001.png, … into the folder --out
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "from"])]
    prompts: Option<PathBuf>,
    /// Make the picture in this file again, from the settings that it holds; other options go before
    /// them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "seed", "n"])]
    from: Option<PathBuf>,
    #[command(flatten)]
    prior: PriorArguments,
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
    let (common, many) = (&arguments.common, arguments.prompts.is_some());
    let bundle = common.bundle()?;
    let Request { prompts, options, precision } = request(arguments, &bundle)?;
    common.check_out(many)?;
    let together = if common.is_one_batch() { prompts.len().max(1) } else { 1 };
    // one batch needs each network once; many are faster when all of them stay
    let unclip = common.load(bundle, precision, prompts.len() > together)?;
    let (mut costs, mut written) = (Vec::new(), 0);
    for captions in prompts.chunks(together) {
        let mut bars = Bars::default();
        let generated =
            unclip.observed(&mut |event| bars.show(event)).text_to_images(captions, &options)?;
        bars.finish();
        common.note_dropped(&generated);
        for dropped in generated.dropped.iter().flatten() {
            eprintln!("note: a caption is too long; left out: {:?}", shorten(dropped));
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

/// The captions, and what all of them share.
struct Request {
    prompts: Vec<String>,
    options: GenerateOptions,
    precision: Precision,
}

fn request(arguments: &Arguments, bundle: &Bundle) -> Result<Request, AnyError> {
    let options = arguments.common.options()?.with_prior(arguments.prior.options());
    if let Some(path) = &arguments.from {
        return again(path, options, bundle);
    }
    let prompts = match &arguments.prompts {
        None => arguments.prompt.iter().cloned().collect(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?
            .lines()
            .map(String::from)
            .collect(),
    };
    Ok(Request { prompts, options, precision: Precision::default() })
}

/// What made the picture in a file, but for what is asked for otherwise.
fn again(
    path: &std::path::Path,
    asked: GenerateOptions,
    bundle: &Bundle,
) -> Result<Request, AnyError> {
    let recipe = Recipe::read(path)?;
    recipe.check_model(bundle)?;
    if let Some(picture) = &recipe.picture {
        return Err(format!("a variation of {picture}, not a picture of a caption").into());
    }
    if let (Some(name), None) = (&recipe.noise, &asked.noise) {
        return Err(format!("its noise came from {name}; give that by --noise").into());
    }
    let mut options = recipe.options();
    if !asked.negative_prompt.is_empty() {
        options.negative_prompt = asked.negative_prompt;
    }
    options.noise = asked.noise;
    options.prior = asked.prior.or(options.prior);
    options.decoder = asked.decoder.or(options.decoder);
    options.upsampler = asked.upsampler.or(options.upsampler);
    Ok(Request { prompts: vec![recipe.prompt], options, precision: recipe.precision })
}

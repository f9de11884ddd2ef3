//! A caption to a picture.
//!
//! ```text
//! cargo run --release --example text_to_image -- "a large red circle above a small blue square"
//! ```
//! Every setting is kept in the PNG; `--from picture.png` makes the picture again.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod pictures;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use unclip::unclip_core::SamplerKind;
use unclip::{Bundle, Event, GenerateOptions, Precision, StageOptions};

use pictures::{AnyError, Bars, Common};

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
    /// Reverse steps of the prior
    #[arg(long)]
    prior_steps: Option<usize>,
    /// How far the prior follows the caption; 1 disables guidance
    #[arg(long)]
    prior_guidance: Option<f64>,
    /// ddpm, ddim or dpm_solver, for the prior
    #[arg(long, value_name = "NAME")]
    prior_sampler: Option<SamplerKind>,
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
        let mut observer = |event: &Event<'_>| bars.show(event);
        let generated = unclip.text_to_images(captions, &options, &mut observer)?;
        bars.finish();
        for dropped in generated.dropped.iter().flatten() {
            eprintln!("note: a caption is too long; left out: {:?}", shorten(dropped));
        }
        if let Some(path) = &common.trace {
            generated.trace.save(path)?;
        }
        common.write(&generated, written, many)?;
        written += generated.images.len();
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
    let (steps, guidance_scale) = (arguments.prior_steps, arguments.prior_guidance);
    let prior = StageOptions { steps, guidance_scale, sampler: arguments.prior_sampler };
    let options = GenerateOptions { prior, ..arguments.common.options()? };
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
    let settings = unclip::read_settings(path)?;
    settings.check_model(bundle)?;
    if let Some(picture) = &settings.picture {
        return Err(format!("a variation of {picture}, not a picture of a caption").into());
    }
    if let (Some(name), None) = (&settings.noise, &asked.noise) {
        return Err(format!("its noise came from {name}; give that by --noise").into());
    }
    let (made, precision) = (settings.options(), settings.precision);
    let stage = |asked: StageOptions, made: StageOptions| StageOptions {
        steps: asked.steps.or(made.steps),
        guidance_scale: asked.guidance_scale.or(made.guidance_scale),
        sampler: asked.sampler.or(made.sampler),
    };
    let negative_prompt = match asked.negative_prompt.is_empty() {
        true => made.negative_prompt,
        false => asked.negative_prompt,
    };
    let options = GenerateOptions {
        negative_prompt,
        noise: asked.noise,
        prior: stage(asked.prior, made.prior),
        decoder: stage(asked.decoder, made.decoder),
        upsample: stage(asked.upsample, made.upsample),
        ..made
    };
    Ok(Request { prompts: vec![settings.prompt], options, precision })
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.chars().count() > SHOWN {
        true => format!("{}…", text.chars().take(SHOWN).collect::<String>()),
        false => text.into(),
    }
}

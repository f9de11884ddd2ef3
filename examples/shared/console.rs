//! How programs parse options, print and exit. A failed print does not end the work: if a reader
//! has seen enough and closes the pipe, the pictures are still made.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use unclip::unclip_core::{LimitValue, escaped};

pub(crate) type AnyError = Box<dyn std::error::Error>;

/// The environment variable that raises limits, and where it is told of.
const LIMITS: &str = "UNCLIP_LIMITS";
const AFTER_HELP: &str = "Environment:
  UNCLIP_LIMITS  limits on what is read and made, as in \"picture_side=20000 images=100\" (SECURITY.md)";

/// What other programs call an option, and what it is here.
const ELSEWHERE: [(&[&str], &str); 15] = [
    (&["prompt", "p", "text"], "the caption stands without a name: \"a large red circle\""),
    (&["negative", "negative_prompt", "neg"], "--negative-prompt"),
    (
        &["steps", "num-inference-steps", "ddim_steps", "s"],
        "--prior-steps, --decoder-steps and --upsampler-steps: each stage has its own",
    ),
    (
        &["cfg", "cfg-scale", "guidance", "guidance-scale", "scale"],
        "--prior-guidance and --decoder-guidance: each stage has its own",
    ),
    (
        &["sampler", "scheduler"],
        "--prior-sampler, --decoder-sampler and --upsampler-sampler: each stage has its own",
    ),
    (&["spacing"], "--prior-spacing, --decoder-spacing and --upsampler-spacing"),
    (&["output", "o", "outdir", "output-dir"], "--out"),
    (&["num-images", "num-images-per-prompt", "n_samples", "batch-size", "count", "n"], "--n"),
    (&["strength"], "an option of image_to_image and image_variation"),
    (
        &["eta"],
        "a part of a sampler's name, as in --decoder-sampler ddim:0.5; image_variation --eta starts \
         from the picture's own noise",
    ),
    (
        &["width", "height", "w", "H", "W", "size"],
        "--width and --height of text_to_image and image_variation, where a model is not bound to one size",
    ),
    (&["gpu", "cuda", "cpu"], "--device, as in --device cuda"),
    (&["fp16", "half", "dtype"], "--precision, as in --precision f16"),
    (&["image", "init-img", "input", "i"], "image_variation: its pictures stand without a name"),
    (&["ckpt", "checkpoint", "m"], "--model, with the folder of a model"),
];

/// Reads the command line, and reports what is wrong with it. For an option that other programs
/// call differently, it also says what it is called here.
pub(crate) fn parse<T: Parser>() -> Result<T, ExitCode> {
    let command = T::command().after_help(AFTER_HELP);
    let parsed = command.try_get_matches().and_then(|mut them| T::from_arg_matches_mut(&mut them));
    parsed.map_err(|error| {
        let _ = error.print();
        if let Some(here) = hint(&error) {
            note(format_args!("here that is {here}"));
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
    })
}

fn hint(error: &clap::Error) -> Option<&'static str> {
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    if !argument.starts_with('-') {
        return Some(
            "one argument too many: several words stand in quotes, as in \"a large red circle\"",
        );
    }
    let name = argument.trim_start_matches('-');
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    let spelled = |known: &&str| known.replace('_', "-") == name.replace('_', "-");
    ELSEWHERE.iter().find(|(names, _)| names.iter().any(spelled)).map(|&(_, here)| here)
}

/// Runs a program to its end, and reports what went wrong.
pub(crate) fn run<T: Parser, E: Display>(program: impl FnOnce(&T) -> Result<(), E>) -> ExitCode {
    let arguments = match parse::<T>() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    match set_limits().and_then(|()| program(&arguments).map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", safe(error));
            ExitCode::FAILURE
        }
    }
}

/// Sets the limits that the environment asks for.
fn set_limits() -> Result<(), String> {
    let Ok(asked) = std::env::var(LIMITS) else { return Ok(()) };
    for one in asked.split([' ', ',']).filter(|one| !one.is_empty()) {
        let LimitValue { limit, value } =
            one.parse().map_err(|error| format!("{LIMITS}: {error}"))?;
        limit.set(value);
    }
    Ok(())
}

/// A line of a program's result.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{}", safe(line));
}

/// A line about what happened on the way.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "note: {}", safe(line));
}

/// Lines and columns as they are, without anything else that a terminal obeys: a caption, a file's
/// name or a model's word may hold such.
fn safe(text: impl Display) -> String {
    let text = text.to_string();
    let columns = |line: &str| line.split('\t').map(escaped).collect::<Vec<_>>().join("\t");
    text.split('\n').map(columns).collect::<Vec<_>>().join("\n")
}

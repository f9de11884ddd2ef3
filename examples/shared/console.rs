//! How programs parse options, print and exit. A failed print does not end the work: if a reader
//! has seen enough and closes the pipe, the pictures are still made.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use unclip::unclip_core::{Limit, LimitValue, escaped};

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
pub(crate) fn run<T: Parser + Sync, E: Display>(
    program: impl FnOnce(&T) -> Result<(), E> + Send,
) -> ExitCode {
    let arguments = match parse::<T>() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    limit_threads();
    let run = || program(&arguments).map_err(|error| error.to_string());
    match set_limits().and_then(|()| with_stack(run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", short(error));
            ExitCode::FAILURE
        }
    }
}

/// Runs something on a thread whose stack is large enough on every system: what a program's first thread has is the
/// system's to say.
fn with_stack<T: Send>(run: impl FnOnce() -> Result<T, String> + Send) -> Result<T, String> {
    const STACK: usize = 16 << 20;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let thread = thread.spawn_scoped(scope, run).map_err(|error| error.to_string())?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Takes as many threads as there are cores, if more are asked for: each operation of a network waits for
/// all of them.
fn limit_threads() {
    const THREADS: &str = "RAYON_NUM_THREADS";
    let asked = std::env::var(THREADS).ok().and_then(|it| it.parse::<usize>().ok());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(asked) = asked.filter(|asked| *asked > cores) {
        note(format_args!(
            "{THREADS} is {asked}, of which {cores} are taken: there are no more cores"
        ));
        // fails only where threads run already, whose number is then settled
        let _ = rayon::ThreadPoolBuilder::new().num_threads(cores).build_global();
    }
}

/// Sets the limits that the environment asks for, and that of memory to what there is.
fn set_limits() -> Result<(), String> {
    if let Some(bytes) = memory() {
        Limit::MemoryBytes.set(bytes);
        // beside it, a picture is turned, converted and resized
        Limit::PictureBytes.set(Limit::PictureBytes.value().min(bytes / 3));
    }
    let Some(asked) = std::env::var_os(LIMITS) else { return Ok(()) };
    let asked = asked.to_str().ok_or_else(|| format!("{LIMITS} is not UTF-8, expected that"))?;
    let mut set = Vec::new();
    for one in asked.split([' ', ',']).filter(|one| !one.is_empty()) {
        let LimitValue { limit, value } =
            one.parse().map_err(|error| format!("{LIMITS}: {error}"))?;
        if set.contains(&limit) {
            return Err(format!("{LIMITS}: {} stands there twice, expected once", limit.name()));
        }
        set.push(limit);
        limit.set(value);
    }
    Ok(())
}

/// The memory that this process may have, as far as Linux tells: the machine's, that of its group, or the
/// addresses of `ulimit -v`, of which threads reserve a part.
fn memory() -> Option<u64> {
    const RESERVED: u64 = 256 << 20;
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |text: &str| text.split_whitespace().find_map(|word| word.parse::<u64>().ok());
    let line =
        |text: String, begin: &str| text.lines().find_map(|it| number(it.strip_prefix(begin)?));
    let machine = read("/proc/meminfo").and_then(|it| line(it, "MemTotal:")).map(|kb| kb << 10);
    let group = read("/sys/fs/cgroup/memory.max").and_then(|it| number(&it));
    let addresses = read("/proc/self/limits").and_then(|it| line(it, "Max address space"));
    let addresses = addresses.map(|bytes| bytes.saturating_sub(RESERVED));
    [machine, group, addresses].into_iter().flatten().min()
}

/// A line of a program's result.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{}", safe(line));
}

/// A line about what happened on the way.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "note: {}", short(line));
}

/// The same, no longer than people would read.
fn short(text: impl Display) -> String {
    const MOST: usize = 10_000;
    let mut text = safe(text);
    if let Some((end, _)) = text.char_indices().nth(MOST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Lines and columns as they are, without anything else that a terminal obeys: a caption, a file's
/// name or a model's word may hold such.
fn safe(text: impl Display) -> String {
    let text = text.to_string();
    let columns = |line: &str| line.split('\t').map(escaped).collect::<Vec<_>>().join("\t");
    text.split('\n').map(columns).collect::<Vec<_>>().join("\n")
}

//! Checks on this machine what the tests check elsewhere, and prints one page to paste into a report.
//!
//! ```text
//! cargo run --release --example self_test
//! cargo run --release --features vulkan --example self_test -- --device vulkan --precision f16
//! ```
//! Every operation is compared with its definition in double precision (and its gradients, with the feature
//! `train`), the bundled model's numbers with those that were written down, and a picture is made and
//! timed. The exit code is 1 if anything does not agree.

#[path = "shared/console.rs"]
mod console;
#[path = "self_test/golden.rs"]
mod golden;
#[path = "self_test/machine.rs"]
mod machine;
#[path = "shared/memory.rs"]
mod memory;
#[path = "self_test/operations.rs"]
mod operations;
#[path = "self_test/plain.rs"]
mod plain;
#[path = "self_test/speed.rs"]
mod speed;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use unclip::{Bundle, Device, GenerateOptions, Precision, Residency, UnClip};

use console::{AnyError, say};

/// Checks this machine, and prints one page about it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Number format in which the bundled model computes: f32, f16 or bf16
    #[arg(long, value_name = "FORMAT", default_value_t)]
    precision: Precision,
    /// Write the bundled model's numbers as computed here, instead of comparing them
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let device = unclip::device(&arguments.device)?;
    if !arguments.precision.is_supported(&device) {
        let Arguments { precision, device, .. } = arguments;
        return Err(format!("--precision is {precision}, which {device} does not have").into());
    }
    let unclip =
        || UnClip::new(Bundle::shapes()?, (&device, arguments.precision), Residency::Resident);
    if let Some(path) = &arguments.record {
        golden::record(&golden::trace(&unclip()?)?, path)?;
        say(path.display());
        return Ok(());
    }
    let mut page = Page::default();
    page.head(arguments);
    page.operations(&device);
    let start = Instant::now();
    let unclip = unclip()?;
    page.picture(&unclip, start)?;
    page.golden(&unclip, arguments.precision)?;
    page.lines("Speed", speed::lines(&device, arguments.precision));
    page.end()
}

/// What is said, and what did not agree.
#[derive(Default)]
struct Page {
    checks: usize,
    failed: Vec<String>,
}

impl Page {
    fn head(&self, arguments: &Arguments) {
        let features = [
            ("flex", cfg!(feature = "flex")),
            ("wgpu", cfg!(feature = "wgpu")),
            ("vulkan", cfg!(feature = "vulkan")),
            ("metal", cfg!(feature = "metal")),
            ("cuda", cfg!(feature = "cuda")),
            ("rocm", cfg!(feature = "rocm")),
            ("train", cfg!(feature = "train")),
        ];
        let features: Vec<_> = features.iter().filter(|it| it.1).map(|it| it.0).collect();
        let built = if cfg!(debug_assertions) { ", built without --release" } else { "" };
        let mut lines = vec![
            (
                "unclip",
                format!("{}, features {}{built}", env!("CARGO_PKG_VERSION"), features.join(" ")),
            ),
            ("device", format!("{}, {}", arguments.device, arguments.precision)),
        ];
        lines.extend(machine::lines());
        self.lines("Self-test", lines);
    }

    fn lines(&self, title: &str, lines: Vec<(&'static str, String)>) {
        say(format_args!("## {title}\n"));
        lines.iter().for_each(|(name, value)| say(format_args!("{name:48}{value}")));
        say("");
    }

    fn check(&mut self, name: &str, result: String, agrees: bool) {
        self.checks += 1;
        say(format_args!("{name:48}{result}   {}", if agrees { "ok" } else { "DIFFERS" }));
        self.failed.extend((!agrees).then(|| name.to_string()));
    }

    fn operations(&mut self, device: &Device) {
        say("## Operations in f32 against their definitions in double precision\n");
        for operation in operations::all() {
            let found = operation.compare(device);
            let gradient = found.gradient.map(|it| format!("   gradient {it:.1e}"));
            let result = format!("value {:.1e}{}", found.value, gradient.unwrap_or_default());
            self.check(operation.name, result, found.worst() <= operations::TOLERANCE);
        }
        say("");
    }

    fn golden(&mut self, unclip: &UnClip, precision: Precision) -> Result<(), AnyError> {
        say("## Numbers of the bundled model against those of the CPU of another machine\n");
        for found in golden::compare(&golden::trace(unclip)?)? {
            let result = format!("median {:.1e}   99 % {:.1e}", found.median, found.high);
            self.check(&found.name, result, found.agrees(precision));
        }
        say("");
        Ok(())
    }

    /// Makes a picture twice: the same seed must give the same bytes.
    fn picture(&mut self, unclip: &UnClip, start: Instant) -> Result<(), AnyError> {
        say("## A picture of the bundled model\n");
        let options = GenerateOptions::default().with_seed(7);
        let picture = || -> Result<_, AnyError> {
            let start = Instant::now();
            let made = unclip.text_to_image("a small green star in the top left", &options)?;
            Ok((made.images(), start.elapsed().as_secs_f64()))
        };
        let ((first, _), to_first) = (picture()?, start.elapsed().as_secs_f64());
        let (second, seconds) = picture()?;
        self.check("the same picture again", format!("{seconds:.2} s"), first == second);
        let memory = memory::peak_resident_bytes().map(|it| format!("{:.2} GB", it as f64 / 1e9));
        say(format_args!("{:48}{to_first:.2} s", "from opening to the first picture"));
        say(format_args!(
            "{:48}{}\n",
            "memory at most",
            memory.unwrap_or_else(|| "unknown".into())
        ));
        Ok(())
    }

    fn end(self) -> Result<(), AnyError> {
        if self.failed.is_empty() {
            say(format_args!("all {} checks agree", self.checks));
            return Ok(());
        }
        let [failed, all] = [self.failed.len(), self.checks];
        Err(format!("{failed} of {all} checks differ: {}", self.failed.join("; ")).into())
    }
}

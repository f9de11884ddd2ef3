//! A caption to a picture.
//!
//! ```text
//! cargo run --release --example text_to_image -- "a large red circle above a small blue square"
//! ```
//! Every setting is kept in the PNG; `--from picture.png` makes the picture again.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use unclip::{
    Bundle, Event, GenerateOptions, Generated, Residency, Stage, StageCost, StageOptions, UnClip,
};

/// Makes pictures of captions.
#[derive(Debug, Parser)]
struct Arguments {
    /// What the picture shows; nothing gives a picture of anything
    #[arg(required_unless_present_any = ["prompts", "from"])]
    prompt: Option<String>,
    /// File of captions, one on a line; writes 00000.png, 00001.png, … into the folder --out
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "from"])]
    prompts: Option<PathBuf>,
    /// Make the picture in this file again, from the settings that it holds
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "seed", "n"])]
    from: Option<PathBuf>,
    /// File of the picture, or folder of many [default: picture.png, or pictures with --prompts]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folder of a model [default: the shapes model inside the program]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Seed of the first picture; the next has the next seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pictures of each caption
    #[arg(long, default_value_t = 1)]
    n: usize,
    /// Also write all pictures of a caption as one sheet; alone it replaces the single files
    #[arg(long)]
    grid: bool,
    /// Reverse steps of the prior
    #[arg(long)]
    prior_steps: Option<usize>,
    /// Reverse steps of the decoder
    #[arg(long)]
    decoder_steps: Option<usize>,
    /// Reverse steps of each upsampler
    #[arg(long)]
    upsample_steps: Option<usize>,
    /// How far the prior follows the caption; 1 disables guidance
    #[arg(long)]
    prior_guidance: Option<f64>,
    /// How far the decoder follows embedding and caption; 1 disables guidance
    #[arg(long)]
    decoder_guidance: Option<f64>,
    /// flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "flex")]
    device: String,
    /// Write what each stage cost, as JSON
    #[arg(long, value_name = "FILE")]
    timings: Option<PathBuf>,
}

type AnyError = Box<dyn std::error::Error>;

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
    let device = unclip::device(&arguments.device)?;
    let bundle = match &arguments.model {
        Some(folder) => Bundle::open(folder)?,
        None => Bundle::shapes()?,
    };
    let (prompts, options) = requests(arguments, &bundle)?;
    check_out(arguments)?;
    // one caption needs each network once; many are faster when all of them stay
    let residency = if prompts.len() > 1 { Residency::Resident } else { Residency::OneByOne };
    let unclip = UnClip::new(bundle, &device, residency)?;
    let mut costs = Vec::new();
    for (i, prompt) in prompts.iter().enumerate() {
        let mut bars = Bars::default();
        let generated = unclip.text_to_image(prompt, &options, &mut |event: &Event<'_>| {
            bars.show(event);
            ControlFlow::Continue(())
        })?;
        bars.finish();
        if let Some(dropped) = &generated.dropped {
            eprintln!("note: the caption is too long; left out: {:?}", shorten(dropped));
        }
        write(arguments, i, &generated)?;
        costs.extend(generated.costs);
    }
    match &arguments.timings {
        Some(path) => write_timings(path, &costs),
        None => Ok(()),
    }
}

/// The captions, and the options that all of them share.
fn requests(
    arguments: &Arguments,
    bundle: &Bundle,
) -> Result<(Vec<String>, GenerateOptions), AnyError> {
    if let Some(path) = &arguments.from {
        let settings = unclip::read_settings(path)?;
        settings.check_model(bundle)?;
        return Ok((vec![settings.prompt.clone()], settings.options()));
    }
    let stage = |steps, guidance_scale| StageOptions { steps, guidance_scale, sampler: None };
    let options = GenerateOptions {
        seed: arguments.seed,
        n: arguments.n,
        prior: stage(arguments.prior_steps, arguments.prior_guidance),
        decoder: stage(arguments.decoder_steps, arguments.decoder_guidance),
        upsample: stage(arguments.upsample_steps, None),
    };
    let prompts = match &arguments.prompts {
        None => arguments.prompt.iter().cloned().collect(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("{}: {error}", path.display()))?
            .lines()
            .map(String::from)
            .collect(),
    };
    Ok((prompts, options))
}

/// Refuses a place that cannot be written before a picture is made for it.
fn check_out(arguments: &Arguments) -> Result<(), AnyError> {
    let parent = arguments.out.as_deref().filter(|_| arguments.prompts.is_none());
    let parent = parent.and_then(Path::parent).filter(|parent| !parent.as_os_str().is_empty());
    match parent {
        Some(parent) if !parent.is_dir() => {
            Err(format!("{}: no such folder to write into", parent.display()).into())
        }
        _ => Ok(()),
    }
}

/// Writes the pictures of caption number `index`.
fn write(arguments: &Arguments, index: usize, generated: &Generated) -> Result<(), AnyError> {
    let many = arguments.prompts.is_some();
    let default = if many { "pictures" } else { "picture.png" };
    let out = arguments.out.clone().unwrap_or_else(|| default.into());
    if many {
        std::fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    }
    if arguments.grid {
        let path = if many { out.join(format!("grid-{index:05}.png")) } else { out.clone() };
        unclip::write_png(&path, &unclip::grid(&generated.images), None)?;
        println!("{}", path.display());
    }
    if arguments.grid && !many {
        return Ok(());
    }
    for (k, (image, settings)) in generated.images.iter().zip(&generated.settings).enumerate() {
        let path = match (many, generated.images.len()) {
            (true, n) => out.join(format!("{:05}.png", index * n + k)),
            (false, 1) => out.clone(),
            (false, _) => numbered(&out, k),
        };
        unclip::write_png(&path, image, Some(settings))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// `picture.png` to `picture.3.png`.
fn numbered(path: &Path, k: usize) -> PathBuf {
    let extension = path.extension().map_or("png".into(), |e| e.to_string_lossy());
    path.with_extension(format!("{k}.{extension}"))
}

fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.chars().count() > SHOWN {
        true => format!("{}…", text.chars().take(SHOWN).collect::<String>()),
        false => text.into(),
    }
}

/// One progress bar for each stage.
#[derive(Default)]
struct Bars {
    current: Option<(Stage, ProgressBar)>,
}

impl Bars {
    fn show(&mut self, event: &Event<'_>) {
        if self.current.as_ref().is_none_or(|(stage, _)| *stage != event.stage) {
            self.finish();
            let style =
                ProgressStyle::with_template("{prefix:12} {wide_bar} {pos}/{len} {elapsed}");
            let bar = ProgressBar::new(event.total as u64).with_prefix(event.stage.to_string());
            let bar = style.into_iter().fold(bar, ProgressBar::with_style);
            self.current = Some((event.stage, bar));
        }
        if let Some((_, bar)) = &self.current {
            bar.set_position(event.index as u64 + 1);
        }
    }

    fn finish(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.finish();
        }
    }
}

fn write_timings(path: &Path, costs: &[StageCost]) -> Result<(), AnyError> {
    let mut stages = BTreeMap::<Stage, Vec<&StageCost>>::new();
    for cost in costs {
        stages.entry(cost.stage).or_default().push(cost);
    }
    let stages = stages.into_iter().map(|(stage, costs)| {
        let mut calls: Vec<f64> =
            costs.iter().flat_map(|cost| &cost.calls).map(|call| call.as_secs_f64()).collect();
        calls.sort_by(f64::total_cmp);
        let loading: f64 = costs.iter().map(|cost| cost.loading.as_secs_f64()).sum();
        let report = json!({
            "seconds": loading + calls.iter().sum::<f64>(),
            "seconds_loading": loading,
            "median_call_seconds": calls.get(calls.len() / 2),
            "calls": calls.len(),
            "parameters": costs[0].parameters,
        });
        (stage.to_string(), report)
    });
    let report = json!({
        "stages": stages.collect::<serde_json::Map<_, _>>(),
        "peak_resident_bytes": peak_resident_bytes(),
    });
    let text = format!("{report:#}\n");
    unclip::unclip_nn::checkpoint::write_whole(path, text.as_bytes())?;
    Ok(())
}

/// The most memory that the process ever held; only Linux tells.
fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

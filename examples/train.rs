//! Trains a model on captioned pictures, stage by stage, and writes it as a bundle.
//!
//! ```text
//! cargo run --release --features train --example train -- pictures/ --out out/mine
//! cargo run --release --features train --example train -- --config run.toml --stage prior
//! cargo run --release --features train --example train -- --preset shapes
//! ```
//! An interrupted run continues when the same command is given again.

#[path = "shared/console.rs"]
mod console;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use console::AnyError;
use indicatif::{ProgressBar, ProgressStyle};
use unclip::picture_from_bytes;
use unclip::train::dataset::Complaint;
use unclip::train::plan::{Plan, Preset};
use unclip::train::{StepReport, TrainStage, Training};
use unclip::unclip_nn::checkpoint::write_whole;

/// Number of scenes on which a CLIP of the shapes world is tested.
const SCENES: usize = 500;

/// Trains any stage of a model, or all of them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Folders of captioned pictures, and webdataset shards: data.paths of the configuration
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// TOML file that says what is trained, on what, and how; docs/training.md describes it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sizes and settings to start from: tiny, small or shapes [default: the configuration's, or tiny]
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// Changes a field of the configuration, as in prior.train.steps=20000; may be given several times
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// clip, prior, ar_prior, noised_image_encoder, decoder, upsampler.0 and so on, or all of the
    /// configuration
    #[arg(long, default_value = "all")]
    stage: String,
    /// Folder for checkpoints, loss curves and the bundle: run.out of the configuration
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several:
    /// run.device of the configuration
    #[arg(long)]
    device: Option<String>,
    /// Seed for weights, data and noise: run.seed of the configuration
    #[arg(long)]
    seed: Option<u64>,
    /// Go on with a run whose configuration was another, and say what has changed
    #[arg(long)]
    resume: bool,
    /// Folder of a bundle whose weights each stage starts from, instead of fresh ones
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Stop each stage after this many minutes; the same command continues it later
    #[arg(long)]
    minutes: Option<f64>,
    /// Train nothing: print the whole configuration
    #[arg(long)]
    print_config: bool,
    /// Train nothing: measure what the predictions of the bundle's prior leave open, and store it in
    /// the prior's config.json, where the sampler analytic_dpm reads it
    #[arg(long, conflicts_with_all = ["stage", "from", "minutes"])]
    measure_uncertainty: bool,
}

fn main() -> ExitCode {
    // on a thread of the pool: from another one, each of a step's thousand small operations on the
    // CPU would first have to wake the pool
    console::run(|arguments: &Arguments| {
        rayon::join(|| run(arguments).map_err(|error| error.to_string()), || ()).0
    })
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let plan = plan(arguments)?;
    plan.validate()?;
    if arguments.print_config {
        console::say(plan.to_toml().trim_end());
        return Ok(());
    }
    let stages = stages(&plan, &arguments.stage)?;
    let device = unclip::device(&plan.run.device)?;
    let limit = |minutes: f64| Duration::try_from_secs_f64(minutes * 60.0);
    let time_limit = arguments.minutes.map(limit).transpose()?;
    let data = plan.data.open(plan.run.seed, Arc::new(decode), Arc::new(complain))?;
    if !arguments.measure_uncertainty {
        keep_plan(&plan, arguments.resume)?;
    }
    let from = arguments.from.clone();
    let training = Training { plan, data, from, device, time_limit };
    if arguments.measure_uncertainty {
        let table = training.measure_uncertainty()?;
        console::say(format_args!("uncertainty, from clean to noisy: {table}"));
        return Ok(());
    }
    stages.into_iter().try_for_each(|stage| train(&training, stage))?;
    console::say(training.plan.model().display());
    Ok(())
}

/// The configuration, with what the command line changes.
fn plan(arguments: &Arguments) -> Result<Plan, AnyError> {
    let text = match &arguments.config {
        Some(path) => {
            let read = std::fs::read_to_string(path);
            read.map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => String::new(),
    };
    let mut plan = match Plan::of_toml(&text, arguments.preset, &arguments.set) {
        Ok(plan) => plan,
        Err(error) => {
            let path = arguments.config.as_deref().unwrap_or(Path::new("configuration"));
            return Err(format!("{}: {error}", path.display()).into());
        }
    };
    if !arguments.paths.is_empty() {
        plan.data.paths.clone_from(&arguments.paths);
    }
    let run = &mut plan.run;
    run.out = arguments.out.clone().unwrap_or_else(|| run.out.clone());
    run.device = arguments.device.clone().unwrap_or_else(|| run.device.clone());
    run.seed = arguments.seed.unwrap_or(run.seed);
    Ok(plan)
}

fn stages(plan: &Plan, asked: &str) -> Result<Vec<TrainStage>, AnyError> {
    let all = plan.stages();
    if asked == "all" {
        return Ok(all);
    }
    match all.iter().find(|stage| stage.name() == asked) {
        Some(stage) => Ok(vec![*stage]),
        None => {
            let names: Vec<String> = all.iter().map(|stage| stage.name()).collect();
            let names = names.join(", ");
            Err(format!("--stage is {asked}, expected {names} or all").into())
        }
    }
}

/// Keeps the configuration beside the checkpoints. One that is another than before is refused, or named
/// if that is what is asked for.
fn keep_plan(plan: &Plan, resume: bool) -> Result<(), AnyError> {
    let path = plan.run.out.join("run.toml");
    if let Ok(text) = std::fs::read_to_string(&path) {
        let before = Plan::of_toml(&text, None, &[])
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let changed = plan.changes(&before);
        if !changed.is_empty() && !resume {
            return Err(format!(
                "{}: the run there has another configuration: {}; give --resume to go on with this one, or \
                 another --out",
                path.display(),
                changed.join(", ")
            )
            .into());
        }
        for change in changed {
            console::note(format_args!("changed: {change}"));
        }
    }
    std::fs::create_dir_all(&plan.run.out)
        .map_err(|error| format!("{}: {error}", plan.run.out.display()))?;
    Ok(write_whole(&path, plan.to_toml().as_bytes())?)
}

fn decode(bytes: &[u8]) -> Result<image::RgbImage, String> {
    picture_from_bytes(bytes).map_err(|error| error.to_string())
}

fn complain(complaint: &Complaint) {
    console::note(format_args!("left out: {complaint}"));
}

fn train(training: &Training, stage: TrainStage) -> Result<(), AnyError> {
    let settings = training.plan.settings(stage)?;
    let style = "{prefix:12} {wide_bar} {pos}/{len} {msg} {per_sec} eta {eta}";
    let bar = ProgressBar::new(settings.steps)
        .with_style(ProgressStyle::with_template(style)?)
        .with_prefix(stage.name());
    let mut average = None;
    let mut observer = |report: &StepReport| {
        let smooth = average.map_or(report.loss, |a: f64| a * 0.98 + report.loss * 0.02);
        average = Some(smooth);
        bar.set_position(report.step);
        bar.set_message(format!("loss {smooth:.4}"));
        ControlFlow::Continue(())
    };
    training.train(stage, &mut observer)?;
    bar.finish();
    if stage == TrainStage::Clip && training.plan.data.shapes {
        console::say(format_args!(
            "own caption before those of every minimal change, {SCENES} scenes"
        ));
        console::say(training.clip_score(SCENES)?);
    }
    Ok(())
}

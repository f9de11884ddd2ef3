//! Trains the shapes model, stage by stage, and writes it as a bundle.
//!
//! ```text
//! cargo run --release --features train --example train_shapes
//! ```
//! An interrupted run continues when the same command is given again.

#[path = "shared/console.rs"]
mod console;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use unclip::train::{ShapesTraining, StepReport, TrainStage};

/// Number of scenes on which a trained CLIP is tested.
const SCENES: usize = 500;

/// Trains any stage of the shapes model, or all of them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// clip, prior, ar_prior, noised_image_encoder, decoder, upsampler.0, upsampler.1, or all
    #[arg(long, default_value = "all")]
    stage: String,
    /// Training steps of each stage, if not the recipe's. A run that is extended continues from
    /// where its learning rate began to fall
    #[arg(long)]
    steps: Option<u64>,
    /// Items per step, if not the recipe's
    #[arg(long)]
    batch: Option<usize>,
    /// Peak learning rate, if not the recipe's
    #[arg(long)]
    learning_rate: Option<f64>,
    /// Seed for weights, data and noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for checkpoints and loss curves
    #[arg(long, default_value = "out/shapes")]
    out: PathBuf,
    /// Folder to write the bundle to
    #[arg(long, default_value = "out/shapes/bundle")]
    model: PathBuf,
    /// Folder of a bundle whose weights each stage starts from, instead of fresh ones
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Stop each stage after this many minutes; the same command continues it later
    #[arg(long)]
    minutes: Option<f64>,
    /// Train nothing: measure what the predictions of the bundle's prior leave open, and store it in
    /// the prior's config.json, where the sampler analytic_dpm reads it
    #[arg(long, conflicts_with_all = ["stage", "steps", "batch", "learning_rate", "from", "minutes"])]
    measure_uncertainty: bool,
    /// Seconds between two checkpoints
    #[arg(long, default_value_t = 120)]
    checkpoint_seconds: u64,
}

fn main() -> ExitCode {
    // on a thread of the pool: from another one, each of a step's thousand small operations on the
    // CPU would first have to wake the pool
    console::run(|arguments: &Arguments| {
        rayon::join(|| run(arguments).map_err(|error| error.to_string()), || ()).0
    })
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let stages: Vec<TrainStage> = TrainStage::ALL
        .into_iter()
        .filter(|stage| [stage.name().as_str(), "all"].contains(&arguments.stage.as_str()))
        .collect();
    if stages.is_empty() {
        let names = TrainStage::ALL.map(TrainStage::name).join(", ");
        return Err(format!("no stage {}; expected {names} or all", arguments.stage).into());
    }
    let limit = |minutes: f64| Duration::try_from_secs_f64(minutes * 60.0);
    let training = ShapesTraining {
        work: arguments.out.clone(),
        bundle: arguments.model.clone(),
        from: arguments.from.clone(),
        device: unclip::device(&arguments.device)?,
        interval: Duration::from_secs(arguments.checkpoint_seconds),
        time_limit: arguments.minutes.map(limit).transpose()?,
    };
    if arguments.measure_uncertainty {
        let table = training.measure_uncertainty()?;
        console::say(format_args!("uncertainty, from clean to noisy: {table}"));
        return Ok(());
    }
    for stage in stages {
        train(&training, stage, arguments)?;
    }
    Ok(())
}

fn train(
    training: &ShapesTraining,
    stage: TrainStage,
    arguments: &Arguments,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut settings = stage.settings(arguments.steps, arguments.seed);
    settings.batch = arguments.batch.unwrap_or(settings.batch);
    settings.learning_rate = arguments.learning_rate.unwrap_or(settings.learning_rate);
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
    training.train(stage, settings, &mut observer)?;
    bar.finish();
    if stage == TrainStage::Clip {
        console::say(format_args!(
            "own caption before those of every minimal change, {SCENES} scenes"
        ));
        console::say(training.clip_score(SCENES)?);
    }
    Ok(())
}

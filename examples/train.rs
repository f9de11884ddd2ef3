//! Trains a model on captioned pictures, stage by stage, and writes it as a bundle.
//!
//! ```text
//! cargo run --release --features train --example train -- pictures/ --out out/mine
//! cargo run --release --features train --example train -- --config run.toml --stage prior
//! cargo run --release --features train --example train -- --preset shapes
//! ```
//! An interrupted run continues when the same command is given again.

#[path = "train/configuration.rs"]
mod configuration;
#[path = "shared/console.rs"]
mod console;
#[path = "train/evaluate.rs"]
mod evaluate;
#[path = "shared/memory.rs"]
mod memory;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use console::AnyError;
use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use unclip::train::dataset::Complaint;
use unclip::train::plan::{Plan, Preset};
use unclip::train::{Changes, StepReport, TrainSettings, TrainStage, Training};
use unclip::{Bundle, picture_from_bytes};

/// Number of scenes on which a CLIP of the shapes world is tested.
const SCENES: usize = 500;

/// Steps after which the time of a step says what the others take.
const SEEN: u32 = 4;

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
    /// Sizes and settings to start from: tiny, small, karlo, paper or shapes [default: the configuration's, or tiny]
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// Changes a field of the configuration, as in prior.train.steps=20000; may be given several times
    #[arg(long, value_name = "FIELD=VALUE")]
    set: Vec<String>,
    /// clip, embeddings, prior, ar_prior, noised_image_encoder, decoder, upsampler.0 and so on, or all of the
    /// configuration
    #[arg(long, default_value = "all")]
    stage: String,
    /// Folder for checkpoints, loss curves and the bundle: run.out of the configuration
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several; a list
    /// with commas, as in cuda:0,cuda:1, gives each device a part of every batch: run.device of the
    /// configuration
    #[arg(long)]
    device: Option<String>,
    /// Seed for weights, data and noise: run.seed of the configuration
    #[arg(long)]
    seed: Option<u64>,
    /// Go on with a run although something is other than before, and say what: what the command line does
    /// not say stays as it was in the run's own configuration
    #[arg(long)]
    resume: bool,
    /// With --stage embeddings or --evaluate: the share of this machine, as in 0/8 for the first of eight,
    /// which need not know of each other but by their common folder (embeddings.path, run.out)
    #[arg(long, value_name = "I/N", value_parser = share)]
    shard: Option<(usize, usize)>,
    /// Folder of a bundle whose weights each stage starts from, instead of fresh ones
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Stop each stage after this many minutes; the same command continues it later
    #[arg(long)]
    minutes: Option<f64>,
    /// Train nothing: print the whole configuration
    #[arg(long, conflicts_with_all = ["minutes", "shard", "resume", "evaluate", "measure_uncertainty"])]
    print_config: bool,
    /// Train nothing: measure the stages of the bundle on all that is held out, or --stage alone. Shares of
    /// several machines (--shard) are merged by the same command without --shard
    #[arg(long, conflicts_with_all = ["from", "minutes", "measure_uncertainty"])]
    evaluate: bool,
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
    let (plan, taken) = configuration::plan(arguments)?;
    if arguments.print_config {
        console::say(plan.to_toml().trim_end());
        return Ok(());
    }
    let stages = stages(&plan, &arguments.stage)?;
    if arguments.shard.is_some() && stages != [TrainStage::Embeddings] && !arguments.evaluate {
        return Err("--shard divides embeddings and evaluations: give --stage embeddings or --evaluate with it"
            .into());
    }
    let training = opened(arguments, plan, taken.as_ref())?;
    if arguments.measure_uncertainty {
        let table = training.measure_uncertainty()?;
        console::say(format_args!("uncertainty, from clean to noisy: {table}"));
        return Ok(());
    }
    let stopped = stop_on_signals()?;
    if arguments.evaluate {
        return evaluate::evaluate(&training, &stages, arguments.shard, &stopped);
    }
    advise(&training);
    train_all(arguments, &training, &stages, &stopped)?;
    console::say(training.plan.model().display());
    Ok(())
}

/// The training of a plan on its data. A CLIP that is taken over is copied.
fn opened(arguments: &Arguments, plan: Plan, taken: Option<&Bundle>) -> Result<Training, AnyError> {
    if let Some(from) = &arguments.from {
        expect_apart(&plan.run.out, from)?;
    }
    let names = plan.run.device.split(',').map(str::trim);
    let devices = names.map(unclip::device).collect::<Result<Vec<_>, _>>()?;
    let limit = |minutes: f64| {
        let limit = Duration::try_from_secs_f64(minutes * 60.0);
        limit.map_err(|_| format!("--minutes is {minutes}, expected a number of minutes from 0"))
    };
    let time_limit = arguments.minutes.map(limit).transpose()?;
    configuration::check_plan(&plan, arguments)?;
    let (data, held_out) = plan.open(Arc::new(decode), Arc::new(complain))?;
    if let Some(model) = taken {
        configuration::take_clip(model, &plan)?;
    }
    let from = arguments.from.clone();
    let changes = if arguments.resume { Changes::Accepted } else { Changes::Refused };
    Ok(Training { plan, data, held_out, from, devices, changes, time_limit })
}

/// Refuses a run that would write into the folder from which its weights come.
fn expect_apart(out: &Path, from: &Path) -> Result<(), AnyError> {
    let real =
        |path: &Path| std::path::absolute(path).and_then(|path| path.canonicalize().or(Ok(path)));
    let [own, bundle] = [real(out)?, real(&out.join("bundle"))?];
    let from = real(from)?;
    if own.starts_with(&from) || bundle.starts_with(&from) || from.starts_with(&bundle) {
        let [out, from] = [out, &from].map(Path::display);
        return Err(format!(
            "--from {from}: the run in {out} would write there; give it another folder"
        )
        .into());
    }
    Ok(())
}

/// What is likely not meant.
fn advise(Training { plan, data, held_out, .. }: &Training) {
    let batch = plan.clip.train.batch;
    if let Some(items) = data.items().filter(|items| *items < batch && plan.clip.from.is_none()) {
        console::note(format_args!(
            "clip: {batch} items a step, more than the {items} that there are: the same picture stands beside \
             itself; clip.train.batch={items} or less avoids that"
        ));
    }
    if held_out.is_none() && plan.evaluation.every > 0 {
        console::note(
            "nothing is held out, so nothing is measured (evaluation.held_out, evaluation.paths)",
        );
    }
}

fn train_all(
    arguments: &Arguments,
    training: &Training,
    stages: &[TrainStage],
    stopped: &AtomicBool,
) -> Result<(), AnyError> {
    for &stage in stages {
        let is_done = if stage == TrainStage::Embeddings {
            embed(training, arguments.shard.unwrap_or((0, 1)), stopped)?;
            true
        } else {
            train(training, stage, stopped)?
        };
        if stopped.load(Ordering::Relaxed) {
            return Err(format!(
                "stopped in {}; what was done is saved, and the same command goes on from there",
                stage.name()
            )
            .into());
        }
        if !is_done && arguments.stage == "all" {
            console::note(format_args!(
                "{} is not done after {} minutes; the same command goes on with it",
                stage.name(),
                arguments.minutes.unwrap_or(0.0)
            ));
            break;
        }
    }
    Ok(())
}

/// A share of work, as in 0/8.
fn share(text: &str) -> Result<(usize, usize), String> {
    let (own, all) = text.split_once('/').ok_or("expected I/N, as in 0/8")?;
    match (own.parse(), all.parse()) {
        (Ok(own), Ok(all)) if own < all => Ok((own, all)),
        _ => Err("expected I/N with I below N, as in 0/8".into()),
    }
}

/// Turns true when somebody asks the program to stop; asked twice, it stops without saving.
fn stop_on_signals() -> Result<Arc<AtomicBool>, AnyError> {
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = stopped.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        console::note("stopping after this step, and saving; once more stops at once");
    })?;
    Ok(stopped)
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

fn decode(bytes: &[u8]) -> Result<image::RgbImage, String> {
    picture_from_bytes(bytes).map_err(|error| error.to_string())
}

fn complain(complaint: &Complaint) {
    console::note(format_args!("left out: {complaint}"));
}

/// A bar of a stage that counts something.
fn bar(stage: &str, unit: &str) -> Result<ProgressBar, AnyError> {
    let style =
        format!("{{prefix:12}} {{wide_bar}} {{pos}}/{{len}} {unit} {{per_sec}} eta {{eta}}");
    let style = ProgressStyle::with_template(&style)?;
    Ok(ProgressBar::new(0).with_style(style).with_prefix(stage.to_string()))
}

fn embed(training: &Training, share: (usize, usize), stopped: &AtomicBool) -> Result<(), AnyError> {
    let bar = bar(&TrainStage::Embeddings.name(), "items")?;
    let kept = Kept::of(training);
    training.embed(share, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
        kept.now()?;
        go_on(stopped)
    })?;
    bar.finish();
    kept.finish()
}

/// Keeps the configuration once the first step of a stage is done: a run that is refused leaves the one before.
struct Kept<'a> {
    training: &'a Training,
    result: RefCell<Option<Result<(), AnyError>>>,
}

impl<'a> Kept<'a> {
    fn of(training: &'a Training) -> Self {
        Self { training, result: RefCell::new(None) }
    }

    fn now(&self) -> ControlFlow<()> {
        let mut result = self.result.borrow_mut();
        match result.get_or_insert_with(|| configuration::keep_plan(&self.training.plan)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Also of a stage without a step.
    fn finish(self) -> Result<(), AnyError> {
        let _ = self.now();
        self.result.into_inner().unwrap_or(Ok(()))
    }
}

fn go_on(stopped: &AtomicBool) -> ControlFlow<()> {
    if stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// What lies ahead: known after the first steps.
fn tell(stage: TrainStage, settings: &TrainSettings, report: &StepReport) {
    let left = (settings.steps - report.step) as f64 * report.seconds;
    let memory = memory::peak_resident_bytes()
        .map_or(String::new(), |bytes| format!(", {:.1} GB of memory so far", bytes as f64 / 1e9));
    console::note(format_args!(
        "{}: {:.2} s a step of {} items, {} steps left: about {}{memory}",
        stage.name(),
        report.seconds,
        settings.batch,
        settings.steps - report.step,
        HumanDuration(Duration::from_secs_f64(left)),
    ));
}

fn train(training: &Training, stage: TrainStage, stopped: &AtomicBool) -> Result<bool, AnyError> {
    let settings = training.plan.settings(stage)?;
    let style = "{prefix:12} {wide_bar} {pos}/{len} {msg} {per_sec} eta {eta}";
    let bar = ProgressBar::new(settings.steps)
        .with_style(ProgressStyle::with_template(style)?)
        .with_prefix(stage.name());
    let (mut average, mut seen) = (None, 0u32);
    let kept = Kept::of(training);
    let mut observer = |report: &StepReport| {
        seen += 1;
        kept.now()?;
        if seen == SEEN && report.step < settings.steps {
            bar.suspend(|| tell(stage, &settings, report));
        }
        let smooth = average.map_or(report.loss, |a: f64| a * 0.98 + report.loss * 0.02);
        average = Some(smooth);
        bar.set_position(report.step);
        bar.set_message(format!("loss {smooth:.4}"));
        go_on(stopped)
    };
    let is_done = training.train(stage, &mut observer)?;
    bar.finish();
    // a limit of time may end a run before its first report
    if seen == 0 && is_done {
        let (name, steps) = (stage.name(), settings.steps);
        console::note(format_args!("{name}: all {steps} steps are done already"));
    }
    kept.finish()?;
    if stage == TrainStage::Clip && training.plan.data.shapes {
        console::say(format_args!(
            "own caption before those of every minimal change, {SCENES} scenes"
        ));
        console::say(training.clip_score(SCENES)?);
    }
    Ok(is_done)
}

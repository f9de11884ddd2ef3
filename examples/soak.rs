//! Makes pictures from many threads on one model, stops some at random, lets observers panic, and compares
//! every picture with the one that a single thread makes.
//!
//! ```text
//! cargo run --release --example soak -- --pictures 1000 --threads 8
//! ```
//! It fails if any picture differs, or if memory grows.

#[path = "shared/console.rs"]
mod console;
#[path = "shared/memory.rs"]
mod memory;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use unclip::{
    Bundle, Error, Event, GenerateOptions, Residency, RgbImage, SamplerKind, StageOptions, UnClip,
};

use console::{AnyError, say};

/// Makes pictures from many threads, and disturbs them.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Pictures, those that are disturbed included
    #[arg(long, default_value_t = 1000)]
    pictures: usize,
    /// Threads that ask for them at once
    #[arg(long, default_value_t = 8)]
    threads: usize,
    /// Kilobytes of each thread's stack, those that compute included
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(64..))]
    stack: u32,
    /// Folder of a model [default: the built-in shapes model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Seed of everything that is chosen
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// What is asked for, one of few, so that each comes often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Request {
    caption: usize,
    seed: u64,
    n: usize,
    sampler: usize,
    guided: bool,
}

const CAPTIONS: [&str; 4] = ["a red ring", "a blue square above a green star", "", "größer 赤い"];
const SAMPLERS: [&str; 4] = ["ddpm", "ddim", "dpm_solver", "heun"];

impl Request {
    fn random(random: &mut ChaCha8Rng) -> Self {
        Self {
            caption: random.random_range(0..CAPTIONS.len()),
            seed: random.random_range(0..3),
            n: random.random_range(1..3),
            sampler: random.random_range(0..SAMPLERS.len()),
            guided: random.random(),
        }
    }

    fn options(self) -> Result<GenerateOptions, AnyError> {
        let sampler: SamplerKind = SAMPLERS[self.sampler].parse()?;
        let stage = || StageOptions::default().with_steps(4).with_sampler(sampler.clone());
        let decoder = stage().with_guidance_scale(if self.guided { 3.0 } else { 1.0 });
        let upsampler = StageOptions::default().with_steps(1);
        let options = GenerateOptions::default().with_seed(self.seed).with_n(self.n);
        Ok(options.with_prior(stage()).with_decoder(decoder).with_upsampler(upsampler))
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Made,
    /// Stopped after so many steps.
    Stopped(usize),
    /// The observer panics then.
    Panics(usize),
}

/// What is counted.
#[derive(Default)]
struct Counts {
    made: AtomicUsize,
    stopped: AtomicUsize,
    panicked: AtomicUsize,
    different: AtomicUsize,
}

/// Why an observer panics here.
const ON_PURPOSE: &str = "on purpose";

fn make(unclip: &UnClip, request: Request, fate: Fate) -> Result<Vec<RgbImage>, Error> {
    let mut steps = 0;
    let options = request.options().unwrap_or_default();
    let mut observer = |_: &Event<'_>| {
        steps += 1;
        match fate {
            Fate::Stopped(at) if steps == at => ControlFlow::Break(()),
            Fate::Panics(at) if steps == at => resume_unwind(Box::new(ON_PURPOSE)),
            _ => ControlFlow::Continue(()),
        }
    };
    let made = unclip.observed(&mut observer).text_to_image(CAPTIONS[request.caption], &options)?;
    Ok(made.images())
}

/// How much a value grows with its position: the slope of the straight line through all.
fn slope(values: &[(f64, f64)]) -> f64 {
    let n = values.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| values.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|it| it.0), mean(|it| it.1));
    let above: f64 = values.iter().map(|it| (it.0 - x) * (it.1 - y)).sum();
    let below: f64 = values.iter().map(|it| (it.0 - x).powi(2)).sum();
    above / below.max(f64::MIN_POSITIVE)
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let stack = arguments.stack as usize * 1024;
    // fails only where threads run already
    let _ = rayon::ThreadPoolBuilder::new().stack_size(stack).build_global();
    let device = unclip::device(&arguments.device)?;
    let bundle = match &arguments.model {
        Some(folder) => Bundle::open(folder)?,
        None => Bundle::shapes()?,
    };
    let before = memory::resident_bytes();
    let unclip = UnClip::new(bundle, &device, Residency::Resident)?;
    let mut random = ChaCha8Rng::seed_from_u64(arguments.seed);
    let requests: Vec<(Request, Fate)> = (0..arguments.pictures)
        .map(|_| {
            let fate = match random.random_range(0..10) {
                0 => Fate::Stopped(random.random_range(1..9)),
                1 => Fate::Panics(random.random_range(1..9)),
                _ => Fate::Made,
            };
            (Request::random(&mut random), fate)
        })
        .collect();
    let mut alone = HashMap::new();
    for (request, _) in &requests {
        if !alone.contains_key(request) {
            alone.insert(*request, make(&unclip, *request, Fate::Made)?);
        }
    }
    let start = Instant::now();
    let (counts, next) = (Counts::default(), AtomicUsize::new(0));
    let memory = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            let work = || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(request, fate)) = requests.get(place) else { return };
                    answer(&unclip, (request, fate), &alone[&request], &counts);
                    if let (Some(bytes), Ok(mut memory)) = (memory::resident_bytes(), memory.lock())
                    {
                        memory.push((place as f64, bytes as f64));
                    }
                }
            };
            std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, work)?;
        }
        std::io::Result::Ok(())
    })?;
    drop(unclip);
    let memory = memory.into_inner()?;
    report(&counts, start.elapsed().as_secs_f64(), (before, &memory))
}

/// Makes what is asked for, and compares it with what was made alone.
fn answer(unclip: &UnClip, (request, fate): (Request, Fate), alone: &[RgbImage], counts: &Counts) {
    let count = |counter: &AtomicUsize| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    match (catch_unwind(AssertUnwindSafe(|| make(unclip, request, fate))), fate) {
        (Ok(Ok(images)), _) if images == alone => count(&counts.made),
        (Ok(Err(Error::Stopped { .. })), Fate::Stopped(_)) => count(&counts.stopped),
        (Err(_), Fate::Panics(_)) => count(&counts.panicked),
        _ => count(&counts.different),
    }
}

fn report(
    counts: &Counts,
    seconds: f64,
    (before, memory): (Option<u64>, &[(f64, f64)]),
) -> Result<(), AnyError> {
    let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let (made, different) = (read(&counts.made), read(&counts.different));
    let (stopped, panicked) = (read(&counts.stopped), read(&counts.panicked));
    say(format_args!("calls that gave the pictures of one thread\t{made}"));
    say(format_args!("calls that were stopped\t{stopped}"));
    say(format_args!("calls whose observer panicked\t{panicked}"));
    say(format_args!("calls that gave anything else\t{different}"));
    say(format_args!("seconds\t{seconds:.1}"));
    let mb = |bytes: f64| bytes / 1e6;
    // the first tenth fills caches
    let settled = &memory[memory.len() / 10..];
    let growth = mb(slope(settled)) * 100.0;
    say(format_args!("memory, growth in 100 calls (MB)\t{growth:.2}"));
    let most = memory.iter().map(|it| it.1).fold(0.0, f64::max);
    say(format_args!("memory, the most (MB)\t{:.0}", mb(most)));
    if let (Some(before), Some(after)) = (before, memory::resident_bytes()) {
        let (before, after) = (mb(before as f64), mb(after as f64));
        say(format_args!("memory before and after the model (MB)\t{before:.0} and {after:.0}"));
    }
    if different > 0 {
        return Err(format!("{different} calls gave other pictures than one thread").into());
    }
    if settled.len() >= 100 && growth > 5.0 {
        return Err(format!("memory grows by {growth:.1} MB in 100 calls").into());
    }
    Ok(())
}

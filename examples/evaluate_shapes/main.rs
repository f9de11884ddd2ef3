//! Reads the pictures of a shapes model, and reports how often they show what was asked for.
//!
//! ```text
//! cargo run --release --features train --example evaluate_shapes -- --captions 500
//! ```
//! A program reads the pictures, so the figures need no human and no other network. The same
//! program's score on *true* pictures is printed beside them: no figure can be trusted beyond it.

#[path = "../shared/apart.rs"]
mod apart;
mod cascade;
#[path = "../shared/console.rs"]
mod console;
#[path = "../shared/prior.rs"]
mod prior;
mod priors;
mod series;
mod sight;
mod variations;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use image::RgbImage;
use indicatif::{ProgressBar, ProgressStyle};
use unclip::decoder::Condition;
use unclip::train::shapes::{Description, Sample, ShapesWorld, Tally, judge, read};
use unclip::unclip_core::image::to_rgb;
use unclip::unclip_core::{InvalidSetting, SamplerKind};
use unclip::{
    Bundle, Error, GenerateOptions, ImageEmbedding, Precision, PriorSettings, Residency, Settings,
    StageSettings, TextEmbedding, UnClip,
};

use prior::PriorChoice;

/// Runs the checker over pictures of a shapes model and prints the report.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Number of captions of each kind, 1 to 100,000
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    captions: u64,
    /// Parts of the report; all of them if none is named
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    parts: Vec<Part>,
    /// Folder of a model [default: the built-in shapes model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Seed for captions and pictures; the README's caption has its own seeds
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Reverse steps of the decoder
    #[arg(long)]
    decoder_steps: Option<usize>,
    /// Sampler of the decoder: ddpm, ddim, ddim:ETA, early_ddim, dpm_solver, dpm_solver:published,
    /// heun, plms, plms:v or belm
    #[arg(long, value_name = "NAME")]
    decoder_sampler: Option<SamplerKind>,
    /// Guidance scale of the decoder
    #[arg(long)]
    decoder_guidance: Option<f64>,
    #[command(flatten)]
    prior: PriorChoice,
    /// Guidance scale of the prior
    #[arg(long)]
    prior_guidance: Option<f64>,
    /// Reverse steps of the diffusion prior; the part "samplers" has numbers of its own
    #[arg(long)]
    prior_steps: Option<usize>,
    /// Sampler of the diffusion prior, as above or analytic_dpm; the part "samplers" compares them
    #[arg(long, value_name = "NAME")]
    prior_sampler: Option<SamplerKind>,
    /// Upsamplers applied to the pictures of captions before they are read; other parts use all
    #[arg(long, default_value_t = 1)]
    upsamplers: usize,
    /// Number of pictures made at once, 1 to 64
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=64))]
    batch: u64,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Number format in which networks compute: f32, f16 or bf16; on flex, 16 bits only save memory
    #[arg(long, value_name = "FORMAT", default_value_t)]
    precision: Precision,
    /// Also write the report to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the report consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What CLIP sees, and how close the prior comes
    Clip,
    /// Each prior of the model with 1, 2, 4 and 8 candidates
    Priors,
    /// The diffusion prior by sampler and number of steps
    Samplers,
    /// Pictures of captions
    Pictures,
    /// Variations of the model's own pictures
    Variations,
    /// What the upsamplers make of true pictures, and how flat a background is
    Upsamplers,
    /// The README's caption, seed by seed
    Readme,
}

/// The caption of the README's first command.
const README: &str = "a large red circle above a small blue square";

/// A model under test, and how it is tested.
struct Evaluation {
    unclip: UnClip,
    world: ShapesWorld,
    seed: u64,
    captions: usize,
    batch: usize,
    options: GenerateOptions,
    prior: PriorSettings,
    decoder: StageSettings,
    upsample: Vec<StageSettings>,
    /// How many are applied to the pictures of captions before they are read.
    upsamplers: usize,
    bar: ProgressBar,
}

/// Whether a picture shows everything that it should.
fn is_right(sample: &Sample, picture: &RgbImage) -> bool {
    judge(&Description::of(&sample.scene), &read(picture)).all()
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    if let Some(path) = &arguments.out {
        let inputs: Vec<_> = arguments.prior.gallery.as_deref().into_iter().collect();
        apart::check_apart([path.as_path()].into_iter(), &inputs, &[arguments.model.as_deref()])?;
        unclip::unclip_nn::checkpoint::check_place(path)?;
    }
    let evaluation = Evaluation::new(arguments)?;
    let mut report = vec![evaluation.settings()];
    for part in Part::value_variants() {
        if !arguments.parts.is_empty() && !arguments.parts.contains(part) {
            continue;
        }
        let text = evaluation.part(*part)?;
        evaluation.bar.suspend(|| console::say(&text));
        report.push(text);
    }
    evaluation.bar.finish_and_clear();
    if let Some(path) = &arguments.out {
        unclip::unclip_nn::checkpoint::write_whole(path, report.join("\n").as_bytes())?;
    }
    Ok(())
}

impl Evaluation {
    fn new(arguments: &Arguments) -> Result<Self, Error> {
        let device = unclip::device(&arguments.device)?;
        let bundle = match &arguments.model {
            Some(folder) => Bundle::open(folder)?,
            None => Bundle::shapes()?,
        };
        if arguments.upsamplers > bundle.upsamplers.len() {
            let expected = format!("at most {}", bundle.upsamplers.len());
            return Err(InvalidSetting::new("upsamplers", arguments.upsamplers, expected).into());
        }
        let mut options = GenerateOptions::default();
        options.prior.guidance_scale = arguments.prior_guidance;
        options.prior.steps = arguments.prior_steps;
        options.prior.sampler = arguments.prior_sampler.clone();
        options.decoder.steps = arguments.decoder_steps;
        options.decoder.guidance_scale = arguments.decoder_guidance;
        options.decoder.sampler = arguments.decoder_sampler.clone();
        let options = arguments.prior.of(options, &bundle)?;
        let Settings { prior, decoder, upsamplers: upsample, .. } = options.resolve(&bundle)?;
        let Some(prior) = prior else {
            let expected = "one with a prior";
            return Err(InvalidSetting::new("model", bundle.name(), expected).into());
        };
        let style = ProgressStyle::with_template("{prefix:12} {wide_bar} {pos}/{len} eta {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Ok(Self {
            unclip: UnClip::new(bundle, (&device, arguments.precision), Residency::Resident)?,
            world: ShapesWorld::new(arguments.seed),
            seed: arguments.seed,
            captions: arguments.captions as usize,
            batch: arguments.batch as usize,
            options,
            prior,
            decoder,
            upsample,
            upsamplers: arguments.upsamplers,
            bar: ProgressBar::new(0).with_style(style),
        })
    }

    /// Side of the pictures that are read.
    fn side(&self) -> u32 {
        let bundle = self.unclip.bundle();
        let factors = bundle.upsamplers[..self.upsamplers].iter();
        let factors = factors.map(|stage| stage.config().factor).product::<usize>();
        (bundle.small_size() * factors) as u32
    }

    fn settings(&self) -> String {
        let text = format!(
            "{} captions of each kind, seed {}, pictures of captions read at {} px\n\
             prior: {}, {}, candidates {}; decoder: {} steps of {}, guidance {}\n",
            self.captions,
            self.seed,
            self.side(),
            self.prior.kind(),
            self.prior,
            self.options.candidates,
            self.decoder.steps,
            self.decoder.sampler,
            self.decoder.guidance_scale,
        );
        self.bar.suspend(|| console::say(&text));
        text
    }

    fn part(&self, part: Part) -> Result<String, Error> {
        Ok(match part {
            Part::Clip => sight::measure(self)?.to_string(),
            Part::Priors => priors::measure(self)?.to_string(),
            Part::Samplers => priors::measure_samplers(self)?.to_string(),
            Part::Pictures => series::measure(self)?.to_string(),
            Part::Variations => variations::measure(self)?.to_string(),
            Part::Upsamplers => cascade::measure(self)?.to_string(),
            Part::Readme => self.readme()?,
        })
    }

    /// The numbers below `n` in batches: large pictures take memory.
    fn large_batches(&self, n: usize) -> Vec<Vec<u64>> {
        let indices: Vec<u64> = (0..n as u64).collect();
        indices.chunks(self.batch.min(10)).map(Vec::from).collect()
    }

    /// Large pictures of captions, each with a seed of its own.
    fn drawn(&self, samples: &[Sample], indices: &[u64]) -> Result<Vec<RgbImage>, Error> {
        let captions: Vec<String> = samples.iter().map(|sample| sample.caption.clone()).collect();
        let seeds: Vec<u64> = indices.iter().map(|i| self.seed.wrapping_add(*i)).collect();
        let text = self.text(&captions)?;
        let image = self.imagine(&text, &seeds)?;
        self.finished(&Condition::new(image, text), &seeds)
    }

    /// What the prior makes of captions.
    fn imagine(&self, text: &TextEmbedding, seeds: &[u64]) -> Result<ImageEmbedding, Error> {
        let run = self.unclip.run(seeds);
        let mut run = match &self.options.gallery {
            Some(gallery) => run.with_gallery(gallery),
            None => run,
        };
        run.best_prior(text, &self.prior, self.options.candidates)
    }

    /// Conditions to large pictures.
    fn finished(&self, condition: &Condition, seeds: &[u64]) -> Result<Vec<RgbImage>, Error> {
        let mut run = self.unclip.run(seeds);
        let pictures = run.decode(condition, &self.decoder)?;
        Ok(to_rgb(run.upsample(pictures, &self.upsample)?))
    }

    /// A new bar for work of so many pictures.
    fn begin(&self, name: &'static str, pictures: usize) {
        self.bar.set_prefix(name);
        self.bar.reset();
        self.bar.set_length(pictures as u64);
    }

    fn readme(&self) -> Result<String, Error> {
        const SEEDS: usize = 10;
        self.begin("readme", SEEDS);
        let made = self.unclip.text_to_image(README, &self.options.clone().with_n(SEEDS))?;
        let description = Description::parse(README).unwrap_or_else(|| unreachable!("a caption"));
        let verdicts: Vec<_> =
            made.pictures.iter().map(|it| judge(&description, &read(&it.image))).collect();
        let right: Vec<usize> = (0..SEEDS).filter(|&seed| verdicts[seed].all()).collect();
        let tally: Tally = verdicts.into_iter().collect();
        Ok(format!("\"{README}\", seeds 0 to {}: right {right:?}\n{tally}", SEEDS - 1))
    }
}

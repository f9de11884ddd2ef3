//! Measures what the manipulations of a shapes model's two latents do, by a program that reads the
//! pictures.
//!
//! ```text
//! cargo run --release --features train --example evaluate_manipulations -- --cases 200
//! ```
//! The pictures to begin with are true ones: what is measured is the manipulation.

#[path = "../shared/apart.rs"]
mod apart;
#[path = "../shared/console.rs"]
mod console;
mod edits;
mod guidance;
mod ways;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use unclip::decoder::Condition;
use unclip::train::shapes::{Sample, Scene, ShapesWorld, Test, render};
use unclip::unclip_core::image::to_rgb;
use unclip::{
    Bundle, Error, GenerateOptions, Latents, Residency, RgbImage, SamplerKind, Settings,
    StageOptions, Tensor, UnClip,
};

/// Measures the manipulations.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Number of cases of each kind, 1 to 100,000
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    cases: u64,
    /// Parts of the report; all of them if none is named
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    parts: Vec<Part>,
    /// Folder of a model [default: the built-in shapes model]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Seed for scenes and noise
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Steps by which noise is found and pictures are drawn
    #[arg(long, default_value_t = 50)]
    decoder_steps: usize,
    /// Number of pictures made at once, 1 to 64
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=64))]
    batch: u64,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Also write the report to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What the report consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Pictures inverted and drawn again, by numbers of steps
    Reconstruction,
    /// Variations from the picture's own noise, by eta
    Variations,
    /// The way between two pictures that differ in one thing
    Interpolation,
    /// Another color, by words
    TextDiff,
    /// Another object in the place of the one that is there
    Inpainting,
    /// A decoder without any condition, led by CLIP
    Guidance,
}

/// A model under test, and how it is tested.
struct Evaluation {
    unclip: UnClip,
    world: ShapesWorld,
    seed: u64,
    cases: usize,
    batch: usize,
    steps: usize,
    settings: Settings,
    bar: ProgressBar,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    if let Some(path) = &arguments.out {
        apart::check_apart([path.as_path()].into_iter(), &[], &[arguments.model.as_deref()])?;
        unclip::unclip_nn::checkpoint::check_place(path)?;
    }
    let evaluation = Evaluation::new(arguments)?;
    let mut report = vec![format!("{} cases each, seed {}\n", evaluation.cases, evaluation.seed)];
    console::say(&report[0]);
    for part in Part::value_variants() {
        if !arguments.parts.is_empty() && !arguments.parts.contains(part) {
            continue;
        }
        let text = match part {
            Part::Reconstruction => ways::reconstruction(&evaluation)?,
            Part::Variations => ways::variations(&evaluation)?,
            Part::Interpolation => ways::interpolation(&evaluation)?,
            Part::TextDiff => edits::text_diff(&evaluation)?,
            Part::Inpainting => edits::inpainting(&evaluation)?,
            Part::Guidance => guidance::measure(&evaluation)?,
        };
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
        let style = ProgressStyle::with_template("{prefix:14} {wide_bar} {pos}/{len} eta {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Ok(Self {
            settings: GenerateOptions::default().resolve(&bundle)?,
            unclip: UnClip::new(bundle, &device, Residency::Resident)?,
            world: ShapesWorld::new(arguments.seed),
            seed: arguments.seed,
            cases: arguments.cases as usize,
            batch: arguments.batch as usize,
            steps: arguments.decoder_steps,
            bar: ProgressBar::new(0).with_style(style),
        })
    }

    /// A new bar for so many cases, and their numbers in batches.
    fn begin(&self, name: &'static str, cases: usize, batch: usize) -> Vec<Vec<u64>> {
        self.bar.set_prefix(name);
        self.bar.reset();
        self.bar.set_length(cases as u64);
        let numbers: Vec<u64> = (0..cases as u64).collect();
        numbers.chunks(batch.max(1)).map(Vec::from).collect()
    }

    /// Scenes of one object.
    fn samples(&self, numbers: &[u64]) -> Vec<Sample> {
        numbers.iter().map(|&number| self.world.test_sample(Test::SingleSeen, number)).collect()
    }

    /// True pictures, of the size that the model makes.
    fn pictures(&self, scenes: &[Scene]) -> Vec<RgbImage> {
        let side = self.unclip.bundle().image_size() as u32;
        scenes.iter().map(|scene| render(scene, side)).collect()
    }

    /// Options of an inversion.
    fn inversion(&self, sampler: &str, steps: usize) -> Result<GenerateOptions, Error> {
        let sampler: SamplerKind = sampler.parse()?;
        let decoder = StageOptions::default().with_sampler(sampler).with_steps(steps);
        Ok(GenerateOptions::default().with_decoder(decoder))
    }

    /// Latents to the decoder's pictures; by another sampler than theirs, if there is one.
    fn draw(
        &self,
        latents: &Latents,
        sampler: Option<SamplerKind>,
        seeds: &[u64],
    ) -> Result<Tensor<4>, Error> {
        let mut settings = latents.settings.clone();
        settings.sampler = sampler.unwrap_or(settings.sampler);
        let mut run = self.unclip.run(seeds);
        let text = run.encode(&[""])?.repeat_rows(seeds.len());
        let condition = Condition::new(latents.image.clone(), text);
        run.decode_from(latents.start.clone(), &condition, &settings)
    }

    /// The decoder's pictures at the size at which they are read: after the first upsampler.
    fn read_size(&self, small: Tensor<4>, seeds: &[u64]) -> Result<Vec<RgbImage>, Error> {
        let upsamplers = &self.settings.upsamplers;
        let first = &upsamplers[..upsamplers.len().min(1)];
        Ok(to_rgb(self.unclip.run(seeds).upsample(small, first)?))
    }
}

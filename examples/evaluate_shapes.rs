//! Reads the pictures of a shapes model back and reports how often they show what was asked for.
//!
//! ```text
//! cargo run --release --features train --example evaluate_shapes -- --captions 500
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use unclip::evaluation::{Evaluation, EvaluationOptions};
use unclip::unclip_core::SamplerKind;
use unclip::{Bundle, Precision, Residency, StageOptions, UnClip};

/// Runs the checker over pictures of a shapes model and prints the report.
#[derive(Debug, Parser)]
struct Arguments {
    /// Captions of each kind
    #[arg(long, default_value_t = 500)]
    captions: usize,
    /// Folder of a model [default: the shapes model inside the program]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Seed of captions and pictures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Reverse steps of the decoder
    #[arg(long)]
    decoder_steps: Option<usize>,
    /// ddpm, ddim or dpm_solver, for the decoder
    #[arg(long, value_name = "NAME")]
    decoder_sampler: Option<SamplerKind>,
    /// Guidance scale of the decoder
    #[arg(long)]
    decoder_guidance: Option<f64>,
    /// Guidance scale of the prior
    #[arg(long)]
    prior_guidance: Option<f64>,
    /// Upsamplers that a picture goes through before it is read
    #[arg(long, default_value_t = 1)]
    upsamplers: usize,
    /// Pictures made at once
    #[arg(long, default_value_t = 50)]
    batch: usize,
    /// flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "flex")]
    device: String,
    /// f32, f16 or bf16: number format in which networks work; on flex it saves memory alone
    #[arg(long, value_name = "FORMAT", default_value_t)]
    precision: Precision,
    /// Also write the report to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let device = unclip::device(&arguments.device)?;
    let stage = |steps, guidance_scale, sampler| StageOptions { steps, guidance_scale, sampler };
    let options = EvaluationOptions {
        captions: arguments.captions,
        seed: arguments.seed,
        batch: arguments.batch,
        upsamplers: arguments.upsamplers,
        prior: stage(None, arguments.prior_guidance, None),
        decoder: stage(
            arguments.decoder_steps,
            arguments.decoder_guidance,
            arguments.decoder_sampler,
        ),
    };
    let bundle = match &arguments.model {
        Some(folder) => Bundle::open(folder)?,
        None => Bundle::shapes()?,
    };
    let unclip = UnClip::new(bundle, (&device, arguments.precision), Residency::Resident)?;
    let evaluation = Evaluation::new(&unclip, options)?;
    let bar = ProgressBar::new(evaluation.pictures() as u64)
        .with_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} pictures, eta {eta}")?);
    let report = evaluation.run(&mut |n| bar.inc(n as u64))?;
    bar.finish_and_clear();
    println!("{report}");
    if let Some(path) = &arguments.out {
        unclip::unclip_nn::checkpoint::write_whole(path, format!("{report}\n").as_bytes())?;
    }
    Ok(())
}

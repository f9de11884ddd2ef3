//! Converts a model's folder to another layout: diffusers', or this project's own.
//!
//! ```text
//! cargo run --release --example convert -- --model DIR --out DIR2 --precision f16
//! ```
//! Reads every layout that the other examples read. diffusers' `UnCLIPPipeline.from_pretrained`
//! opens what is written. The published index calls the module of one class `unclip`, so newer
//! versions first need `sys.modules["unclip"] = diffusers.pipelines.deprecated.unclip.text_proj`.

#[path = "shared/apart.rs"]
mod apart;
#[path = "shared/console.rs"]
mod console;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use unclip::clip::{Fit, Padding};
use unclip::{Bundle, OpenOptions, Precision};

/// Writes a model in another layout.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Folder of a model: Karlo's, Kandinsky's, Stable unCLIP's, LAION's, GLIDE's, ADM's or one in
    /// this project's layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Folder of the prior, of a model that is published without (Kandinsky, Stable unCLIP)
    #[arg(long, value_name = "DIR")]
    prior_model: Option<PathBuf>,
    /// Folder to write, which must not exist yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Layout to write: diffusers (of Karlo and models like it), kandinsky, stable or native [default:
    /// that of the published model which is like it; native of LAION, GLIDE and ADM]
    #[arg(long, value_name = "NAME")]
    layout: Option<String>,
    /// Number format of the weights: f32, f16 or bf16
    #[arg(long, value_name = "FORMAT", default_value_t)]
    precision: Precision,
    /// Device through which the weights pass
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Read `!` in a caption as padding and crop pictures, as diffusers does, even if the model's
    /// own code does otherwise
    #[arg(long)]
    as_diffusers: bool,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    let models = [Some(arguments.model.as_path()), arguments.prior_model.as_deref()];
    apart::check_apart(std::iter::once(arguments.out.as_path()), &[], &models)?;
    let (padding, fit) = if arguments.as_diffusers {
        (Some(Padding::Exclamation), Some(Fit::Crop))
    } else {
        (None, None)
    };
    let prior_model = arguments.prior_model.clone();
    let options = OpenOptions { padding, prior_padding: padding, fit, prior_model };
    let bundle = Bundle::open_with(&arguments.model, &options)?;
    let device = unclip::device(&arguments.device)?;
    let decoder = bundle.decoder.config();
    let usual = match (decoder.augmentation.is_some(), decoder.needs_null_image()) {
        _ if !decoder.reads_images() || decoder.unet.adm().is_none() => "native",
        (true, _) => "stable",
        (false, true) => "kandinsky",
        (false, false) => "diffusers",
    };
    let layout = arguments.layout.as_deref().unwrap_or(usual);
    bundle.save(layout, &arguments.out, arguments.precision, &device)?;
    let beside = [
        bundle.prior.as_ref().and(bundle.ar_prior.as_ref()).map(|it| it.id()),
        bundle.noised_image_encoder.as_ref().map(|it| it.id()),
    ];
    if layout != "native" {
        for stage in beside.into_iter().flatten() {
            console::note(format_args!("left out, as the layout has no place for it: {stage}"));
        }
    }
    console::say(arguments.out.display());
    Ok(())
}

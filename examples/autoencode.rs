//! A picture to its latents and back: what an autoencoder alone keeps of it.
//!
//! ```text
//! cargo run --release --example autoencode -- picture.png --model kandinsky-2-2-decoder
//! ```

#[path = "shared/apart.rs"]
mod apart;
#[path = "shared/console.rs"]
mod console;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use unclip::autoencoder::{Latents, Tiling};
use unclip::image::imageops::crop_imm;
use unclip::unclip_core::Limit;
use unclip::unclip_core::image::{psnr, to_rgb, to_tensor};
use unclip::{Precision, ReadOptions, open_autoencoder, write_picture};

/// Encodes a picture, decodes it again, and prints how close it comes.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file
    picture: PathBuf,
    /// Folder of an autoencoder (movq, vae), or of a model that has one
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// File of the result: .png, .jpg or .webp
    #[arg(long, value_name = "FILE", default_value = "again.png")]
    out: PathBuf,
    /// Round the latents to the codebook, if the autoencoder has one
    #[arg(long)]
    quantize: bool,
    /// Work in tiles of so many latents on a side, which fade into each other: for large pictures
    #[arg(long, value_name = "SIDE")]
    tiles: Option<usize>,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
    /// f32, f16 or bf16: number format in which networks work
    #[arg(long, value_name = "FORMAT", default_value_t)]
    precision: Precision,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    let Arguments { picture, model, out, quantize, tiles, device, precision } = arguments;
    let (name, tiling) = (picture.display(), tiles.map(Tiling::new).transpose()?);
    apart::check_apart([out.as_path()].into_iter(), &[picture], &[Some(model)])?;
    unclip::unclip_nn::checkpoint::check_place(out)?;
    let read = ReadOptions::default().read(picture)?;
    read.left_out.iter().for_each(|it| console::note(format_args!("{name}: {it}")));
    let slot = open_autoencoder(model)?;
    if *quantize && slot.config().latents == Latents::Kl {
        return Err("--quantize: this autoencoder has no codebook".into());
    }
    let factor = slot.config().factor() as u32;
    let [width, height] = [read.image.width(), read.image.height()].map(|n| n / factor * factor);
    if width * height == 0 {
        return Err(format!("{name}: at least {factor} pixels on each side are needed").into());
    }
    if (width, height) != read.image.dimensions() {
        let note =
            format_args!("{name}: of its pixels, {width} × {height} at the top left are used");
        console::note(note);
    }
    let config = slot.config();
    let sides = match tiles {
        Some(side) => [side.saturating_mul(config.factor()); 2],
        None => [height as usize, width as usize],
    };
    let needed = config.row_bytes(sides) as u64;
    let pixels = u64::from(width) * u64::from(height) * 3 * 4;
    let what = "memory for a picture of this size (less with --tiles)";
    Limit::MemoryBytes.check(what, needed.saturating_add(4 * pixels))?;
    let seen = crop_imm(&read.image, 0, 0, width, height).to_image();
    let device = unclip::device(device)?;
    let autoencoder = slot.load((&device, *precision))?;
    let pixels = to_tensor(std::slice::from_ref(&seen), &device);
    let latents = match tiling {
        Some(tiling) => autoencoder.encode_tiled(pixels, tiling).mean,
        None => autoencoder.encode(pixels).mean,
    };
    let latents =
        if *quantize { autoencoder.quantized(latents).ok_or("no codebook")? } else { latents };
    let again = match tiling {
        Some(tiling) => autoencoder.decode_tiled(latents, tiling),
        None => autoencoder.decode(latents),
    };
    let again = to_rgb(again).remove(0);
    console::say(format_args!("{:.1} dB", psnr(&seen, &again)));
    write_picture(out, &again)?;
    console::say(out.display());
    Ok(())
}

//! A path from one picture to another: both of a picture's latents are moved, its embedding (what it
//! shows) and the noise from which the decoder draws it (all the rest).
//!
//! ```text
//! cargo run --release --example interpolate -- from.png to.png --n 7 --out path.png
//! ```
//! `interpolate` below is the whole of it, on the public API (paper, section 3.2).

#[path = "shared/console.rs"]
mod console;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use unclip::decoder::Condition;
use unclip::image::imageops;
use unclip::unclip_core::image::{to_rgb, to_tensor};
use unclip::unclip_core::resize::bicubic_8bit;
use unclip::unclip_nn::checkpoint::check_place;
use unclip::{
    Bundle, Cropped, Ddim, Error, GenerateOptions, ImageEmbedding, PictureFormat, ReadOptions,
    ReadPicture, Residency, RgbImage, StageOptions, Start, Tensor, UnClip, device, slerp, strip,
    write_picture,
};

/// Draws the way from one picture to another, as a strip.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The first picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file
    from: PathBuf,
    /// The last
    to: PathBuf,
    /// File of the strip
    #[arg(long, default_value = "path.png")]
    out: PathBuf,
    /// Folder of a model with an image encoder [default: the shapes model inside the program]
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Pictures of the strip, both ends included, 2 to 64
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(2..=64))]
    n: u64,
    /// Reverse steps of the decoder, and as many back to noise
    #[arg(long)]
    decoder_steps: Option<usize>,
    /// cpu, gpu, auto, or flex, wgpu, vulkan, metal, cuda or rocm, with :INDEX for one of several
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// `n` pictures on the way from the first to the second.
fn interpolate(
    unclip: &UnClip,
    ends: &[RgbImage; 2],
    n: usize,
    decoder: StageOptions,
) -> Result<Vec<RgbImage>, Error> {
    // noise belongs to a picture only where sampling draws none, and without guidance
    let decoder = decoder.with_sampler(Ddim { eta: 0.0 }).with_guidance_scale(1.0);
    let settings = GenerateOptions::default().with_decoder(decoder).resolve(unclip.bundle())?;
    let side = unclip.bundle().decoder.config().unet.image_size;

    let images = unclip.embed_images(ends)?;
    let small = ends.each_ref().map(|end| bicubic_8bit(end, side as u32, side as u32));
    let small = to_tensor(&small, &unclip.device());
    let mut run = unclip.run(&[0, 0]);
    let text = run.encode(&[""])?;
    let condition = Condition { image: images.clone(), text: text.repeat_rows(2) };
    let bound = run.bind_decoder(&condition, &settings.decoder)?;
    let noise = run.invert(&bound, &small)?;

    let on_the_way = |k: usize| k as f64 / (n - 1) as f64;
    let rows = (0..n).map(|k| {
        let [from, to] =
            [0, 1].map(|end| (images.narrow(end, 1).0, noise.clone().narrow(0, end, 1)));
        Ok((slerp(from.0, to.0, on_the_way(k))?, slerp(from.1, to.1, on_the_way(k))?))
    });
    let (images, noise): (Vec<_>, Vec<_>) =
        rows.collect::<Result<Vec<_>, Error>>()?.into_iter().unzip();

    let seeds = vec![0; n];
    let mut run = unclip.run(&seeds);
    let image = ImageEmbedding(Tensor::cat(images, 0));
    let condition = Condition { image, text: text.repeat_rows(n) };
    let bound = run.bind_decoder(&condition, &settings.decoder)?;
    let start = Start { x_t: Some(Tensor::cat(noise, 0)), steps: None };
    let pictures = run.sample(&bound, start)?;
    Ok(to_rgb(run.upsample(pictures, &settings.upsamplers)?))
}

fn main() -> ExitCode {
    console::run(run)
}

/// The middle of a picture: both latents have to be of the same pixels.
fn square(path: &Path) -> Result<RgbImage, Error> {
    let ReadPicture { image: picture, left_out } = ReadOptions::default().read(path)?;
    for left_out in left_out {
        console::note(format_args!("{}: {left_out}", path.display()));
    }
    let (width, height) = picture.dimensions();
    let side = width.min(height);
    if width != height {
        let cropped = Cropped { size: [width, height], side };
        console::note(format_args!("{}: {cropped}", path.display()));
    }
    let corner = [(width - side) / 2, (height - side) / 2];
    Ok(imageops::crop_imm(&picture, corner[0], corner[1], side, side).to_image())
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    PictureFormat::of(&arguments.out)?;
    check_place(&arguments.out)?;
    if let Ok(out) = arguments.out.canonicalize()
        && [&arguments.from, &arguments.to]
            .iter()
            .any(|end| end.canonicalize().is_ok_and(|it| it == out))
    {
        let out = arguments.out.display();
        return Err(format!("{out}: is an end of the path: choose another --out").into());
    }
    let bundle = match &arguments.model {
        Some(folder) => Bundle::open(folder)?,
        None => Bundle::shapes()?,
    };
    let ends = [square(&arguments.from)?, square(&arguments.to)?];
    let unclip = UnClip::new(bundle, &device(&arguments.device)?, Residency::Resident)?;
    let mut decoder = StageOptions::default();
    decoder.steps = arguments.decoder_steps;
    let pictures = interpolate(&unclip, &ends, arguments.n as usize, decoder)?;
    write_picture(&arguments.out, &strip(&pictures))?;
    console::say(arguments.out.display());
    Ok(())
}

//! Drives the stages by hand, to show what passes between them.
//!
//! ```text
//! cargo run --release --example step_by_step -- "a small green star in the top left"
//! ```
//! Writes `small.png` (the decoder's picture), `large.png` (after the upsamplers) and
//! `reconstruction.png` (the small picture's own embedding, decoded again: a variation).

#[path = "shared/console.rs"]
mod console;

use std::ops::ControlFlow;

use unclip::decoder::Condition;
use unclip::unclip_core::image::to_rgb;
use unclip::{Bundle, Event, GenerateOptions, Residency, UnClip};

/// Drives the stages of the shapes model one by one; writes small.png, large.png and
/// reconstruction.png.
#[derive(Debug, clap::Parser)]
#[command(version)]
struct Arguments {
    /// What the picture shows
    #[arg(default_value = "a large red circle above a small blue square")]
    caption: String,
}

fn main() -> std::process::ExitCode {
    console::run(run)
}

fn run(Arguments { caption }: &Arguments) -> Result<(), console::AnyError> {
    // A model is a folder of stages, or the one inside the program. The device is yours to choose.
    let device = unclip::device("flex")?;
    let unclip = UnClip::new(Bundle::shapes()?, &device, Residency::OneByOne)?;
    let bundle = unclip.bundle();

    // Each stage has settings; what you leave open comes from the model.
    let settings = GenerateOptions::default().resolve(bundle)?;
    let prior_settings = settings.prior.expect("the shapes model has a prior");

    // One picture for each seed. An observer hears of every step; `Break` would stop the work.
    let seeds = [7];
    let mut steps = 0;
    let mut observer = |_: &Event<'_>| {
        steps += 1;
        ControlFlow::Continue(())
    };
    let mut run = unclip.run(&seeds).with_observer(&mut observer);

    // Caption → CLIP's text embedding: pooled [1, d], and one state for each token.
    console::say(format_args!(
        "{caption:?} is {} tokens",
        bundle.text()?.tokenizer.encode(&[caption]).len(0)
    ));
    let text = run.encode(&[caption])?;

    // Text embedding → image embedding [1, d]: what CLIP might say of a picture of it.
    let image = run.prior(&text, &prior_settings)?;

    // Image embedding (+ caption) → a small picture [1, 3, 32, 32] in [−1, 1].
    let condition = Condition::new(image, text);
    let small = run.decode(&condition, &settings.decoder)?;
    let small_picture = to_rgb(small.clone()).remove(0);
    unclip::write_picture("small.png", &small_picture)?;
    console::say("small.png");

    // Small → large, through every upsampler.
    let large = run.upsample(small, &settings.upsamplers)?;
    console::say(format_args!("the large picture is {:?}", large.dims()));
    unclip::write_picture("large.png", &to_rgb(large).remove(0))?;
    console::say("large.png");

    // The other way in: a picture's own embedding, with the empty caption.
    let image = unclip.embed_images(&[small_picture])?;
    let text = run.encode(&[""])?;
    let again = run.decode(&Condition::new(image, text), &settings.decoder)?;
    unclip::write_picture("reconstruction.png", &to_rgb(again).remove(0))?;
    console::say("reconstruction.png");

    console::say(format_args!("{steps} reverse steps in all"));
    Ok(())
}

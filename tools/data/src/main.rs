//! Captioned pictures of emoji, Noto's and Fluent's, drawn from their SVG; and a check of what a model that was
//! trained on them draws.
//!
//! ```text
//! npm pack @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6 emojilib@4.0.3
//! cargo run --release --manifest-path tools/data/Cargo.toml -- make --packages . --out out/emoji
//! ```
//! The packages are unpacked folders of the same names.

mod align;
mod ask;
mod captions;
mod check;
mod draw;
mod icons;
mod lines;
mod make;

use std::process::ExitCode;

use clap::Parser;

/// Pictures of emoji to train on, and a check of what was learned.
#[derive(Debug, Parser)]
enum Command {
    /// Makes captioned pictures
    Make(make::Arguments),
    /// Chooses captions to draw
    Ask(ask::Arguments),
    /// Checks what was drawn
    Check(check::Arguments),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Make(arguments) => make::run(&arguments),
        Command::Ask(arguments) => ask::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
    };
    if let Err(error) = done {
        eprintln!("error: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

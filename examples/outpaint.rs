//! A picture made larger: what lies beyond its edges is drawn, and the picture stays to the last
//! bit.
//!
//! ```text
//! cargo run --release --example outpaint -- picture.png --left 64 --right 64 --out wide.png
//! ```

#[path = "shared/apart.rs"]
mod apart;
#[path = "shared/console.rs"]
mod console;
#[path = "shared/hint.rs"]
mod hint;
mod latents;
#[path = "pictures/progress.rs"]
mod progress;
#[path = "shared/seed.rs"]
mod seed;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use unclip::RgbImage;
use unclip::image::{GrayImage, Luma, imageops};
use unclip::unclip_core::Limit;

use latents::Common;
use latents::edits::{Edit, Repaint};

/// Draws what lies beyond the edges of a picture.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The picture: a PNG, JPEG, WebP, GIF, BMP or TIFF file
    picture: PathBuf,
    /// New pixels on the left
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    left: u32,
    /// New pixels at the top
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    top: u32,
    /// New pixels on the right
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    right: u32,
    /// New pixels at the bottom
    #[arg(long, value_name = "PIXELS", default_value_t = 0)]
    bottom: u32,
    #[command(flatten)]
    edit: Edit,
    #[command(flatten)]
    repaint: Repaint,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), console::AnyError> {
    let Arguments { picture, left, top, right, bottom, edit, repaint, common } = arguments;
    edit.check()?;
    let studio = common.open("wide.png", edit.n(), &[picture], &[])?;
    let picture = studio.read_whole(picture)?;
    let sum = |parts: [u32; 3]| parts.iter().map(|&it| u64::from(it)).sum::<u64>();
    let sides = [sum([*left, picture.width(), *right]), sum([*top, picture.height(), *bottom])];
    let longest = sides[0].max(sides[1]);
    if [left, top, right, bottom] == [&0; 4] {
        return Err("nothing to draw: expected --left, --top, --right or --bottom".into());
    }
    Limit::PictureSide.check("longest side of the result", longest)?;
    // the model draws squares: what is beyond the result is drawn and cut off again
    let (side, [width, height]) = (longest as u32, sides.map(|it| it as u32));
    let corner = [(side - width) / 2, (side - height) / 2];
    let place = [corner[0] + left, corner[1] + top].map(i64::from);
    let mut canvas = RgbImage::new(side, side);
    imageops::replace(&mut canvas, &picture, place[0], place[1]);
    let mut mask = GrayImage::from_pixel(side, side, Luma([255]));
    let kept = GrayImage::new(picture.width(), picture.height());
    imageops::replace(&mut mask, &kept, place[0], place[1]);
    let subject = edit.subject(&picture);
    let mut made = studio.show(|unclip| {
        unclip.inpaint((&canvas, &mask), subject, repaint.resampling(), &edit.options(&studio))
    })?;
    for made in &mut made.pictures {
        made.image =
            imageops::crop_imm(&made.image, corner[0], corner[1], width, height).to_image();
    }
    studio.write(&made.pictures)
}

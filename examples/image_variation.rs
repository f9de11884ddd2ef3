//! Makes variations of a picture.
//!
//! ```text
//! cargo run --release --example image_variation -- picture.png --n 4 --grid
//! ```
//! The picture is embedded by CLIP and decoded again: what the embedding holds stays, the rest is
//! drawn anew. Works with every model that has an image encoder.

#[path = "shared/apart.rs"]
mod apart;
#[path = "shared/console.rs"]
mod console;
#[path = "shared/memory.rs"]
mod memory;
mod pictures;
#[path = "shared/seed.rs"]
mod seed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use unclip::clip::Fit;
use unclip::{Bundle, Device, GenerateOptions, Precision, ReadOptions, RgbImage};

use console::AnyError;
use pictures::places::Plan;
use pictures::{Common, Work};

/// Makes variations of pictures.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The pictures: PNG, JPEG, WebP, GIF, BMP or TIFF files
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
    /// How pictures are fitted to the image encoder's square
    #[arg(long, value_enum, requires = "model")]
    fit: Option<FitArgument>,
    /// Color behind transparent pictures: white, black, or one as in ff8000 or f80
    #[arg(long, value_name = "COLOR", default_value = "white")]
    background: Color,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FitArgument {
    Crop,
    Squash,
}

#[derive(Debug, Clone, Copy)]
struct Color([u8; 3]);

impl FromStr for Color {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = match text {
            "white" => "fff",
            "black" => "000",
            _ => text.strip_prefix('#').unwrap_or(text),
        };
        // each of three digits stands for two
        let each = if digits.len() == 3 { 2 } else { 1 };
        let digits: String =
            digits.chars().flat_map(|digit| std::iter::repeat_n(digit, each)).collect();
        let expected = || "expected white, black, or six digits as in ff8000".to_string();
        if digits.len() != 6 || !digits.chars().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(expected());
        }
        let [_, r, g, b] = u32::from_str_radix(&digits, 16).map_err(|_| expected())?.to_be_bytes();
        Ok(Self([r, g, b]))
    }
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let Arguments { pictures: paths, common, .. } = arguments;
    let fit = arguments.fit.map(|fit| match fit {
        FitArgument::Crop => Fit::Crop,
        FitArgument::Squash => Fit::Squash,
    });
    let recipes = common.recipes()?;
    if recipes.iter().any(|recipe| recipe.incomplete) {
        return Err(common.not_again());
    }
    if recipes.iter().any(|recipe| recipe.picture.is_none()) {
        return Err("a picture of a caption, not a variation: use text_to_image --from".into());
    }
    let bundle = common.bundle(fit, recipes.first())?;
    let asked = common.options()?;
    let precision = recipes.first().map_or(Precision::default(), |recipe| recipe.precision);
    let again = recipes.iter().map(|recipe| common.again(recipe, &asked, &bundle));
    let mut all_options = again.collect::<Result<Vec<_>, _>>()?;
    if all_options.is_empty() {
        all_options.push(asked);
    }
    let was_sheet = all_options.len() > 1;
    let plan = Plan {
        file: "variation",
        folder: "variations",
        items: paths.len(),
        n: if was_sheet { all_options.len() } else { all_options[0].n },
        many: false,
        was_sheet,
        others: Vec::new(),
        model: None,
        inputs: paths.iter().map(PathBuf::as_path).collect(),
    };
    let (device, Color(background)) = (common.device()?, arguments.background);
    let options = ReadOptions::default().with_background(background);
    let images = paths.iter().map(|path| read(path, &options, &bundle, &device));
    let images = images.collect::<Result<Vec<_>, _>>()?;
    let together = if common.is_one_batch() { images.len() } else { 1 };
    let reused = images.len() > together || was_sheet;
    let mut work = common.begin(bundle, precision, reused, plan)?;
    for (images, paths) in images.chunks(together).zip(paths.chunks(together)) {
        let mut sheet = Vec::new();
        for options in &all_options {
            sheet.extend(vary(&mut work, common, (images, paths), options)?);
        }
        work.write(&sheet)?;
    }
    common.end(&work)
}

/// The part of a picture that the model sees; notes what is left out.
fn read(
    path: &Path,
    options: &ReadOptions,
    bundle: &Bundle,
    device: &Device,
) -> Result<RgbImage, AnyError> {
    let name = path.display();
    let picture = options.read(path)?;
    for left_out in &picture.left_out {
        console::note(format_args!("{name}: {left_out}"));
    }
    let fitted = bundle.fit(&picture.image, device);
    let (image, cropped) = fitted.map_err(|error| format!("{name}: {error}"))?;
    if let Some(cropped) = cropped {
        console::note(format_args!("{name}: {cropped}"));
    }
    Ok(image)
}

/// Variations of some pictures, each with the name of its picture in the recipe.
fn vary(
    work: &mut Work,
    common: &Common,
    (images, paths): (&[RgbImage], &[PathBuf]),
    options: &GenerateOptions,
) -> Result<Vec<unclip::Picture>, AnyError> {
    let mut made = work.make(common, |unclip| unclip.image_variation(images, options))?;
    for (i, picture) in made.pictures.iter_mut().enumerate() {
        let name = paths[i / options.n].file_name().unwrap_or_default();
        picture.recipe.picture = Some(name.to_string_lossy().into_owned());
    }
    Ok(made.pictures)
}

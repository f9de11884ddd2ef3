//! Makes variations of a picture.
//!
//! ```text
//! cargo run --release --example image_variation -- picture.png --n 4 --grid
//! ```
//! The picture is embedded by CLIP and decoded again: what the embedding holds stays, the rest is
//! drawn anew. Works with every model that has an image encoder. With `--eta` the rest is not drawn
//! anew, but starts from the picture's own noise: at 0 the picture itself comes back.

#[path = "shared/apart.rs"]
mod apart;
#[path = "shared/console.rs"]
mod console;
#[path = "shared/hint.rs"]
mod hint;
#[path = "shared/memory.rs"]
mod memory;
#[macro_use]
mod pictures;
#[path = "shared/prior.rs"]
mod prior;
#[path = "shared/seed.rs"]
mod seed;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Parser, ValueEnum};
use unclip::clip::Fit;
use unclip::{
    Bundle, Ddim, Device, GenerateOptions, Picture, Precision, ReadOptions, Recipe, RgbImage,
    SamplerKind, StageOptions, Variation,
};

use console::AnyError;
use pictures::places::Plan;
use pictures::{Common, Work};
use prior::PriorChoice;

guided_stage!(PriorArguments, "prior");

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
    /// A caption that counts beside the picture [default: ""]
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// How much the picture counts: from 0, where the caption alone is drawn, to 1 [default: 1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    strength: Option<f64>,
    /// Let the prior draw another embedding from the picture's, as it does from a caption's
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    through_prior: Option<bool>,
    /// Let the prior take a noisy version of the picture's embedding toward the caption, by this share
    /// of its steps (Kandinsky's prior from embeddings: 0.3)
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    prior_strength: Option<f64>,
    /// Start from the picture's own noise, of which a step keeps the less the larger ETA is: 0
    /// gives the picture back, 1 a free variation
    #[arg(long, value_name = "ETA", conflicts_with_all = ["decoder-sampler", "from", "noise", "width", "noise_level"])]
    #[arg(allow_negative_numbers = true)]
    eta: Option<f64>,
    #[command(flatten)]
    choice: PriorChoice,
    #[command(flatten)]
    prior: PriorArguments,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FitArgument {
    Crop,
    Squash,
    Lanczos,
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
        FitArgument::Lanczos => Fit::Lanczos,
    });
    let recipes = common.recipes()?;
    if recipes.iter().any(|recipe| recipe.incomplete) {
        return Err(common.not_again());
    }
    if recipes.iter().any(|recipe| recipe.picture.is_none()) {
        return Err("a picture of a caption, not a variation: use text_to_image --from".into());
    }
    let bundle = common.bundle(fit, recipes.first())?;
    let asked = common.options()?.with_prior(arguments.prior.options());
    let asked = arguments.choice.of(asked, &bundle)?;
    let precision = recipes.first().map_or(Precision::default(), |recipe| recipe.precision);
    let mut calls = Vec::new();
    for recipe in &recipes {
        let candidates = arguments.choice.candidates;
        let mut options = common.again(recipe, &asked, candidates, &bundle)?;
        let variation = arguments.variation(Some(recipe));
        // the recipe's prior goes with the variation that had it
        if !variation.has_prior() {
            options.prior = asked.prior.clone();
            options.prior_kind = asked.prior_kind;
            options.gallery = asked.gallery.clone();
            options.neighbors = asked.neighbors;
            options.candidates = asked.candidates;
        }
        calls.push((options, variation));
    }
    if calls.is_empty() {
        calls.push((asked, arguments.variation(None)));
    }
    let was_sheet = calls.len() > 1;
    let plan = Plan {
        file: "variation",
        folder: "variations",
        items: paths.len(),
        n: if was_sheet { calls.len() } else { calls[0].0.n },
        many: false,
        was_sheet,
        others: Vec::new(),
        models: [None; 2],
        inputs: paths.iter().chain(&arguments.choice.gallery).map(PathBuf::as_path).collect(),
    };
    let (device, Color(background)) = (common.device()?, arguments.background);
    let options = ReadOptions::default().with_background(background);
    let images = paths.iter().map(|path| read(path, &options, (&bundle, &device), arguments.eta));
    let images = images.collect::<Result<Vec<_>, _>>()?;
    let together = if common.is_one_batch() { images.len() } else { 1 };
    let reused = images.len() > together || was_sheet || arguments.eta.is_some();
    let mut work = common.begin(bundle, precision, reused, plan)?;
    for (images, paths) in images.chunks(together).zip(paths.chunks(together)) {
        let mut sheet = Vec::new();
        for (options, variation) in &calls {
            let options = work.with_negative(common, options.clone())?;
            let mut pictures = match arguments.eta {
                None => {
                    work.make(common, |unclip| unclip.vary(images, variation, &options))?.pictures
                }
                Some(eta) => from_noise(&mut work, common, (images, variation), options, eta)?,
            };
            let n = pictures.len() / paths.len();
            for (i, picture) in pictures.iter_mut().enumerate() {
                let name = paths[i / n].file_name().unwrap_or_default();
                picture.recipe.picture = Some(name.to_string_lossy().into_owned());
            }
            sheet.extend(pictures);
        }
        work.write(&sheet)?;
    }
    common.end(&work)
}

/// The part of a picture that the model sees; notes what is left out.
fn read(
    path: &Path,
    options: &ReadOptions,
    (bundle, device): (&Bundle, &Device),
    eta: Option<f64>,
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
    // what the noise is found of may be larger than what CLIP sees
    Ok(if eta.is_some() { picture.image } else { image })
}

/// Variations that start from the pictures' own noise: all of the first picture, then of the next.
fn from_noise(
    work: &mut Work,
    common: &Common,
    (images, variation): (&[RgbImage], &Variation<'_>),
    mut options: GenerateOptions,
    eta: f64,
) -> Result<Vec<Picture>, AnyError> {
    SamplerKind::from(Ddim { eta }).validate()?;
    let decoder = options.decoder.clone();
    let (n, first) = (options.n, options.seed);
    if n > 1 && common.trace.is_some() {
        let message = "--trace is of one call, and each of these pictures takes one";
        return Err(message.into());
    }
    options.seeds(images.len())?;
    options.n = 1;
    // what is asked is checked here, before the noise is found
    let image = work.unclip.embed_images(images)?;
    let mut varied = Vec::new();
    for k in 0..n as u64 {
        options.seed = first.wrapping_add(k);
        varied.push(work.show(|unclip| unclip.reimagine(&image, variation, &options))?);
    }
    let mut found = GenerateOptions::default().with_decoder(decoder.clone());
    found.hint = options.hint.clone();
    let latents = work.show(|unclip| unclip.invert(images, &found))?;
    let reads_captions = work.unclip.bundle().decoder.config().reads_captions();
    let latents = if reads_captions { latents.with_caption(variation.caption) } else { latents };
    options.decoder = decoder.with_sampler(Ddim { eta });
    // the embeddings are made
    options.prior = StageOptions::default();
    (options.prior_kind, options.gallery, options.neighbors) = (None, None, None);
    options.candidates = 1;
    let mut made: Vec<Vec<Picture>> = images.iter().map(|_| Vec::new()).collect();
    for (k, image) in (0..).zip(varied) {
        options.seed = first.wrapping_add(k);
        let latents = latents.clone().with_image(image);
        let drawn = work.make(common, |unclip| unclip.draw(&latents, &options))?;
        made.iter_mut().zip(drawn.pictures).for_each(|(of, picture)| of.push(picture));
    }
    Ok(made.into_iter().flatten().collect())
}

impl Arguments {
    /// What goes in beside the picture: as a recipe has it, unless something else is asked for.
    fn variation<'a>(&'a self, recipe: Option<&'a Recipe>) -> Variation<'a> {
        let before = recipe.map_or(Variation::default(), |recipe| Variation {
            caption: &recipe.prompt,
            strength: recipe.strength,
            through_prior: recipe.through_prior,
            prior_strength: recipe.prior_strength,
        });
        Variation {
            caption: self.prompt.as_deref().unwrap_or(before.caption),
            strength: self.strength.unwrap_or(before.strength),
            through_prior: self
                .through_prior
                .unwrap_or(before.through_prior && self.prior_strength.is_none()),
            // one way through the prior takes the place of the other
            prior_strength: match self.through_prior {
                Some(true) => self.prior_strength,
                _ => self.prior_strength.or(before.prior_strength),
            },
        }
    }
}

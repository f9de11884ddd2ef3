//! Makes a picture of a caption.
//!
//! ```text
//! cargo run --release --example text_to_image -- "a large red circle above a small blue square"
//! ```
//! Every setting is kept in the picture; `--from picture.png` makes it again.

#[path = "shared/apart.rs"]
mod apart;
#[path = "shared/captions.rs"]
mod captions;
#[path = "shared/console.rs"]
mod console;
#[path = "pictures/estimate.rs"]
mod estimate;
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

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use unclip::unclip_core::Limit;
use unclip::{Bundle, GenerateOptions, Precision, Recipe};

use console::AnyError;
use estimate::EstimateArguments;
use pictures::Common;
use pictures::places::Plan;
use prior::PriorChoice;

guided_stage!(PriorArguments, "prior");

/// Makes pictures of captions.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// What the picture shows; "" gives an arbitrary picture. Of a model of classes, one of them
    #[arg(required_unless_present_any = ["prompts", "from"], conflicts_with = "from")]
    prompt: Option<String>,
    /// File of captions, one per line, or - for standard input; writes 00000.png, 00001.png, … into
    /// the folder --out
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "from"])]
    prompts: Option<PathBuf>,
    #[command(flatten)]
    choice: PriorChoice,
    #[command(flatten)]
    prior: PriorArguments,
    #[command(flatten)]
    estimate: EstimateArguments,
    #[command(flatten)]
    common: Common,
}

fn main() -> ExitCode {
    console::run(run)
}

fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let common = &arguments.common;
    let recipes = common.recipes()?;
    let bundle = common.bundle(None, recipes.first())?;
    let Request { calls, precision, was_sheet } = request(arguments, recipes, &bundle)?;
    let plan = Plan {
        file: "picture",
        folder: "pictures",
        items: if was_sheet { 1 } else { calls.iter().map(|call| call.captions.len()).sum() },
        n: if was_sheet { calls.len() } else { calls[0].options.n },
        many: arguments.prompts.is_some(),
        was_sheet,
        others: Vec::new(),
        models: [None; 2],
        inputs: [&arguments.prompts, &arguments.choice.gallery]
            .into_iter()
            .filter_map(Option::as_deref)
            .collect(),
    };
    if bundle.classes().is_some() {
        let captions = calls.iter().flat_map(|call| &call.captions);
        captions.map(|caption| bundle.class_of(caption)).collect::<Result<Vec<_>, _>>()?;
    }
    if arguments.estimate.is_asked() {
        let calls_of = calls.iter().map(|call| (call.captions.len(), &call.options));
        let residency = common.residency(calls.len() > 1);
        return arguments.estimate.say(&bundle, (common.precision(precision), residency), calls_of);
    }
    let mut work = common.begin(bundle, precision, calls.len() > 1, plan)?;
    let mut sheet = Vec::new();
    for Call { captions, options } in &calls {
        let options = work.with_negative(common, options.clone())?;
        let made = work.make(common, |unclip| unclip.text_to_images(captions, &options))?;
        if was_sheet {
            sheet.extend(made.pictures);
        } else {
            work.write(&made.pictures)?;
        }
    }
    if was_sheet {
        work.write(&sheet)?;
    }
    common.end(&work)
}

/// What is asked for.
struct Request {
    /// At least one.
    calls: Vec<Call>,
    /// The number format where none is asked for.
    precision: Precision,
    /// Whether the pictures were one sheet before.
    was_sheet: bool,
}

/// Captions that go together.
struct Call {
    captions: Vec<String>,
    options: GenerateOptions,
}

fn request(
    arguments: &Arguments,
    recipes: Vec<Recipe>,
    bundle: &Bundle,
) -> Result<Request, AnyError> {
    let common = &arguments.common;
    let options = common.options()?.with_prior(arguments.prior.options());
    let options = arguments.choice.of(options, bundle)?;
    if let Some(first) = recipes.first() {
        if let Some(picture) = recipes.iter().find_map(|recipe| recipe.picture.as_ref()) {
            let message = format!("a variation of {picture:?}, not a picture of a caption");
            return Err(format!("{message}: use image_variation PICTURE --from").into());
        }
        let (precision, was_sheet) = (first.precision, recipes.len() > 1);
        // they become one sheet again
        Limit::Images.check_len("number of pictures of the sheet", recipes.len())?;
        let call = |recipe: Recipe| -> Result<Call, AnyError> {
            let candidates = arguments.choice.candidates;
            let options = common.again(&recipe, &options, candidates, bundle)?;
            Ok(Call { captions: vec![recipe.prompt], options })
        };
        let calls = recipes.into_iter().map(call).collect::<Result<_, _>>()?;
        return Ok(Request { calls, precision, was_sheet });
    }
    let captions = match &arguments.prompts {
        None => arguments.prompt.iter().cloned().collect(),
        Some(path) => captions::read(path)?,
    };
    let together = if common.is_one_batch() { captions.len() } else { 1 };
    let calls = captions.chunks(together.max(1));
    let calls = calls.map(|captions| Call { captions: captions.into(), options: options.clone() });
    let (calls, precision) = (calls.collect(), Precision::default());
    Ok(Request { calls, precision, was_sheet: false })
}

//! The configuration of a run: read, laid over what was before, and kept.

use std::path::{Path, PathBuf};

use unclip::clip::ImageEncoderConfig;
use unclip::train::plan::{Plan, RunPlan};
use unclip::unclip_core::Limit;
use unclip::unclip_nn::checkpoint::{StageFiles, read_text, write_whole};
use unclip::{Bundle, Precision};

use super::Arguments;
use super::console::{self, AnyError};

/// The configuration of a run, in its folder.
const NAME: &str = "run.toml";
/// What is there once a stage has been trained.
const CHECKPOINT: &str = "checkpoint.json";

/// The configuration, checked, with the sizes of the CLIP that is taken over; and the model of that CLIP.
pub(crate) fn plan(arguments: &Arguments) -> Result<(Plan, Option<Bundle>), AnyError> {
    let mut plan = read(arguments)?;
    let taken = match &plan.clip.from {
        Some(folder) => Some(Bundle::open(folder)?),
        None => None,
    };
    if let Some(model) = &taken {
        let (text, image) = (model.clip_text()?, model.image_encoder()?);
        plan = plan.with_clip(text.encoder.config().clone(), image.config().clone());
    }
    plan.validate()?;
    Ok((plan, taken))
}

/// The configuration, with what the command line changes.
fn read(arguments: &Arguments) -> Result<Plan, AnyError> {
    let path = arguments.config.clone().or_else(|| own_configuration(arguments));
    let text = match &path {
        Some(path) => text_of(path)?,
        None => String::new(),
    };
    let mut plan = match Plan::of_toml(&text, arguments.preset, &arguments.set) {
        Ok(plan) => plan,
        Err(error) => {
            let path = path.map_or("--set".into(), |path| path.display().to_string());
            return Err(format!("{path}: {error}").into());
        }
    };
    if !arguments.paths.is_empty() {
        // without what means nothing, such as a slash at the end
        let plain = arguments.paths.iter().map(|path| path.components().collect());
        plan.data.paths = plain.collect();
    }
    let run = &mut plan.run;
    run.out = arguments.out.clone().unwrap_or_else(|| run.out.clone());
    run.device = arguments.device.clone().unwrap_or_else(|| run.device.clone());
    run.seed = arguments.seed.unwrap_or(run.seed);
    let kept = run.out.join(NAME);
    if plan.data.paths.is_empty() && !plan.data.shapes && kept.exists() {
        return Err(format!(
            "{}: a run is there, and no pictures are given; give them again, or --resume to go on as it says",
            kept.display()
        )
        .into());
    }
    Ok(plan)
}

fn text_of(path: &Path) -> Result<String, AnyError> {
    let bytes = read_text(path, Limit::ConfigBytes)?;
    Ok(String::from_utf8(bytes).map_err(|_| format!("{}: no text in UTF-8", path.display()))?)
}

/// The configuration that a run was made with, if it is to go on and no other is given: what the command
/// line does not say then stays as it was.
fn own_configuration(arguments: &Arguments) -> Option<PathBuf> {
    let is_of_a_run = arguments.resume || arguments.evaluate || arguments.measure_uncertainty;
    if !is_of_a_run || arguments.preset.is_some() {
        return None;
    }
    let out = arguments.out.clone().unwrap_or_else(|| RunPlan::default().out);
    Some(out.join(NAME)).filter(|path| path.exists())
}

/// Holds the configuration against the one that the run was made with. Another one is refused, or named if that is
/// what is asked for; what a stage was trained with stays as it is.
pub(crate) fn check_plan(plan: &Plan, arguments: &Arguments) -> Result<(), AnyError> {
    let out = &plan.run.out;
    let path = out.join(NAME);
    let refused =
        |why: String| -> Result<(), AnyError> { Err(format!("{}: {why}", path.display()).into()) };
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => return Ok(()),
        Err(error) => return refused(error.to_string()),
    }
    let text = text_of(&path)
        .map_err(|error| format!("{error}; move the file away to start the run anew"))?;
    let before =
        Plan::of_toml(&text, None, &[]).map_err(|error| format!("{}: {error}", path.display()))?;
    let changed = plan.changes(&before);
    if changed.is_empty() {
        return Ok(());
    }
    let all = changed.join(", ");
    if arguments.evaluate {
        return refused(format!(
            "the run there has another configuration: {all}; measure it with its own: --out {} --evaluate",
            out.display()
        ));
    }
    if let Some(other) = changed.iter().find(|change| change.starts_with("clip.from ")) {
        return refused(format!("{other}: nothing of that run is of use; give another --out"));
    }
    if !arguments.resume {
        return refused(format!(
            "the run there has another configuration: {all}; give --resume to go on with this one, or another --out"
        ));
    }
    for change in &changed {
        if let Some(stage) =
            trained_with(change).filter(|it| out.join(it).join(CHECKPOINT).exists())
        {
            return refused(format!(
                "{change}: the stage {stage} is trained already, with the former; remove {} to train it anew, or \
                 give another --out",
                out.join(stage).display()
            ));
        }
    }
    for change in changed {
        console::note(format_args!("changed: {change}"));
    }
    Ok(())
}

/// The stage whose weights mean something else after a change, if there is one.
fn trained_with(change: &str) -> Option<&str> {
    // how a network is asked, which it does not know
    const ASKED: [&str; 8] = [
        "sampler",
        "steps",
        "spacing",
        "guidance_scale",
        "guided_variance",
        "temperature",
        "clamp",
        "uncertainty",
    ];
    let (field, _) = change.split_once(" was ")?;
    if ["clip.text.", "clip.image.", "vocabulary."].iter().any(|it| field.starts_with(it)) {
        return Some("clip");
    }
    let (stage, own) = field.split_once(".config.")?;
    let asked = own.strip_prefix("diffusion.").and_then(|it| it.split('.').next());
    (!asked.is_some_and(|it| ASKED.contains(&it))).then_some(stage)
}

/// Keeps the configuration beside the checkpoints.
pub(crate) fn keep_plan(plan: &Plan) -> Result<(), AnyError> {
    let out = &plan.run.out;
    std::fs::create_dir_all(out).map_err(|error| format!("{}: {error}", out.display()))?;
    Ok(write_whole(&out.join(NAME), plan.to_toml().as_bytes())?)
}

/// Takes over the CLIP of a model, unless it is there already.
pub(crate) fn take_clip(model: &Bundle, plan: &Plan) -> Result<(), AnyError> {
    let bundle = plan.model();
    if !bundle.exists() {
        return Ok(model.save_clip(bundle, Precision::F32, &unclip::device("flex")?)?);
    }
    let files = StageFiles::<ImageEncoderConfig>::open(&bundle.join("image_encoder"))?;
    let (found, expected) = (files.manifest.embedding_space, model.clip_name()?);
    if found != expected {
        return Err(format!(
            "{}: its CLIP is {found}, expected {expected}, that of clip.from; give another --out or run.model",
            bundle.display()
        )
        .into());
    }
    Ok(())
}

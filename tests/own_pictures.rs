//! A model of somebody's own pictures, from a folder to a picture.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use image::{Rgb, RgbImage};
use tempfile::TempDir;
use unclip::train::plan::Plan;
use unclip::train::{Changes, StepReport, TrainError, TrainStage, Training};
use unclip::unclip_nn::AnyUNetConfig;
use unclip::{
    Bundle, GenerateOptions, Precision, Residency, StageOptions, UnClip, device, picture_from_bytes,
};

use crate::support::refused;

/// Twelve pictures of one color each, as another program would write them.
pub(crate) fn pictures() -> TempDir {
    let folder = TempDir::new().unwrap();
    for number in 0..12u8 {
        let color = Rgb([number * 20, 255 - number * 20, 90]);
        let picture = RgbImage::from_pixel(40 + u32::from(number), 48, color);
        let stem = folder.path().join(format!("picture {number}"));
        picture.save(stem.with_extension("png")).unwrap();
        fs::write(stem.with_extension("txt"), format!("color number {number}\n")).unwrap();
    }
    folder
}

/// The smallest preset with a few steps of every stage.
fn plan(data: &Path, out: &Path, steps: u64) -> Plan {
    let small = [
        "clip.text.transformer.n_layers=1",
        "clip.image.transformer.n_layers=1",
        "prior.config.transformer.n_layers=1",
    ];
    let mut settings: Vec<String> = small.iter().map(|it| it.to_string()).collect();
    for stage in ["clip", "prior", "decoder", "upsampler.0"] {
        settings.push(format!("{stage}.train.steps={steps}"));
        settings.push(format!("{stage}.train.batch=4"));
        settings.push(format!("{stage}.train.cooldown=0"));
    }
    let mut plan = Plan::of_toml("", None, &settings).unwrap();
    plan.data.paths = vec![data.into()];
    plan.run.out = out.into();
    plan
}

fn training(plan: Plan) -> Training {
    let decode = |bytes: &[u8]| picture_from_bytes(bytes).map_err(|error| error.to_string());
    let (data, held_out) = plan.open(Arc::new(decode), Arc::new(|_: &_| {})).unwrap();
    let devices = vec![device("flex").unwrap()];
    Training {
        plan,
        data,
        held_out,
        from: None,
        devices,
        changes: Changes::Refused,
        time_limit: None,
    }
}

/// Trains every stage, stopping each after every `pause` steps.
fn train(plan: &Plan, pause: u64) {
    for stage in plan.stages() {
        if stage == TrainStage::Embeddings {
            let nothing = &mut |_, _| ControlFlow::Continue(());
            training(plan.clone()).embed((0, 1), nothing).unwrap();
            continue;
        }
        let steps = plan.settings(stage).unwrap().steps;
        let mut done = 0;
        while done < steps {
            let mut observer = |report: &StepReport| {
                done = report.step;
                if done.is_multiple_of(pause) {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            };
            training(plan.clone()).train(stage, &mut observer).unwrap();
        }
    }
}

#[test]
fn a_folder_becomes_a_model() {
    let (data, out) = (pictures(), TempDir::new().unwrap());
    let plan = plan(data.path(), out.path(), 3);
    train(&plan, 2);
    let bundle = Bundle::open(plan.model()).unwrap();
    let unclip = UnClip::new(bundle, &device("flex").unwrap(), Residency::OneByOne).unwrap();
    let few = || StageOptions::default().with_steps(2);
    let options = GenerateOptions::default().with_prior(few()).with_decoder(few());
    let made = unclip.text_to_image("color number 3", &options).unwrap();
    assert_eq!(made.images()[0].dimensions(), (128, 128));
}

/// Numbers of a line of JSON.
fn number(line: &str, name: &str) -> f64 {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"))
}

#[test]
fn a_run_is_watched() {
    let (data, other, out) = (pictures(), pictures(), TempDir::new().unwrap());
    let mut plan = plan(data.path(), out.path(), 4);
    plan.run.keep_checkpoints = 2;
    plan.evaluation.paths = vec![other.path().into()];
    plan.evaluation.every = 2;
    plan.evaluation.shown = 3;
    plan.evaluation.captions = vec!["color number 3".into()];
    plan.evaluation.tensorboard = true;
    plan.evaluation.use_best = true;
    plan.decoder.config.diffusion.steps = 2;
    train(&plan, 3);
    for (stage, measures) in [
        ("clip", vec!["loss", "caption_of_picture_top_1", "picture_of_caption_top_5"]),
        ("prior", vec!["loss", "loss_0", "loss_9", "cosine", "picture_of_caption_top_1"]),
        ("decoder", vec!["loss", "loss_0", "loss_9"]),
        ("upsampler.0", vec!["loss", "loss_0", "loss_9"]),
    ] {
        let folder = out.path().join(stage);
        let lines = fs::read_to_string(folder.join("evaluation.jsonl")).unwrap();
        let lines: Vec<&str> = lines.lines().collect();
        let steps: Vec<f64> = lines.iter().map(|line| number(line, "step")).collect();
        assert_eq!(steps, [2.0, 4.0], "{stage}");
        for measure in measures {
            assert!(lines.iter().all(|line| number(line, measure).is_finite()), "{stage}");
        }
        let losses = lines.iter().map(|line| number(line, "loss"));
        let best = fs::read_to_string(folder.join("best.json")).unwrap();
        assert_eq!(number(&best, "loss"), losses.fold(f64::INFINITY, f64::min), "{stage}");
        let events = fs::read_dir(folder.join("events")).unwrap().count();
        assert!(events >= 1, "{stage}");
        let kept = fs::read_dir(&folder).unwrap().flatten();
        let kept = kept.filter(|it| it.file_name().to_string_lossy().starts_with("step-"));
        assert!(kept.count() >= 2, "{stage}");
    }
    // pictures, what is drawn of them, and what prior and decoder draw
    for (stage, size) in [("decoder", (3 * 34 - 2, 3 * 34 - 2)), ("upsampler.0", (388, 388))] {
        let shown = image::open(out.path().join(stage).join("samples/step-00000004.png")).unwrap();
        assert_eq!((shown.width(), shown.height()), size, "{stage}");
    }
}

/// Prior and decoder learn from the CLIP of a published layout, which stays as it is.
#[test]
fn a_clip_of_another_model_is_taken_over() {
    let (data, out) = (pictures(), TempDir::new().unwrap());
    let published = Bundle::open(crate::karlo::fixture("variation")).unwrap();
    let mut plan = plan(data.path(), out.path(), 2);
    plan.clip.from = Some(crate::karlo::fixture("variation"));
    let (text, image) = (published.clip_text().unwrap(), published.image_encoder().unwrap());
    let text = text.encoder.config().clone();
    let mut own = plan.with_clip(text.clone(), image.config().clone());
    own.validate().unwrap();
    let sizes = own.prior.as_ref().map(|it| (it.config.d_embedding, it.config.context_length));
    assert_eq!(sizes, Some((text.d_embedding, text.context_length)));
    // what was said otherwise is not taken over
    own.prior.as_mut().unwrap().config.d_embedding = 99;
    let refused = own.validate().unwrap_err().to_string();
    assert!(refused.contains("prior.config.d_embedding is 99, expected 16"), "{refused}");
    own.prior.as_mut().unwrap().config.d_embedding = text.d_embedding;
    let mut plan = own;
    let decoder = &mut plan.decoder.config;
    let AnyUNetConfig::Adm(unet) = &mut decoder.unet else { panic!("ADM's") };
    unet.d_context = Some(16);
    let flex = device("flex").unwrap();
    published.save_clip(plan.model(), Precision::F32, &flex).unwrap();
    train(&plan, 9);
    assert!(!out.path().join("clip").exists(), "CLIP is not trained");
    let bundle = Bundle::open(plan.model()).unwrap();
    let own = |bundle: &Bundle| bundle.image_encoder().unwrap().fingerprint().unwrap().to_string();
    assert_eq!(own(&bundle), own(&published));
    let space = bundle.image_encoder().unwrap().embedding_space().to_string();
    assert!(space.starts_with("clip-"), "{space}");
    assert_eq!(bundle.prior().unwrap().embedding_space(), space);
    let unclip = UnClip::new(bundle, &flex, Residency::OneByOne).unwrap();
    let few = || StageOptions::default().with_steps(2);
    let options = GenerateOptions::default().with_prior(few()).with_decoder(few());
    assert_eq!(unclip.text_to_image("a cat", &options).unwrap().images().len(), 1);
}

#[test]
fn a_share_of_the_data_is_held_out() {
    let (data, out) = (pictures(), TempDir::new().unwrap());
    let mut plan = plan(data.path(), out.path(), 2);
    plan.evaluation.held_out = 0.3;
    let opened = |plan: &Plan| {
        let own = training(plan.clone());
        (own.data.items().unwrap(), own.held_out.map_or(0, |it| it.items().unwrap()))
    };
    let (own, held_out) = opened(&plan);
    assert!(own + held_out == 12 && held_out > 0 && own > 0, "{own} and {held_out}");
    plan.evaluation.held_out = 0.0;
    assert_eq!(opened(&plan), (12, 0));
}

#[test]
fn a_run_goes_on_with_its_own_data_alone() {
    let (data, out) = (pictures(), TempDir::new().unwrap());
    let own = plan(data.path(), out.path(), 2);
    let stop = |report: &StepReport| match report.step {
        1 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    training(own.clone()).train(TrainStage::Clip, &mut { stop }).unwrap();
    fs::write(data.path().join("picture 3.txt"), "another color").unwrap();
    let other = training(own.clone()).train(TrainStage::Clip, &mut { stop });
    assert!(matches!(other, Err(TrainError::Checkpoint { .. })));
    refused(other, &["clip", "data of 12 items", "other settings"]);
    // and prior and decoder need CLIP
    let fresh = plan(data.path(), &out.path().join("fresh"), 2);
    refused(
        training(fresh).train(TrainStage::Prior, &mut { stop }),
        &["CLIP is absent", "train the stage clip first"],
    );
    let absent = training(own).train(TrainStage::ArPrior, &mut { stop });
    refused(absent, &["stage is ar_prior, expected one of the plan"]);
}

/// What several machines measure is what one measures, and what was measured in training.
#[test]
fn measures_of_several_machines_are_merged() {
    let (data, other, out) = (pictures(), pictures(), TempDir::new().unwrap());
    let mut plan = plan(data.path(), out.path(), 4);
    plan.evaluation.paths = vec![other.path().into()];
    plan.evaluation.items = 4;
    plan.evaluation.every = 4;
    plan.evaluation.shown = 0;
    train(&plan, 9);
    let stages = [
        (TrainStage::Clip, "picture_of_caption_top_1"),
        (TrainStage::Prior, "cosine"),
        (TrainStage::Decoder, "loss_0"),
        (TrainStage::Upsampler(0), "loss_9"),
    ];
    for (stage, measure) in stages {
        let share = |share, out: &Path| {
            let mut plan = plan.clone();
            plan.run.model = Some(plan.model());
            plan.run.out = out.into();
            let mut heard = Vec::new();
            let mut observer = |done, all| {
                heard.push((done, all));
                ControlFlow::Continue(())
            };
            let found = training(plan).measure(stage, share, &mut observer).unwrap();
            (found, heard)
        };
        let (none, heard) = share((0, 2), out.path());
        assert!(none.is_none() && heard == [(1, 2), (2, 2)], "{stage:?}: {heard:?}");
        let (merged, heard) = share((1, 2), out.path());
        assert_eq!(heard, [(1, 1)], "{stage:?}");
        let alone = TempDir::new().unwrap();
        let (whole, _) = share((0, 1), alone.path());
        let (merged, whole) = (merged.unwrap().measures, whole.unwrap().measures);
        assert_eq!(merged, whole, "{stage:?}");
        assert_eq!(merged["loss"].n, 12, "{stage:?}");
        assert!(merged[measure].value.is_finite(), "{stage:?}");
        // the first part is what is measured in training
        let part =
            out.path().join("evaluation").join(stage.name()).join("part-00000-of-00003.json");
        let part: serde_json::Value = serde_json::from_slice(&fs::read(&part).unwrap()).unwrap();
        let part = part["measures"]["loss"]["value"].as_f64().unwrap();
        let lines = fs::read_to_string(out.path().join(stage.name()).join("evaluation.jsonl"));
        let seen = number(lines.unwrap().lines().last().unwrap(), "loss");
        // with weights of 11 bits, as the bundle has them
        assert!((part - seen).abs() < 2e-2 * seen, "{stage:?}: {part} and {seen}");
    }
    // parts of another plan, and damaged ones, are measured again
    let part = out.path().join("evaluation/prior/part-00001-of-00003.json");
    let measured = |plan: &Plan| {
        let mut heard = 0;
        let mut observer = |_, _| {
            heard += 1;
            ControlFlow::Continue(())
        };
        let found = training(plan.clone()).measure(TrainStage::Prior, (0, 1), &mut observer);
        (found.unwrap().unwrap().measures, heard)
    };
    let (before, heard) = measured(&plan);
    assert_eq!(heard, 0, "everything is there");
    let whole = fs::read(&part).unwrap();
    fs::write(&part, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(measured(&plan), (before.clone(), 3));
    assert_eq!(fs::read(&part).unwrap(), whole);
    plan.run.seed += 1;
    let (other, heard) = measured(&plan);
    assert!(heard == 3 && other != before);
    let nothing = &mut |_, _| ControlFlow::Continue(());
    plan.evaluation.paths.clear();
    refused(
        training(plan).measure(TrainStage::Prior, (0, 1), nothing),
        &["evaluation is nothing is held out, expected", "evaluation.paths"],
    );
}

/// A picture of a hundred million pixels is a picture.
#[test]
fn pictures_may_be_very_large() {
    let (data, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let large = image::GrayImage::from_fn(10_000, 10_000, |x, _| image::Luma([(x / 40) as u8]));
    large.save(data.path().join("large.png")).unwrap();
    fs::write(data.path().join("large.txt"), "from dark to light").unwrap();
    let training = training(plan(data.path(), out.path(), 1));
    let items = training.data.batch(0, 1, 32, unclip::train::Lesson::Mixed).unwrap();
    let mut pixels = vec![0.0; 3 * 32 * 32];
    items[0].draw(unclip::train::shapes::Region::whole(32), &mut pixels);
    assert_eq!(items[0].caption(), "from dark to light");
    // the mean of each column
    for (x, value) in pixels[..32].iter().enumerate() {
        let expected = (x as f32 + 0.5) / 32.0 * 250.0 / 127.5 - 1.0;
        assert!((value - expected).abs() < 0.02, "{value} and {expected} in column {x}");
    }
}

/// One picture is no lesson for CLIP, and fewer pictures than a step has items are seen again.
#[test]
fn few_pictures_are_enough_for_what_needs_no_others() {
    let (data, out) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    RgbImage::from_fn(40, 40, |x, y| Rgb([x as u8 * 6, y as u8 * 6, 9]))
        .save(data.path().join("only.png"))
        .unwrap();
    fs::write(data.path().join("only.txt"), "a slope").unwrap();
    let plan = plan(data.path(), out.path(), 2);
    let mut nothing = |_: &StepReport| ControlFlow::Continue(());
    refused(
        training(plan.clone()).train(TrainStage::Clip, &mut nothing),
        &["data is one picture, expected at least two"],
    );
    assert!(training(plan).train(TrainStage::Upsampler(0), &mut nothing).unwrap());
}

/// What is called like a lock may be somebody's.
#[cfg(unix)]
#[test]
fn a_lock_destroys_nothing() {
    let (data, out) = (pictures(), TempDir::new().unwrap());
    let plan = plan(data.path(), out.path(), 1);
    let mut nothing = |_: &StepReport| ControlFlow::Continue(());
    let (own, stage) = (out.path().join("own"), TrainStage::Upsampler(0));
    fs::write(&own, "precious").unwrap();
    fs::create_dir(out.path().join("upsampler.0")).unwrap();
    let lock = out.path().join("upsampler.0/lock");
    std::os::unix::fs::symlink(&own, &lock).unwrap();
    refused(training(plan.clone()).train(stage, &mut nothing), &["upsampler.0/lock"]);
    fs::remove_file(&lock).unwrap();
    fs::write(&lock, "precious").unwrap();
    training(plan).train(stage, &mut nothing).unwrap();
    assert_eq!(fs::read(&lock).unwrap(), b"precious");
    assert_eq!(fs::read(&own).unwrap(), b"precious");
}

/// A text tower of another CLIP, as a kill between two files may leave it.
#[test]
fn towers_of_two_clips_are_no_clip() {
    let (data, out) = (pictures(), TempDir::new().unwrap());
    let mut other = plan(data.path(), &out.path().join("other"), 1);
    other.run.seed = 7;
    let own = plan(data.path(), &out.path().join("own"), 1);
    let mut nothing = |_: &StepReport| ControlFlow::Continue(());
    for plan in [&own, &other] {
        training(plan.clone()).train(TrainStage::Clip, &mut nothing).unwrap();
    }
    let text = |plan: &Plan| plan.model().join("text_encoder");
    for file in ["config.json", "model.safetensors"] {
        fs::copy(text(&other).join(file), text(&own).join(file)).unwrap();
    }
    let mut without = own.clone();
    without.embeddings.enabled = false;
    refused(
        training(without.clone()).train(TrainStage::Prior, &mut nothing),
        &["CLIP of the text tower", "train the stage clip"],
    );
    // which is what helps
    training(own).train(TrainStage::Clip, &mut nothing).unwrap();
    training(without).train(TrainStage::Prior, &mut nothing).unwrap();
}

/// Two trainings of a stage would write over each other.
#[test]
fn a_folder_is_trained_in_once_at_a_time() {
    let (data, out) = (pictures(), TempDir::new().unwrap());
    let plan = plan(data.path(), out.path(), 2);
    let stage = TrainStage::Upsampler(0);
    let mut other = None;
    let mut observer = |_: &StepReport| {
        let mut nothing = |_: &StepReport| ControlFlow::Continue(());
        other.get_or_insert_with(|| training(plan.clone()).train(stage, &mut nothing));
        ControlFlow::Continue(())
    };
    assert!(training(plan.clone()).train(stage, &mut observer).unwrap());
    refused(other.unwrap(), &["upsampler.0, on which another training works", "run.out"]);
}

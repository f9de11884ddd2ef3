//! Training by the program: interrupted, resumed, and refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::own_pictures::pictures;
use crate::programs::Place;

/// Small networks and a few steps of every stage, with a checkpoint after each.
const SMALL: [&str; 19] = [
    "evaluation.every=4",
    "evaluation.held_out=0.2",
    "decoder.config.diffusion.steps=2",
    "clip.text.transformer.n_layers=1",
    "clip.image.transformer.n_layers=1",
    "prior.config.transformer.n_layers=1",
    "run.checkpoint_seconds=0",
    "clip.train.steps=6",
    "prior.train.steps=6",
    "decoder.train.steps=6",
    "upsampler.0.train.steps=6",
    "clip.train.batch=4",
    "prior.train.batch=4",
    "decoder.train.batch=4",
    "upsampler.0.train.batch=4",
    "clip.train.cooldown=0",
    "prior.train.cooldown=0",
    "decoder.train.cooldown=2",
    "upsampler.0.train.cooldown=0",
];

fn arguments<'a>(data: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let settings = SMALL.iter().flat_map(|setting| ["--set", setting]);
    [data, "--out", out].into_iter().chain(settings).chain(more.iter().copied()).collect()
}

/// Every file of weights in a bundle.
fn weights(bundle: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(bundle).unwrap() {
        let path = entry.unwrap().path().join("model.safetensors");
        if path.exists() {
            found.push((path.strip_prefix(bundle).unwrap().into(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_run_that_is_killed_ends_as_one_that_is_not() {
    let (place, data) = (Place::new(), pictures());
    let data = data.path().to_str().unwrap();
    let done = place.run("train", &arguments(data, "whole", &[]));
    assert_eq!(done.code, 0, "{:?}", done.err);
    assert_eq!(done.out.last().unwrap(), "whole/bundle");
    for moment in [150, 700, 400, 1100, 250] {
        let mut run = place.command("train", &arguments(data, "parts", &[])).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(moment));
        run.kill().unwrap();
        run.wait().unwrap();
    }
    let done = place.run("train", &arguments(data, "parts", &[]));
    assert_eq!(done.code, 0, "{:?}", done.err);
    let (whole, parts) =
        (weights(&place.path("whole/bundle")), weights(&place.path("parts/bundle")));
    assert_eq!(whole.len(), 5);
    for (whole, parts) in whole.iter().zip(&parts) {
        assert!(whole == parts, "{} is another", whole.0.display());
    }
    assert_eq!(whole.len(), parts.len());
    let made = place.run("text_to_image", &["color number 3", "--model", "parts/bundle"]);
    assert_eq!(made.code, 0, "{:?}", made.err);
}

/// Waits until a file has so many lines.
#[cfg(unix)]
fn wait_for_lines(path: &Path, lines: usize) {
    for _ in 0..600 {
        if fs::read_to_string(path).is_ok_and(|text| text.lines().count() >= lines) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{} does not grow", path.display());
}

#[cfg(unix)]
#[test]
fn a_run_that_is_asked_to_stop_saves_first() {
    let (place, data) = (Place::new(), pictures());
    let data = data.path().to_str().unwrap();
    let more = |out| {
        let own = ["--stage", "upsampler.0", "--set", "upsampler.0.train.steps=60"];
        arguments(data, out, &[&own[..], &["--set", "run.checkpoint_seconds=3600"]].concat())
            .into_iter()
            .map(String::from)
            .collect::<Vec<String>>()
    };
    let texts = |all: &'static str| more(all);
    let whole = texts("whole");
    let whole: Vec<&str> = whole.iter().map(String::as_str).collect();
    assert_eq!(place.run("train", &whole).code, 0);
    let parts = texts("parts");
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let run = place.command("train", &parts).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for_lines(&place.path("parts/upsampler.0/loss.jsonl"), 3);
    let asked = std::process::Command::new("kill").args(["-INT", &run.id().to_string()]).status();
    assert!(asked.unwrap().success());
    let stopped = run.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert_eq!(stopped.status.code(), Some(1), "{said}");
    assert!(said.contains("stopped in upsampler.0; what was done is saved"), "{said}");
    assert!(place.path("parts/upsampler.0/checkpoint.json").exists());
    assert_eq!(place.run("train", &parts).code, 0);
    let read = |run: &str| fs::read(place.path(run).join("bundle/upsampler.0/model.safetensors"));
    assert!(read("whole").unwrap() == read("parts").unwrap());
    let curve = |run: &str| {
        let text = fs::read_to_string(place.path(run).join("upsampler.0/loss.jsonl")).unwrap();
        let own = text.lines().map(|line| line.split(",\"seconds\"").next().unwrap().to_string());
        own.collect::<Vec<String>>()
    };
    assert_eq!(curve("whole"), curve("parts"));
}

#[test]
fn other_configurations_are_refused_or_named() {
    let (place, data) = (Place::new(), pictures());
    let data = data.path().to_str().unwrap();
    let first = ["--stage", "upsampler.0", "--set", "upsampler.0.train.steps=2"];
    assert_eq!(place.run("train", &arguments(data, "run", &first)).code, 0);
    let longer = ["--stage", "upsampler.0", "--set", "upsampler.0.train.steps=3"];
    let refused = place.run("train", &arguments(data, "run", &longer));
    assert_eq!(refused.code, 1);
    let said = refused.err;
    for part in ["run.toml", "upsampler.0.train.steps was 2, is 3", "--resume"] {
        assert!(said.contains(part), "{said} does not say {part}");
    }
    let longer = [&longer[..], &["--resume"]].concat();
    let resumed = place.run("train", &arguments(data, "run", &longer));
    assert_eq!(resumed.code, 0, "{:?}", resumed.err);
    let said = resumed.err;
    assert!(said.contains("changed: upsampler.0.train.steps was 2, is 3"), "{said}");
    // what is not said stays as it was
    let setting = "upsampler.0.train.steps=4";
    let more = ["--out", "run", "--resume", "--stage", "upsampler.0", "--set", setting];
    let resumed = place.run("train", &more);
    assert_eq!(resumed.code, 0, "{:?}", resumed.err);
    let changes: Vec<&str> = resumed.err.lines().filter(|line| line.contains("changed")).collect();
    assert_eq!(changes, ["note: changed: upsampler.0.train.steps was 3, is 4"]);
    // what a stage was trained with stays, and what is refused changes nothing
    let own = || fs::read_to_string(place.path("run/run.toml")).unwrap();
    let before = own();
    for (setting, expected) in [
        ("upsampler.0.config.residual=false", "the stage upsampler.0 is trained already"),
        ("upsampler.0.train.steps=1", "is at step 4, beyond the 1"),
        ("upsampler.0.train.batch=99999999", "at most 1048576"),
    ] {
        let more = ["--out", "run", "--resume", "--stage", "upsampler.0", "--set", setting];
        let refused = place.run("train", &more);
        assert!(refused.code == 1 && refused.err.contains(expected), "{}", refused.err);
        assert_eq!(own(), before, "{setting}");
    }
    let other = ["--out", "run", "--evaluate", "--set", "decoder.config.diffusion.steps=3"];
    let refused = place.run("train", &other);
    assert!(refused.err.contains("measure it with its own"), "{}", refused.err);
    for (arguments, expected) in [
        (vec!["--out", "run"], "a run is there, and no pictures are given"),
        (vec!["--out", "x"], "data.paths is no path"),
        (vec!["nothing", "--out", "x"], "nothing"),
        (
            vec![data, "--stage", "ar_prior"],
            "--stage is ar_prior, expected clip, embeddings, prior",
        ),
        (vec![data, "--config", "none.toml"], "none.toml"),
        #[cfg(unix)]
        (vec![data, "--config", "/dev/zero"], "/dev/zero"),
        (vec![data, "--set", "prior.train.step=3"], "step"),
        (vec![data, "--preset", "shapes"], "data.paths"),
    ] {
        let refused = place.run("train", &arguments);
        assert_ne!(refused.code, 0, "{arguments:?}");
        let said = refused.err;
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
    assert!(!place.path("x").exists());
}

/// A write that fails halfway, here by the system's limit on the size of a file: the checkpoint before stays, and
/// the run goes on from it.
#[cfg(target_os = "linux")]
#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_one_before() {
    let (place, data) = (Place::new(), pictures());
    let data = data.path().to_str().unwrap();
    let more = ["--stage", "upsampler.0", "--set", "upsampler.0.train.steps=4"];
    assert_eq!(place.run("train", &arguments(data, "whole", &more)).code, 0);
    // one step, and a checkpoint
    let first = ["--stage", "upsampler.0", "--set", "upsampler.0.train.steps=4", "--minutes", "0"];
    assert_eq!(place.run("train", &arguments(data, "full", &first)).code, 0);
    let pointer = || fs::read_to_string(place.path("full/upsampler.0/checkpoint.json")).unwrap();
    let before = pointer();
    // no file may be longer than 64 kilobytes
    let limit = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\"";
    let own = place.command("train", &arguments(data, "full", &more));
    let mut command = std::process::Command::new("bash");
    command.args(["-c", limit]).arg(own.get_program()).args(own.get_args());
    let full = command.current_dir(own.get_current_dir().unwrap()).output().unwrap();
    let said = String::from_utf8_lossy(&full.stderr).into_owned();
    assert_eq!(full.status.code(), Some(1), "{said}");
    for part in ["model.bpk", "cannot be written", "what was there before stays in force"] {
        assert!(said.contains(part), "{said} does not say {part}");
    }
    assert_eq!(pointer(), before);
    let steps = fs::read_dir(place.path("full/upsampler.0")).unwrap().flatten();
    let steps = steps.filter(|it| it.file_name().to_string_lossy().starts_with("step-"));
    assert_eq!(steps.count(), 1, "nothing is left of the other");
    assert_eq!(place.run("train", &arguments(data, "full", &more)).code, 0);
    let read = |run: &str| fs::read(place.path(run).join("bundle/upsampler.0/model.safetensors"));
    assert!(read("whole").unwrap() == read("full").unwrap());
}

#[test]
fn shares_of_an_evaluation_are_merged() {
    let (place, data) = (Place::new(), pictures());
    let data = data.path().to_str().unwrap();
    let own = ["--stage", "upsampler.0", "--set", "evaluation.items=1"];
    let of = |more: &[&'static str]| arguments(data, "run", &[&own[..], more].concat());
    assert_eq!(place.run("train", &of(&[])).code, 0);
    let first = place.run("train", &of(&["--evaluate", "--shard", "0/2"]));
    assert_eq!((first.code, first.out.len()), (0, 0), "{:?}", first.err);
    assert!(first.err.contains("parts of other machines are missing"), "{:?}", first.err);
    assert_eq!(place.run("train", &of(&["--evaluate", "--shard", "1/2"])).code, 0);
    let parts = || {
        let parts = fs::read_dir(place.path("run/evaluation/upsampler.0")).unwrap().flatten();
        let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        let mut parts: Vec<_> = parts.map(|it| (it.path(), time(&it.path()))).collect();
        parts.sort();
        parts
    };
    let before = parts();
    // the configuration is that of the run
    let merged = place.run("train", &["--out", "run", "--evaluate", "--stage", "upsampler.0"]);
    assert!(before.len() > 1 && before == parts());
    assert!(
        merged.out.iter().any(|line| line.starts_with("upsampler.0 loss 0.")),
        "{:?}",
        merged.out
    );
    let unasked = place.run("train", &of(&["--shard", "0/2"]));
    assert!(unasked.err.contains("--stage embeddings or --evaluate"), "{:?}", unasked.err);
}

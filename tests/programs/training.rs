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
    for (arguments, expected) in [
        (vec!["--out", "x"], "data.paths is no path"),
        (vec!["nothing", "--out", "x"], "nothing"),
        (
            vec![data, "--stage", "ar_prior"],
            "--stage is ar_prior, expected clip, embeddings, prior",
        ),
        (vec![data, "--config", "none.toml"], "none.toml"),
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

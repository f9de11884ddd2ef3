//! Training by the program: interrupted, resumed, and refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::own_pictures::pictures;
use crate::programs::Place;

/// Small networks and a few steps of every stage, with a checkpoint after each.
const SMALL: [&str; 16] = [
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

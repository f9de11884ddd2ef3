//! A second folder of each family, whose sizes differ from the published ones wherever a configuration
//! can say so: the numbers that diffusers gives. `tools/reference/bare_fixtures.py` makes the folders,
//! noise and traces; weights follow from their names.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};
use tempfile::TempDir;
use unclip::unclip_nn::checkpoint::Weights;
use unclip::{
    Bundle, GenerateOptions, Precision, RecordedNoise, Residency, StageOptions, UnClip, device,
};

use crate::hashed::write_weights;
use crate::kandinsky::{FLEX, PROMPTS};
use crate::karlo_write::files;
use crate::reference::{Saved, Tolerance};

fn fixture(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(family).join("odd")
}

/// The folder with its weights.
fn folder(family: &str) -> TempDir {
    let (folder, root) = (TempDir::new().unwrap(), fixture(family));
    let bare = root.join("model");
    for file in files(&bare) {
        let path = folder.path().join(&file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(bare.join(file), path).unwrap();
    }
    let shapes = fs::read(root.join("shapes.json")).unwrap();
    let shapes: Map<String, Value> = serde_json::from_slice(&shapes).unwrap();
    for (name, shapes) in &shapes {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_weights(&path, name, shapes.as_object().unwrap());
    }
    folder
}

/// Compares a run of captions, and the same of the folder written back.
fn agrees_with_diffusers(family: &str, layout: &str, tolerance: Tolerance) {
    let (model, flex) = (folder(family), device("flex").unwrap());
    let noise = RecordedNoise::open(fixture(family).join("noise.safetensors")).unwrap();
    let decoder = StageOptions::default().with_steps(4).with_guidance_scale(2.0);
    let prior = StageOptions::default().with_steps(4).with_guidance_scale(3.0);
    let options = GenerateOptions::default().with_noise(Arc::new(noise));
    let options = options.with_decoder(decoder).with_prior(prior);
    let run = |bundle: Bundle| {
        let unclip = UnClip::new(bundle, &flex, Residency::OneByOne).unwrap();
        unclip.text_to_images(&PROMPTS, &options).unwrap().trace
    };
    let bundle = Bundle::open(model.path()).unwrap();
    let out = model.path().join("again");
    bundle.save(layout, &out, Precision::F32, &flex).unwrap();
    let (trace, again) = (run(bundle), run(Bundle::open(&out).unwrap()));
    let path = fixture(family).join("trace.safetensors");
    let keys = Weights::open(&path).unwrap().keys();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    Saved::of(&trace).agrees_in(&path, &keys, tolerance);
    let exact = Tolerance { clip: 0.0, prior: 0.0, latent: 0.0, call: 0.0, picture: [0.0; 2] };
    Saved::of(&again).agrees_with(&Saved::of(&trace), "written back", exact);
}

#[test]
fn kandinsky_2_2_gives_the_numbers_of_diffusers() {
    agrees_with_diffusers("kandinsky", "kandinsky", FLEX);
}

#[test]
fn kandinsky_2_1_gives_the_numbers_of_diffusers() {
    agrees_with_diffusers("kandinsky21", "kandinsky", FLEX);
}

#[test]
fn stable_unclip_gives_the_numbers_of_diffusers() {
    agrees_with_diffusers("stable", "stable", FLEX);
}

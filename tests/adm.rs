//! ADM's folders, whose captions are classes: the numbers of ADM's own code.
//! `tools/reference/adm_fixtures.py` makes traces and shapes; weights and noise follow from their names.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Tensor;
use serde_json::{Map, Value};
use tempfile::TempDir;
use unclip::decoder::Condition;
use unclip::unclip_core::Network;
use unclip::unclip_nn::checkpoint::Weights;
use unclip::upsample::LowRes;
use unclip::{
    Ability, Bundle, GenerateOptions, Precision, RecordedNoise, Residency, StageOptions, Subject,
    UnClip, device,
};

use crate::bad_karlo::load;
use crate::glide::{FLEX, saved, thinned};
use crate::hashed::{drawn, write_noise, write_weights};
use crate::reference::{Calls, Tolerance};
use crate::support::refused;

pub(crate) const OF_CLASSES: [&str; 3] =
    ["64x64_diffusion", "64x64_classifier", "64_256_upsampler"];
const OF_ONE_KIND: [&str; 2] = ["128x128_diffusion", "128x128_classifier"];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adm").join(name)
}

fn shapes(name: &str) -> Map<String, Value> {
    let bytes = fs::read(fixture("shapes.json")).unwrap();
    let all: Map<String, Value> = serde_json::from_slice(&bytes).unwrap();
    all[name].as_object().unwrap().clone()
}

/// A folder with some of ADM's files.
pub(crate) fn folder(names: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in names {
        write_weights(&folder.path().join(format!("{name}.safetensors")), name, &shapes(name));
    }
    folder
}

fn ready(bundle: Bundle, name: &str) -> UnClip {
    UnClip::new(bundle, &device(name).unwrap(), Residency::OneByOne).unwrap()
}

fn steps(steps: usize) -> StageOptions {
    StageOptions::default().with_steps(steps)
}

/// The reference's steps, with the noise of seed 0, which is written beside the model.
fn options(model: &TempDir, rows: usize, side: usize, scale: f64) -> GenerateOptions {
    let path = model.path().join(format!("noise-{rows}.safetensors"));
    let (small, large) = ([rows, 3, side, side], [rows, 3, 256, 256]);
    let mut stages: Vec<(&str, usize, &[usize])> = vec![("decoder", 2, &small)];
    let mut options = GenerateOptions::default().with_classifier_scale(scale);
    if side == 64 {
        stages.push(("upsampler.0", 1, &large));
        options = options.with_upsampler(steps(2));
    }
    write_noise(&path, 0, &stages);
    options.with_noise(Arc::new(RecordedNoise::open(path).unwrap())).with_decoder(steps(3))
}

fn trace(name: &str) -> PathBuf {
    fixture(&format!("{name}.trace.safetensors"))
}

/// Compares the traces: led by a classifier and not, of classes and of one kind.
pub(crate) fn agrees_with_the_reference(device: &str, tolerance: Tolerance) {
    let model = folder(&OF_CLASSES);
    let unclip = ready(Bundle::open(model.path()).unwrap(), device);
    let both = ["decoder.image", "upsampler.0.image"];
    let made = unclip.text_to_image("4", &options(&model, 1, 64, 0.0)).unwrap();
    saved(&made).agrees(&trace("plain"), &both, tolerance);
    if cfg!(feature = "autodiff") {
        let made = unclip.text_to_images(&["3", "0"], &options(&model, 2, 64, 1.5)).unwrap();
        saved(&made).agrees(&trace("guided"), &both, tolerance);
        let model = folder(&OF_ONE_KIND);
        let unclip = ready(Bundle::open(model.path()).unwrap(), device);
        let made = unclip.text_to_image("2", &options(&model, 1, 128, 2.0)).unwrap();
        saved(&made).agrees(&trace("odd"), &both[..1], tolerance);
    }
}

#[test]
fn flex_gives_the_numbers_of_adm() {
    agrees_with_the_reference("flex", FLEX);
}

/// Compares single calls of the U-Nets and the classifier.
pub(crate) fn calls_agree_with_the_reference(device_name: &str, tolerance: Tolerance) {
    let model = folder(&OF_CLASSES);
    let bundle = Bundle::open(model.path()).unwrap();
    let file = Weights::open(&fixture("calls.safetensors")).unwrap();
    let calls = Calls { file, device: device(device_name).unwrap() };
    let device = &calls.device;
    let timesteps = Tensor::<1>::full([1], 500.0, device);
    let small = drawn("call.small", [1, 3, 64, 64], device);
    let decoder = bundle.decoder.load(device).unwrap().bind(&Condition::of_classes(vec![2]));
    let output = decoder.forward(small.clone(), timesteps.clone());
    calls.agree("decoder.output", thinned(&output, 2), tolerance);
    let classifier = bundle.classifier.as_ref().unwrap().load(device).unwrap();
    let output = classifier.forward(small.clone(), timesteps.clone());
    calls.agree("classifier.output", output, tolerance);
    let upsampler = bundle.upsamplers[0].load(device).unwrap();
    let large = drawn("call.large", [1, 3, 256, 256], device);
    let low_res = LowRes { classes: Some(vec![2]), ..small.into() };
    let output = upsampler.bind(&low_res).forward(large, timesteps);
    calls.agree("upsampler.0.output", thinned(&output, 8), tolerance);
}

#[test]
fn flex_gives_the_calls_of_adm() {
    calls_agree_with_the_reference("flex", FLEX);
}

#[test]
fn settings_are_those_of_its_readme() {
    let model = folder(&OF_CLASSES);
    let bundle = Bundle::open(model.path()).unwrap();
    assert_eq!((bundle.small_size(), bundle.image_size(), bundle.classes()), (64, 256, Some(5)));
    let settings = GenerateOptions::default().resolve(&bundle).unwrap();
    assert_eq!((settings.decoder.steps, settings.decoder.guidance_scale), (250, 1.0));
    assert_eq!(settings.upsamplers[0].steps, 250);
    assert_eq!(settings.classifier_scale, Some(1.0));
    assert!(bundle.can(Ability::ClassToImage) && !bundle.can(Ability::TextToImage));
    assert_eq!(bundle.can(Ability::ClassifierGuidance), cfg!(feature = "autodiff"));
    let model = folder(&OF_ONE_KIND);
    let bundle = Bundle::open(model.path()).unwrap();
    assert_eq!((bundle.image_size(), bundle.classes()), (128, Some(3)));
    assert_eq!(bundle.classifier.as_ref().unwrap().config().scale, 0.5);
    assert!(bundle.can(Ability::Unconditional));
    assert_eq!(bundle.can(Ability::ClassToImage), cfg!(feature = "autodiff"));
    let model = folder(&OF_ONE_KIND[..1]);
    let bundle = Bundle::open(model.path()).unwrap();
    assert_eq!(bundle.abilities(), [Ability::Unconditional]);
}

/// A class is a caption: its number, or its name where there are names.
#[test]
fn classes_have_numbers_and_names() {
    let model = folder(&OF_CLASSES);
    let bundle = Bundle::open(model.path()).unwrap();
    assert_eq!(bundle.class_of(" 3 ").unwrap(), Some(3));
    assert_eq!(bundle.class_of("003").unwrap(), Some(3));
    for other in ["5", "-1", "dog", "3.0", ""] {
        let words = [format!("class is {other:?}"), "the number of a class, 0 to 4".into()];
        refused(bundle.class_of(other), &[&words[0], &words[1]]);
    }
    let names = model.path().join("classes.txt");
    fs::write(&names, "\u{feff}cat\r\ndog, hound\ncow\nhen, hound\nOx\n").unwrap();
    let bundle = Bundle::open(model.path()).unwrap();
    refused(bundle.class_of("hound"), &["one of the classes of this name", "[1, 3]"]);
    assert_eq!(bundle.class_of(&bundle.class_names[1]).unwrap(), Some(1));
    let numbers = ["Cat", "dog", "ox", "2"].map(|name| bundle.class_of(name).unwrap().unwrap());
    assert_eq!(numbers, [0, 1, 4, 2]);
    refused(bundle.class_of("goat"), &["class is \"goat\"", "0 to 4, or its name"]);
    for (text, words) in [
        ("cat\ndog\n", ["number of names in classes.txt is 2", "expected 5, one for each class"]),
        ("cat\n\ncow\nhen\nox\n", ["line 2 is empty", "classes.txt"]),
        ("", ["an empty file", "a name for each class"]),
    ] {
        fs::write(&names, text).unwrap();
        refused(Bundle::open(model.path()), &words);
    }
    // of one kind there is nothing to choose
    let model = folder(&OF_ONE_KIND[..1]);
    let bundle = Bundle::open(model.path()).unwrap();
    assert_eq!(bundle.class_of("").unwrap(), None);
    refused(bundle.class_of("0"), &["draws things of one kind"]);
}

/// A picture of a class can be edited by classes, made again from its recipe, and none of it needs
/// a caption's tower.
#[test]
fn classes_stand_wherever_captions_do() {
    let model = folder(&OF_CLASSES);
    fs::write(model.path().join("classes.txt"), "cat\ndog\ncow\nhen\nox\n").unwrap();
    let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
    let plain = GenerateOptions::default().with_decoder(steps(2)).with_n(2).with_seed(5);
    let scale = if cfg!(feature = "autodiff") { 1.0 } else { 0.0 };
    let plain = plain.with_upsampler(steps(1)).with_classifier_scale(scale);
    let made = unclip.text_to_images(&["cat", "1"], &plain).unwrap();
    // a name is that of a file, which may change
    assert_eq!(made.pictures[0].recipe.prompt, "0");
    let pictures = made.images();
    assert!(pictures.len() == 4 && pictures[0] != pictures[2]);
    let recipe = &made.pictures[3].recipe;
    recipe.check_model(unclip.bundle()).unwrap();
    let again = unclip.text_to_image(&recipe.prompt, &recipe.options()).unwrap();
    assert_eq!(again.images()[0], pictures[3]);
    let one = plain.clone().with_n(1);
    let ox = unclip.image_to_image(&pictures[0], 0.5, Subject::Caption("ox"), &one).unwrap();
    assert_ne!(ox.images()[0], pictures[0]);
    let out = model.path().join("native");
    unclip.bundle().save("native", &out, Precision::F32, &Default::default()).unwrap();
    let native = ready(Bundle::open(&out).unwrap(), "flex");
    assert_eq!(native.bundle().class_names, unclip.bundle().class_names);
    assert!(native.bundle().classifier.is_some());
    assert_eq!(native.text_to_images(&["cat", "dog"], &plain).unwrap().images(), pictures);
}

/// Driven by hand, what is not known is an error and no panic.
#[test]
fn classes_are_checked_where_stages_are_driven_by_hand() {
    let model = folder(&OF_CLASSES);
    let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
    let options = GenerateOptions::default().with_decoder(steps(1)).with_upsampler(steps(1));
    let settings = options.resolve(unclip.bundle()).unwrap();
    let decode = |condition: Condition| unclip.run(&[1]).decode(&condition, &settings.decoder);
    refused(decode(Condition::of_classes(vec![5])), &["is 5, expected less than 5"]);
    refused(decode(Condition::of_classes(vec![1, 2])), &["is 2, expected 1, one for each seed"]);
    refused(decode(Condition::nothing(1)), &["classes of the condition is absent"]);
    let mut run = unclip.run(&[1]);
    let small = run.decode(&Condition::of_classes(vec![4]), &settings.decoder).unwrap();
    let large = run.upsample(small.clone(), &settings.upsamplers).unwrap();
    assert_eq!(large.dims(), [1, 3, 256, 256]);
    let other = unclip.run(&[1]).upsample(small, &settings.upsamplers);
    refused(other, &["classes of the upsampler is absent"]);
    refused(unclip.run(&[1]).condition_of::<&str>(&[], 1), &["captions is 0"]);
}

#[test]
fn what_it_cannot_do_is_refused() {
    let model = folder(&OF_CLASSES);
    let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
    let plain = GenerateOptions::default().with_classifier_scale(0.0);
    let draw = |options: &GenerateOptions| unclip.text_to_image("1", options);
    let guided = StageOptions::default().with_guidance_scale(2.0);
    refused(draw(&plain.clone().with_decoder(guided)), &["decoder guidance is 2", "classifier"]);
    refused(draw(&plain.clone().with_negative_prompt("2")), &["negative prompt is \"2\""]);
    refused(draw(&plain.clone().with_prior(steps(2))), &["prior options", "no image embedding"]);
    refused(draw(&plain.clone().with_classifier_scale(-1.0)), &["classifier scale is -1"]);
    refused(unclip.text_to_image("a cat", &plain), &["class is \"a cat\""]);
    let picture = image::RgbImage::new(8, 8);
    refused(
        unclip.image_to_image(&picture, 0.5, Subject::Picture(&picture), &plain),
        &["without image_encoder", "captions or classes alone"],
    );
    refused(
        unclip.image_variation(std::slice::from_ref(&picture), &plain),
        &["without image_encoder", "captions or classes alone"],
    );
    refused(unclip.embed_texts(&["1"]), &["without prior_text_encoder"]);
    for layout in ["diffusers", "kandinsky", "stable"] {
        let out = model.path().join(layout);
        let saved = unclip.bundle().save(layout, &out, Precision::F32, &Default::default());
        refused(saved, &["layout to write", layout, "native"]);
        assert!(!out.exists(), "{layout}");
    }
    let model = folder(&OF_CLASSES[..1]);
    let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
    let asked = plain.clone().with_classifier_scale(1.0);
    refused(unclip.text_to_image("1", &asked), &["has no classifier"]);
    // a class that nothing would draw
    let model = folder(&OF_ONE_KIND);
    let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
    refused(unclip.text_to_image("1", &plain), &["class is \"1\"", "no classifier leads it"]);
    let asked = plain.clone().with_classifier_scale(1.0);
    refused(unclip.text_to_image("", &asked), &["classifier scale is 1", "no class"]);
    refused(unclip.text_to_images(&["1", ""], &plain), &["some with a class, some without"]);
    let one = plain.clone().with_decoder(steps(1));
    let made = unclip.text_to_image("", &one).unwrap();
    assert!(made.pictures[0].recipe.settings.classifier_scale.is_none());
}

/// Files that do not make one model are refused by name.
#[test]
fn damaged_folders_are_refused() {
    let open = |names: &[&str]| Bundle::open(folder(names).path());
    refused(open(&OF_CLASSES[2..]), &["an upsampler alone", "64x64_diffusion"]);
    refused(open(&["64x64_diffusion", "128x128_diffusion"]), &["one of them"]);
    refused(open(&["128x128_diffusion", "64_256_upsampler"]), &["upsampler", "128 pixels"]);
    refused(
        open(&["128x128_diffusion", "64x64_classifier"]),
        &["classifier is 64x64_classifier", "128x128_classifier is that of 128x128_diffusion"],
    );
    let edited = |name: &str, edit: fn(&mut Map<String, Value>)| {
        let model = folder(&OF_CLASSES);
        let mut shapes = shapes(name);
        edit(&mut shapes);
        write_weights(&model.path().join(format!("{name}.safetensors")), name, &shapes);
        load(model.path())
    };
    refused(
        edited(OF_CLASSES[0], |it| {
            drop(it.insert("label_emb.weight".into(), [6, 128].as_slice().into()))
        }),
        &["classes is 6 in one and 5 in the other"],
    );
    refused(
        edited(OF_CLASSES[1], |it| drop(it.remove("out.2.qkv_proj.bias"))),
        &["3 missing: pool.to_q.bias"],
    );
    refused(
        edited(OF_CLASSES[1], |it| {
            drop(it.insert("out.2.positional_embedding".into(), [128, 30].as_slice().into()));
        }),
        &["out.2.positional_embedding", "30 positions"],
    );
    refused(
        edited(OF_CLASSES[0], |it| drop(it.insert("other".into(), [3].as_slice().into()))),
        &["other"],
    );
    #[cfg(unix)]
    for (name, words) in
        [("64x64_classifier.safetensors", "64x64_classifier"), ("classes.txt", "classes.txt")]
    {
        let model = folder(&OF_CLASSES);
        let path = model.path().join(name);
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink("../nowhere", &path).unwrap();
        refused(Bundle::open(model.path()), &[words]);
    }
    let model = folder(&OF_CLASSES);
    let pickle = model.path().join("64x64_classifier.pt");
    fs::remove_file(model.path().join("64x64_classifier.safetensors")).unwrap();
    fs::write(&pickle, b"\x80\x02}q\x00.").unwrap();
    refused(Bundle::open(model.path()), &["64x64_classifier.pt", "pickle"]);
}

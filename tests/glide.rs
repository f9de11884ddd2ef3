//! GLIDE's folders: the numbers of GLIDE's own code. `tools/reference/glide_fixtures.py` makes traces,
//! tokens and shapes; weights and noise follow from their names.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::{Int, Tensor};
use image::imageops::crop_imm;
use image::{GrayImage, Luma};
use serde_json::{Map, Value};
use tempfile::TempDir;
use unclip::clip::{Padding, Tokenizer, TokenizerOptions};
use unclip::decoder::{Condition, Control};
use unclip::unclip_core::Network;
use unclip::unclip_nn::checkpoint::Weights;
use unclip::upsample::LowRes;
use unclip::{
    Ability, Bundle, GenerateOptions, Generated, OpenOptions, Precision, RecordedNoise, Residency,
    StageOptions, Subject, TextReader, UnClip, device, read_picture,
};

use crate::bad_karlo::load;
use crate::hashed::{drawn, write_noise, write_weights};
use crate::kandinsky::PROMPTS;
use crate::reference::{Calls, Saved, Tolerance};
use crate::support::refused;

/// Pictures of random networks saturate, and what the upsampler reads is rounded to 8 bits: the
/// reference's own pictures move as much when its weights move by one part in a million.
pub(crate) const FLEX: Tolerance =
    Tolerance { clip: 1e-4, prior: 1e-4, latent: 1e-4, call: 1e-4, picture: [1e-5, 1e-2] };

const KEYS: [&str; 8] = [
    "text_encoder.pooled",
    "text_encoder.tokens",
    "text_encoder.mask",
    "upsampler_text_encoder.0.pooled",
    "upsampler_text_encoder.0.tokens",
    "upsampler_text_encoder.0.mask",
    "decoder.image",
    "upsampler.0.image",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/glide").join(name)
}

fn json(name: &str) -> Map<String, Value> {
    serde_json::from_slice(&fs::read(fixture(name)).unwrap()).unwrap()
}

/// A folder with some of GLIDE's files.
pub(crate) fn folder(names: &[&str]) -> TempDir {
    let folder = TempDir::new().unwrap();
    let tokenizer = folder.path().join("tokenizer");
    fs::create_dir(&tokenizer).unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(fixture("tokenizer").join(name), tokenizer.join(name)).unwrap();
    }
    let shapes = json("shapes.json");
    for name in names {
        let path = folder.path().join(format!("{name}.safetensors"));
        write_weights(&path, name, shapes[*name].as_object().unwrap());
    }
    folder
}

pub(crate) fn drawing() -> TempDir {
    folder(&["base", "upsample"])
}

fn inpainting() -> TempDir {
    folder(&["base_inpaint", "upsample_inpaint"])
}

fn ready(bundle: Bundle, name: &str) -> UnClip {
    UnClip::new(bundle, &device(name).unwrap(), Residency::OneByOne).unwrap()
}

fn steps(steps: usize) -> StageOptions {
    StageOptions::default().with_steps(steps)
}

/// The reference's three and two steps, with the noise of seed 0, which is written beside the model.
fn options(model: &TempDir, rows: usize, guidance: f64) -> GenerateOptions {
    let path = model.path().join(format!("noise-{rows}.safetensors"));
    let (small, large) = ([rows, 3, 64, 64], [rows, 3, 256, 256]);
    let stages: [(&str, usize, &[usize]); 2] = [("decoder", 2, &small), ("upsampler.0", 1, &large)];
    write_noise(&path, 0, &stages);
    GenerateOptions::default()
        .with_noise(Arc::new(RecordedNoise::open(path).unwrap()))
        .with_decoder(steps(3).with_guidance_scale(guidance))
        .with_upsampler(steps(2))
}

/// One of `stride` pixels, and of `stride` rows.
pub(crate) fn thinned(pictures: &Tensor<4>, stride: usize) -> Tensor<4> {
    let side = pictures.dims()[3];
    let places = Tensor::<1, Int>::arange_step(0..side as i64, stride, &pictures.device());
    pictures.clone().select(2, places.clone()).select(3, places)
}

/// What was made, with the part of its pictures that the fixtures have.
pub(crate) fn saved(made: &Generated) -> Saved {
    let mut trace = made.trace.clone();
    trace.decoder = trace.decoder.map(|it| thinned(&it, 2));
    trace.upsamplers = trace.upsamplers.iter().map(|it| thinned(it, 8)).collect();
    Saved::of(&trace)
}

fn trace(name: &str) -> PathBuf {
    fixture(&format!("{name}.trace.safetensors"))
}

/// Compares the traces of captions, with guidance and without.
pub(crate) fn agrees_with_the_reference(device: &str, tolerance: Tolerance) {
    let model = drawing();
    let unclip = ready(Bundle::open(model.path()).unwrap(), device);
    for (name, rows, guidance) in [("text", 2, 3.0), ("plain", 1, 1.0)] {
        let made = unclip.text_to_images(&PROMPTS[..rows], &options(&model, rows, guidance));
        saved(&made.unwrap()).agrees(&trace(name), &KEYS, tolerance);
    }
}

#[test]
fn flex_gives_the_numbers_of_glide() {
    agrees_with_the_reference("flex", FLEX);
}

/// Compares single calls of both U-Nets.
pub(crate) fn calls_agree_with_the_reference(device_name: &str, tolerance: Tolerance) {
    let model = drawing();
    let bundle = Bundle::open(model.path()).unwrap();
    let file = Weights::open(&fixture("calls.safetensors")).unwrap();
    let calls = Calls { file, device: device(device_name).unwrap() };
    let device = &calls.device;
    let TextReader { tokenizer, encoder, .. } = bundle.text().unwrap();
    let tokens = tokenizer.encode(&PROMPTS[..1]);
    let timesteps = Tensor::<1>::full([1], 500.0, device);
    let small = drawn("call.small", [1, 3, 64, 64], device);
    let text = encoder.load(device).unwrap().forward(&tokens, device);
    let decoder = bundle.decoder.load(device).unwrap().bind(&Condition::of_caption(text));
    let output = decoder.forward(small.clone(), timesteps.clone());
    calls.agree("decoder.output", thinned(&output, 2), tolerance);
    let tower = bundle.upsampler_texts[0].as_ref().unwrap().load(device).unwrap();
    let text = Some(tower.forward(&tokens, device));
    let upsampler = bundle.upsamplers[0].load(device).unwrap();
    let large = drawn("call.large", [1, 3, 256, 256], device);
    let output = upsampler.bind(&LowRes { text, ..small.into() }).forward(large, timesteps);
    calls.agree("upsampler.0.output", thinned(&output, 8), tolerance);
}

#[test]
fn flex_gives_the_calls_of_glide() {
    calls_agree_with_the_reference("flex", FLEX);
}

#[test]
fn an_inpainting_has_the_numbers_of_glide() {
    let model = inpainting();
    let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
    let bundle = unclip.bundle();
    assert_eq!(bundle.control(), Some(Control::Kept));
    assert!(bundle.can(Ability::TrainedInpainting) && bundle.can(Ability::TextToImage));
    let in_hole = |x: u32, y: u32| (6..12).contains(&x) && (4..10).contains(&y);
    let mask = GrayImage::from_fn(16, 16, |x, y| Luma([if in_hole(x, y) { 255 } else { 0 }]));
    let wide = read_picture(fixture("../karlo/wide.png")).unwrap();
    let picture = crop_imm(&wide, 0, 0, 16, 16).to_image();
    let subject = Subject::Caption(PROMPTS[0]);
    let made = unclip.inpaint((&picture, &mask), subject, None, &options(&model, 1, 5.0)).unwrap();
    let ends = ["decoder.image", "upsampler.0.image"];
    saved(&made).agrees_in(&trace("inpaint"), &ends, FLEX);
    let kept = made.pictures[0].image.enumerate_pixels();
    assert!(
        kept.filter(|(x, y, _)| !in_hole(*x, *y)).all(|(x, y, it)| it == picture.get_pixel(x, y))
    );
    // where nothing is kept, it draws all
    let made = unclip.text_to_image(PROMPTS[0], &options(&model, 1, 1.0)).unwrap();
    saved(&made).agrees(&trace("nothing"), &KEYS, FLEX);
}

/// GLIDE's tokens of captions in many scripts.
#[test]
fn captions_have_the_tokens_of_glide() {
    let padding = Some(Padding::Learned);
    let reading = TokenizerOptions { context_length: 12, padding };
    let tokenizer = Tokenizer::from_folder(&fixture("tokenizer"), reading).unwrap();
    for case in json("tokens.json")["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let tokens = tokenizer.encode(&[text]);
        let expected: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokens.ids(0), expected, "{text:?}");
        assert_eq!(tokens.len(0) as u64, case["len"].as_u64().unwrap(), "{text:?}");
    }
    let long = "the cat and ".repeat(40);
    assert!(long.ends_with(tokenizer.encode(&[&long]).dropped(0).unwrap()));
}

#[test]
fn settings_are_those_of_the_notebooks() {
    let model = drawing();
    let bundle = Bundle::open(model.path()).unwrap();
    assert_eq!((bundle.small_size(), bundle.image_size()), (64, 256));
    let settings = GenerateOptions::default().resolve(&bundle).unwrap();
    assert!(settings.prior.is_none());
    let StageOptions { steps, guidance_scale, .. } = settings.decoder.clone().into();
    assert_eq!((steps, guidance_scale), (Some(100), Some(3.0)));
    let upsampler = &settings.upsamplers[0];
    assert_eq!((upsampler.steps, upsampler.sampler.to_string().as_str()), (27, "ddim"));
    assert!(upsampler.spacing.to_string().ends_with(",599,600,799,800,997"));
    // another number of steps replaces the list
    let fewer = GenerateOptions::default().with_upsampler(self::steps(5));
    assert_eq!(fewer.resolve(&bundle).unwrap().upsamplers[0].spacing.to_string(), "even");
    let model = inpainting();
    let settings =
        GenerateOptions::default().resolve(&Bundle::open(model.path()).unwrap()).unwrap();
    assert_eq!(settings.decoder.guidance_scale, 5.0);
    assert_eq!(settings.upsamplers[0].sampler.to_string(), "ddpm");
}

/// In this project's own layout it is the same model; no other layout holds it.
#[test]
fn it_is_converted() {
    let flex = device("flex").unwrap();
    for model in [drawing(), inpainting()] {
        let bundle = Bundle::open(model.path()).unwrap();
        let out = model.path().join("native");
        bundle.save("native", &out, Precision::F32, &flex).unwrap();
        assert!(out.join("upsampler_text_encoder.0/model.safetensors").exists());
        for layout in ["diffusers", "kandinsky", "stable"] {
            let other = model.path().join(layout);
            let saved = bundle.save(layout, &other, Precision::F32, &flex);
            refused(saved, &["layout to write", layout, "native"]);
            assert!(!other.exists());
        }
        let options = GenerateOptions::default()
            .with_decoder(steps(2))
            .with_upsampler(steps(1).with_sampler(unclip::Ddim { eta: 0.0 }));
        let picture = |bundle: Bundle| {
            ready(bundle, "flex").text_to_image("a cat", &options).unwrap().images()
        };
        assert_eq!(picture(Bundle::open(&out).unwrap()), picture(bundle));
        let padding = OpenOptions { padding: Some(Padding::Zero), ..OpenOptions::default() };
        refused(Bundle::open_with(&out, &padding), &["padding is zero", "absent"]);
        refused(Bundle::open_with(model.path(), &padding), &["padding is zero", "absent"]);
    }
}

/// The two files of the tokenizer by the names of GPT-2's own code, which other layouts do not have.
#[test]
fn the_tokenizers_files_may_have_their_older_names() {
    let model = folder(&["base"]);
    let words = model.path().join("tokenizer");
    for (old, new) in [("vocab.json", "encoder.json"), ("merges.txt", "vocab.bpe")] {
        fs::rename(words.join(old), words.join(new)).unwrap();
    }
    let bundle = Bundle::open(model.path()).unwrap();
    let out = model.path().join("native");
    bundle.save("native", &out, Precision::F32, &device("flex").unwrap()).unwrap();
    let same = |name: &str| fs::read(out.join("tokenizer").join(name)).unwrap();
    assert_eq!(same("vocab.json"), fs::read(words.join("encoder.json")).unwrap());
    Bundle::open(&out).unwrap();
    fs::write(words.join("vocab.bpe"), "#version\nq\n").unwrap();
    refused(Bundle::open(model.path()), &["vocab.bpe", "line 2"]);
}

#[test]
fn it_makes_small_pictures_without_an_upsampler() {
    let model = folder(&["base"]);
    let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
    let options = GenerateOptions::default().with_decoder(steps(1));
    let made = unclip.text_to_image("a cat", &options).unwrap();
    assert_eq!(made.images()[0].dimensions(), (64, 64));
    // a noisy picture, led by a caption
    let picture = &made.images()[0];
    let subject = Subject::Caption("a dog");
    let again = unclip.image_to_image(picture, 0.5, subject, &options).unwrap();
    assert_ne!(again.images()[0], *picture);
}

/// What it cannot do names what it lacks, before any work.
#[test]
fn what_it_cannot_do_is_refused() {
    let model = drawing();
    let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
    let abilities = unclip.bundle().abilities();
    assert_eq!(abilities, [Ability::TextToImage]);
    let plain = GenerateOptions::default();
    let picture = [image::RgbImage::new(8, 8)];
    refused(
        unclip.image_variation(&picture, &plain),
        &["without image_encoder", "captions or classes alone"],
    );
    refused(unclip.embed_texts(&["a cat"]), &["without prior_text_encoder"]);
    refused(unclip.imagine(&["a cat"], &plain), &["without prior"]);
    let draw = |options: &GenerateOptions| unclip.text_to_image("a cat", options);
    let alone = "the decoder of this model reads no image embedding";
    refused(draw(&plain.clone().with_prior(steps(5))), &["prior options is steps 5", alone]);
    refused(draw(&plain.clone().with_candidates(2)), &["candidates is 2", alone]);
    refused(draw(&plain.clone().with_size([128, 128])), &["size is 128 × 128"]);
    let scales = StageOptions::default().with_image_guidance(2.0);
    refused(draw(&plain.clone().with_decoder(scales)), &["apart", alone]);
    let guided = StageOptions::default().with_guidance_scale(2.0);
    refused(draw(&plain.clone().with_upsampler(guided)), &["upsampler guidance is 2"]);
}

/// Files that do not make one model are refused by name.
#[test]
fn damaged_folders_are_refused() {
    refused(
        Bundle::open(folder(&["base", "base_inpaint"]).path()),
        &["files of base and of base_inpaint", "into one folder"],
    );
    refused(Bundle::open(folder(&["upsample"]).path()), &["base.safetensors"]);
    let model = drawing();
    fs::rename(model.path().join("base.safetensors"), model.path().join("base.pt")).unwrap();
    fs::write(model.path().join("base.pt"), b"\x80\x02}q\x00.").unwrap();
    refused(Bundle::open(model.path()), &["base.pt", "pickle"]);
    let model = drawing();
    fs::remove_dir_all(model.path().join("tokenizer")).unwrap();
    refused(Bundle::open(model.path()), &["tokenizer"]);
    // CLIP's vocabulary
    let model = drawing();
    for name in ["vocab.json", "merges.txt"] {
        let other = fixture("../karlo/tiny/tokenizer").join(name);
        fs::copy(other, model.path().join("tokenizer").join(name)).unwrap();
    }
    refused(Bundle::open(model.path()), &["vocab.json", "as CLIP's vocabulary; expected GPT-2's"]);
    let edited = |edit: fn(&mut Map<String, Value>)| {
        let model = drawing();
        let mut shapes = json("shapes.json")["base"].as_object().unwrap().clone();
        edit(&mut shapes);
        write_weights(&model.path().join("base.safetensors"), "base", &shapes);
        load(model.path())
    };
    refused(edited(|it| drop(it.remove("final_ln.bias"))), &["final_ln.bias", "missing"]);
    refused(edited(|it| drop(it.remove("padding_embedding"))), &["padding_embedding"]);
    refused(
        edited(|it| drop(it.insert("other.weight".into(), [3].as_slice().into()))),
        &["other.weight"],
    );
    refused(
        edited(|it| drop(it.insert("transformer_proj.bias".into(), [3].as_slice().into()))),
        &["transformer_proj.bias", "[3]"],
    );
    refused(
        edited(|it| drop(it.insert("token_embedding.weight".into(), [7, 128].as_slice().into()))),
        &["vocab_size is 7"],
    );
}

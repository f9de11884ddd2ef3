//! LAION's folders: the numbers of DALLE2-pytorch. `tools/reference/laion_fixtures.py` makes traces,
//! configurations and shapes; weights and noise follow from their names.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Tensor;
use serde_json::{Map, Value};
use tempfile::TempDir;
use unclip::clip::Padding;
use unclip::decoder::{Condition, Null};
use unclip::unclip_core::{ImageEmbedding, Network, Stage, normalize};
use unclip::unclip_nn::checkpoint::Weights;
use unclip::{
    Ability, Bundle, GenerateOptions, Generated, Precision, RecordedNoise, Residency, StageOptions,
    UnClip, Variation, device, read_picture,
};

use crate::hashed::{drawn, write_noise, write_weights};
use crate::kandinsky::PROMPTS;
use crate::reference::{Calls, Saved, Tolerance};
use crate::support::refused;

/// Pictures of random networks saturate, and all of the reference's steps are in f32.
pub(crate) const FLEX: Tolerance =
    Tolerance { clip: 1e-5, prior: 1e-5, latent: 1e-4, call: 1e-5, picture: [1e-5, 1e-3] };

/// The published kind, and one with everything else; and the same of the early releases.
pub(crate) const MODELS: [&str; 4] = ["micro", "micro-odd", "early", "early-odd"];

/// The guidance of the prior by which its fixtures were made: early ones know none.
fn prior_guidance(name: &str) -> f64 {
    if name.starts_with("early") { 1.0 } else { 2.0 }
}

const ENDS: [&str; 6] = [
    "decoder.image",
    "prior.embedding",
    "text_encoder.mask",
    "text_encoder.pooled",
    "text_encoder.tokens",
    "upsampler.0.image",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/laion").join(name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

/// A folder of one of the four models.
pub(crate) fn folder(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    copy(&fixture(name).join("model"), folder.path());
    let words = folder.path().join("tokenizer");
    fs::create_dir(&words).unwrap();
    for file in ["vocab.json", "merges.txt"] {
        fs::copy(fixture("../karlo/tiny/tokenizer").join(file), words.join(file)).unwrap();
    }
    let shapes = fs::read(fixture(name).join("shapes.json")).unwrap();
    let shapes: Map<String, Value> = serde_json::from_slice(&shapes).unwrap();
    for (file, shapes) in &shapes {
        let place = if file.starts_with("ViT") { file.clone() } else { format!("{file}/latest") };
        let path = folder.path().join(format!("{place}.safetensors"));
        write_weights(&path, file, shapes.as_object().unwrap());
    }
    folder
}

fn ready(bundle: Bundle, name: &str) -> UnClip {
    UnClip::new(bundle, &device(name).unwrap(), Residency::OneByOne).unwrap()
}

/// The noise of seed 0, which is written beside the model.
fn options(model: &TempDir, unclip: &UnClip, rows: usize, guidance: [f64; 2]) -> GenerateOptions {
    let bundle = unclip.bundle();
    let path = model.path().join(format!("noise-{rows}.safetensors"));
    let settings = GenerateOptions::default().resolve(bundle).unwrap();
    let steps = |steps: usize| steps - 1;
    let (small, large) = (bundle.small_size(), bundle.image_size());
    let stages: [(&str, usize, &[usize]); 3] = [
        ("prior", steps(settings.prior.unwrap().steps()), &[rows, 64]),
        ("decoder", steps(settings.decoder.steps), &[rows, 3, small, small]),
        ("upsampler.0", steps(settings.upsamplers[0].steps), &[rows, 3, large, large]),
    ];
    write_noise(&path, 0, &stages);
    let guided = |scale| StageOptions::default().with_guidance_scale(scale);
    GenerateOptions::default()
        .with_noise(Arc::new(RecordedNoise::open(path).unwrap()))
        .with_prior(guided(guidance[0]))
        .with_decoder(guided(guidance[1]))
}

fn trace(name: &str, case: &str) -> PathBuf {
    fixture(&format!("{name}/{case}.trace.safetensors"))
}

fn saved(made: &Generated) -> Saved {
    Saved::of(&made.trace)
}

/// Compares the traces of captions, with guidance and without.
pub(crate) fn agrees_with_the_reference(device: &str, tolerance: Tolerance) {
    for name in MODELS {
        let model = folder(name);
        let unclip = ready(Bundle::open(model.path()).unwrap(), device);
        for (case, rows, guidance) in
            [("text", 2, [prior_guidance(name), 1.7]), ("plain", 1, [1.0, 1.0])]
        {
            let options = options(&model, &unclip, rows, guidance);
            let made = unclip.text_to_images(&PROMPTS[..rows], &options).unwrap();
            saved(&made).agrees(&trace(name, case), &ENDS, tolerance);
        }
    }
}

#[test]
fn flex_gives_the_numbers_of_dalle2_pytorch() {
    agrees_with_the_reference("flex", FLEX);
}

#[test]
fn variations_have_the_numbers_of_dalle2_pytorch() {
    let wide = read_picture(fixture("../karlo/wide.png")).unwrap();
    for name in MODELS {
        let model = folder(name);
        let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
        let all = options(&model, &unclip, 1, [1.0, 3.0]).with_prior(StageOptions::default());
        // the other decoder reads no captions
        let reads = unclip.bundle().decoder.config().reads_captions();
        let caption = if reads { PROMPTS[1] } else { "" };
        let variation = Variation { caption, ..Variation::default() };
        let made = unclip.vary(std::slice::from_ref(&wide), &variation, &all).unwrap();
        let ends = [
            "image_encoder.pixels",
            "image_encoder.embedding",
            "decoder.image",
            "upsampler.0.image",
        ];
        saved(&made).agrees_in(&trace(name, "variation"), &ends, FLEX);
    }
}

/// Compares single calls of all networks, with a condition and with none.
pub(crate) fn calls_agree_with_the_reference(device_name: &str, tolerance: Tolerance) {
    for name in MODELS {
        let model = folder(name);
        let bundle = Bundle::open(model.path()).unwrap();
        let file = Weights::open(&fixture(&format!("{name}/calls.safetensors"))).unwrap();
        let calls = Calls { file, device: device(device_name).unwrap() };
        let device = &calls.device;
        let reader = bundle.text().unwrap();
        let tokens = reader.tokenizer.encode(&PROMPTS[..1]);
        let text = reader.encoder.load(device).unwrap().forward(&tokens, device);
        let twice = |x: Tensor<4>| Tensor::cat(vec![x.clone(), x], 0);
        let timesteps = |rows: usize| Tensor::<1>::full([rows], 3.0, device);
        let noised = drawn("call.embedding", [1, 64], device);
        let slot = bundle.prior().unwrap();
        let prior = slot.load(device).unwrap();
        let config = slot.config();
        let output = if config.can_be_guided() {
            let both = Tensor::cat(vec![noised.clone(); 2], 0);
            config.bind_pair(&prior, &text, &text).network().forward(both, timesteps(2))
        } else {
            config.bind(&prior, &text).forward(noised.clone(), timesteps(1))
        };
        calls.agree("prior.output", output, tolerance);
        let (small, large) = (bundle.small_size(), bundle.image_size());
        let small = drawn("call.small", [1, 3, small, small], device);
        let image = ImageEmbedding(normalize(noised));
        let decoder = bundle.decoder.load(device).unwrap();
        let null = Null { text: None, image: None };
        let condition = Condition::new(image, text);
        let output =
            decoder.bind_with_null(&condition, &null).forward(twice(small.clone()), timesteps(2));
        calls.agree("decoder.output", output, tolerance);
        let upsampler = bundle.upsamplers[0].load(device).unwrap();
        let large = drawn("call.large", [1, 3, large, large], device);
        let output = upsampler.bind(&small.into()).forward(large, timesteps(1));
        calls.agree("upsampler.0.output", output, tolerance);
    }
}

#[test]
fn flex_gives_the_calls_of_dalle2_pytorch() {
    calls_agree_with_the_reference("flex", FLEX);
}

/// The gradient of a picture's sum along a direction is the difference quotient; kernels that are
/// standardized have gradients too.
#[cfg(feature = "autodiff")]
#[test]
fn its_decoder_is_differentiated() {
    use burn::module::Module;
    use burn::tensor::Device;
    for name in MODELS {
        let model = folder(name);
        let bundle = Bundle::open(model.path()).unwrap();
        let device = Device::flex().autodiff();
        Device::flex().seed(5);
        // loaded weights are not differentiated
        let decoder = bundle.decoder.config().init(&Device::flex()).train();
        let tokens = bundle.text().unwrap().tokenizer.encode(&PROMPTS[..1]);
        let text = bundle.text().unwrap().encoder.load(&device).unwrap().forward(&tokens, &device);
        let image = ImageEmbedding(normalize(drawn("call.embedding", [1, 64], &device)));
        let bound = decoder.bind(&Condition::new(image, text));
        let side = bundle.small_size();
        let [x, direction] =
            ["x", "direction"].map(|it| drawn::<4>(it, [1, 3, side, side], &device));
        let weights = drawn::<4>("weights", [1, 1, side, side], &device);
        let value = |x: Tensor<4>| {
            let output = bound.forward(x, Tensor::full([1], 3.0, &device));
            (output * weights.clone()).sum()
        };
        let leaf = x.clone().require_grad();
        let gradients = value(leaf.clone()).backward();
        let slope = (leaf.grad(&gradients).unwrap() * direction.clone().inner()).sum();
        let slope: f32 = slope.into_scalar();
        let of = burn::optim::GradientsParams::from_grads(gradients, &decoder);
        let kernels = kernel_gradients(&decoder, &of);
        assert!(
            kernels.len() > 10 && kernels.iter().all(|norm| *norm > 0.0),
            "{name}: {kernels:?}"
        );
        let step = 1e-3;
        let at = |by: f64| -> f32 { value(x.clone() + direction.clone() * by).into_scalar() };
        let quotient = (at(step) - at(-step)) / (2.0 * step as f32);
        let allowed = 0.02 * slope.abs().max(1.0);
        assert!((slope - quotient).abs() < allowed, "{name}: {slope}, not {quotient}");
    }
}

/// Norms of the gradients of the kernels that micro-odd's U-Net standardizes; 0 where there is none.
#[cfg(feature = "autodiff")]
fn kernel_gradients(
    decoder: &unclip::decoder::Decoder,
    gradients: &burn::optim::GradientsParams,
) -> Vec<f32> {
    use burn::module::{Module, ModuleVisitor, Param};
    struct Norms<'a> {
        gradients: &'a burn::optim::GradientsParams,
        path: Vec<String>,
        found: Vec<f32>,
    }
    impl ModuleVisitor for Norms<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.path.ends_with(&["project".into(), "weight".into()]) {
                let gradient = self.gradients.get::<D>(param.id);
                self.found.push(gradient.map_or(0.0, |it| it.abs().sum().into_scalar()));
            }
        }
    }
    let mut norms = Norms { gradients, path: Vec::new(), found: Vec::new() };
    decoder.visit(&mut norms);
    norms.found
}

#[test]
fn settings_are_those_of_the_configurations() {
    let settings = |name: &str| {
        let model = folder(name);
        let bundle = Bundle::open(model.path()).unwrap();
        let settings = GenerateOptions::default().resolve(&bundle).unwrap();
        let prior: StageOptions = match settings.prior.unwrap() {
            unclip::PriorSettings::Diffusion(settings) => settings.into(),
            other => panic!("{other}"),
        };
        [prior, settings.decoder.into(), settings.upsamplers[0].clone().into()].map(|it| {
            let spelled = (it.sampler.unwrap().to_string(), it.spacing.unwrap().to_string());
            (it.steps.unwrap(), spelled.0, spelled.1, it.guidance_scale.unwrap())
        })
    };
    let own = |steps, sampler: &str, spacing: &str, scale| {
        (steps, sampler.to_string(), spacing.to_string(), scale)
    };
    let expected = [
        own(4, "early_ddim:1", "between:-1", 1.0),
        own(8, "ddpm", "even", 1.7),
        own(8, "ddpm", "even", 1.0),
    ];
    assert_eq!(settings("micro"), expected);
    let expected =
        [own(6, "ddpm", "even", 1.0), own(3, "ddim", "between", 1.7), own(30, "ddpm", "even", 1.0)];
    assert_eq!(settings("micro-odd"), expected);
    let expected = [
        own(5, "early_ddim:1", "between", 1.0),
        own(8, "ddpm", "even", 1.7),
        own(8, "ddpm", "even", 1.0),
    ];
    assert_eq!(settings("early"), expected);
    let expected = [
        own(6, "ddpm", "even", 1.0),
        own(3, "early_ddim:0.5", "between", 1.7),
        own(5, "early_ddim:1", "between", 1.0),
    ];
    assert_eq!(settings("early-odd"), expected);
}

#[test]
fn it_does_what_its_files_allow() {
    let model = folder("micro");
    let all = [
        Ability::TextToImage,
        Ability::ImageVariation,
        Ability::CaptionBesidePicture,
        Ability::Similarity,
        #[cfg(feature = "autodiff")]
        Ability::ClipGuidance,
    ];
    assert_eq!(Bundle::open(model.path()).unwrap().abilities(), all);
    // the file of a model alone, under the name of the best
    fs::remove_dir_all(model.path().join("prior")).unwrap();
    let decoder = model.path().join("decoder");
    fs::rename(decoder.join("latest.safetensors"), decoder.join("best.safetensors")).unwrap();
    let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
    assert!(!unclip.bundle().can(Ability::TextToImage));
    refused(unclip.text_to_image("a cat", &GenerateOptions::default()), &["prior"]);
    let picture = [image::RgbImage::new(8, 8)];
    let made = unclip.image_variation(&picture, &GenerateOptions::default()).unwrap();
    assert_eq!(made.images()[0].dimensions(), (32, 32));
}

#[test]
fn a_negative_prompt_is_refused() {
    for name in MODELS {
        let model = folder(name);
        let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
        let options = GenerateOptions::default().with_negative_prompt("rain");
        let expected = ["negative prompt is \"rain\"", "learned to stand for no caption"];
        refused(unclip.text_to_image("a cat", &options), &expected);
        refused(unclip.image_variation(&[image::RgbImage::new(8, 8)], &options), &expected);
        refused(unclip.imagine(&["a cat"], &options), &["negative prompt is \"rain\"", "none"]);
        let mut run = unclip.run(&[1]).with_negative_prompt("rain");
        let text = run.encode(&["a cat"]).unwrap();
        let settings = GenerateOptions::default().resolve(unclip.bundle()).unwrap();
        refused(run.prior(&text, &settings.prior.unwrap()), &expected);
    }
}

#[test]
fn an_early_prior_is_not_guided() {
    let model = folder("early");
    let unclip = ready(Bundle::open(model.path()).unwrap(), "flex");
    let guided = StageOptions::default().with_guidance_scale(2.0);
    let options = GenerateOptions::default().with_prior(guided.clone());
    let expected = ["prior guidance is 2, expected 1", "not trained for guidance"];
    refused(unclip.text_to_image("a cat", &options), &expected);
    let mut run = unclip.run(&[1]);
    let text = run.encode(&["a cat"]).unwrap();
    let slot = unclip.bundle().prior().unwrap();
    let settings = guided.resolve(slot.id(), &slot.config().diffusion).unwrap();
    refused(run.bind_prior(&text, &settings), &expected);
}

/// In this project's own layout it is the same model; no other layout holds it.
#[test]
fn it_is_converted() {
    let flex = device("flex").unwrap();
    for name in MODELS {
        let model = folder(name);
        let bundle = Bundle::open(model.path()).unwrap();
        let out = model.path().join("native");
        bundle.save("native", &out, Precision::F32, &flex).unwrap();
        for layout in ["diffusers", "kandinsky", "stable"] {
            let other = model.path().join(layout);
            refused(bundle.save(layout, &other, Precision::F32, &flex), &["expected"]);
            assert!(!other.exists());
        }
        let picture = |bundle: Bundle| {
            let options = GenerateOptions::default();
            ready(bundle, "flex").text_to_image("a cat! no!", &options).unwrap().images()
        };
        let again = Bundle::open(&out).unwrap();
        let padding = |bundle: &Bundle| bundle.text().unwrap().tokenizer.padding();
        assert_eq!(padding(&again), Padding::Zero);
        assert_eq!(padding(&bundle), Padding::Zero);
        assert_eq!(picture(again), picture(bundle));
    }
}

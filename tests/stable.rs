//! Stable unCLIP's folder: the numbers that diffusers gives on it.
//! `tools/reference/stable_fixtures.py` makes folder, noise and traces.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use unclip::decoder::{Condition, ImageNoise};
use unclip::unclip_core::image::{psnr, to_rgb, to_tensor};
use unclip::unclip_core::{ImageEmbedding, Network, TextEmbedding};
use unclip::unclip_nn::checkpoint::{Weights, save_tensors};
use unclip::{
    Bundle, GenerateOptions, OpenOptions, Precision, RecordedNoise, Residency, StageOptions,
    Subject, Tensor, UnClip, Variation, device, read_picture,
};

use crate::kandinsky::{FLEX, PROMPTS};
use crate::karlo_write::Karlo;
use crate::reference::{Calls, Saved, Tolerance};
use crate::support::refused;

/// A file or folder of the fixtures.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stable").join(name)
}

fn ready(bundle: Bundle, device_name: &str) -> UnClip {
    UnClip::new(bundle, &device(device_name).unwrap(), Residency::OneByOne).unwrap()
}

fn open(device_name: &str) -> UnClip {
    ready(Bundle::open(fixture("model")).unwrap(), device_name)
}

fn options(name: &str, decoder: StageOptions) -> GenerateOptions {
    let noise = RecordedNoise::open(fixture(&format!("{name}.noise.safetensors"))).unwrap();
    GenerateOptions::default().with_noise(Arc::new(noise)).with_decoder(decoder.with_steps(6))
}

fn decoder(guidance: f64) -> StageOptions {
    StageOptions::default().with_guidance_scale(guidance)
}

fn with_prior(options: GenerateOptions, guidance: f64) -> GenerateOptions {
    let prior = StageOptions::default().with_steps(5).with_guidance_scale(guidance);
    options.with_prior(prior)
}

const ENDS: [&str; 3] = ["text_encoder.tokens", "decoder.latent", "decoder.image"];

/// Compares the traces of these runs of captions, and of pictures.
pub(crate) fn agrees_with_diffusers(device: &str, names: &[&str], tolerance: Tolerance) {
    let unclip = open(device);
    let of_text = ["prior_text_encoder.pooled", "prior_text_encoder.tokens"];
    let of_text = [&of_text[..], &["prior_text_encoder.mask", "prior.embedding"], &ENDS].concat();
    let guided = |name: &str| with_prior(options(name, decoder(3.0)), 4.0);
    let ddim = decoder(3.0).with_sampler(unclip::Ddim { eta: 0.0 });
    let runs = [
        ("text", guided("text")),
        ("negative", guided("negative").with_negative_prompt("a dog").with_noise_level(300)),
        ("plain", with_prior(options("plain", decoder(1.0)), 1.0)),
        ("sized", guided("sized").with_size([24, 16])),
        ("ddim", with_prior(options("ddim", ddim), 4.0)),
    ];
    for (name, options) in runs.iter().filter(|(name, _)| names.contains(name)) {
        let trace = unclip.text_to_images(&PROMPTS, options).unwrap().trace;
        let file = fixture(&format!("{name}.trace.safetensors"));
        Saved::of(&trace).agrees_in(&file, &of_text, tolerance);
    }
    let pictures = ["wide.png", "high.png"];
    let pictures = pictures.map(|name| read_picture(fixture("../karlo").join(name)).unwrap());
    let varied = options("variation", decoder(3.0)).with_noise_level(20);
    let trace = unclip.image_variation(&pictures, &varied).unwrap().trace;
    let keys = [&["image_encoder.pixels", "image_encoder.embedding"], &ENDS[..]].concat();
    Saved::of(&trace).agrees_in(&fixture("variation.trace.safetensors"), &keys, tolerance);
}

/// Compares single calls of the networks.
pub(crate) fn calls_agree_with_diffusers(name: &str, tolerance: Tolerance) {
    let bundle = Bundle::open(fixture("model")).unwrap();
    let file = Weights::open(&fixture("text.calls.safetensors")).unwrap();
    let calls = Calls { file, device: device(name).unwrap() };
    let autoencoder = bundle.autoencoder.as_ref().unwrap().load(&calls.device).unwrap();
    let picture = autoencoder.decode(calls.tensor("vae.input.latent"));
    calls.agree("vae.output.picture", picture, tolerance);
    let latent = autoencoder.encode(calls.tensor("vae.input.picture")).mean;
    calls.agree("vae.output.latent", latent, tolerance);

    // the guided call of the first step: the null rows come first there
    let network = bundle.decoder.load(&calls.device).unwrap();
    let trace = Weights::open(&fixture("text.trace.safetensors")).unwrap();
    let noise = Weights::open(&fixture("text.noise.safetensors")).unwrap();
    let tensor = |weights: &Weights, key: &str| {
        let values = weights.read(key).unwrap().unwrap();
        let shape = [2, values.len() / 2];
        let data = burn::tensor::TensorData::new(values, shape);
        Tensor::<2>::from_data(data, &calls.device)
    };
    let tokens = calls.tensor::<3>("unet.input.encoder_hidden_states");
    let text = |start: usize| {
        let tokens = tokens.clone().narrow(0, start, 2);
        let [rows, length, width] = tokens.dims();
        let mask = Tensor::<2>::ones([rows, length], &calls.device).equal_elem(1);
        TextEmbedding { pooled: Tensor::zeros([rows, width], &calls.device), tokens, mask }
    };
    let mut given = Condition::new(ImageEmbedding(tensor(&trace, "prior.embedding")), text(2));
    let noise = tensor(&noise, "decoder.augmentation");
    given.image_noise = Some(ImageNoise { level: 0, noise });
    let both = network.bind_with_null(&given, &text(0).into());
    let x_t = calls.tensor::<4>("unet.input.sample");
    let output = both.forward(x_t, calls.timesteps("unet", 4));
    let halves = vec![output.clone().narrow(0, 2, 2), output.narrow(0, 0, 2)];
    calls.agree("unet.output", Tensor::cat(halves, 0), tolerance);
}

#[test]
fn flex_gives_the_numbers_of_diffusers() {
    let names = ["text", "negative", "plain", "sized", "ddim"];
    agrees_with_diffusers("flex", &names, FLEX);
}

#[test]
fn flex_gives_the_calls_of_diffusers() {
    calls_agree_with_diffusers("flex", FLEX);
}

fn print(bundle: &Bundle) -> [String; 4] {
    let text = bundle.clip_text().unwrap().encoder.fingerprint().unwrap();
    let own = bundle.text().unwrap().encoder.fingerprint().unwrap();
    let prior = bundle.prior().unwrap().fingerprint().unwrap();
    [text, own, prior, bundle.decoder.fingerprint().unwrap()].map(String::from)
}

/// Written back as it was read, and in this project's own layout, it is the same model.
#[test]
fn it_is_written_back() {
    let folder = tempfile::tempdir().unwrap();
    let bundle = Bundle::open(fixture("model")).unwrap();
    let flex = device("flex").unwrap();
    let picture = |bundle: Bundle| {
        let options = with_prior(GenerateOptions::default(), 4.0);
        let options = options.with_decoder(decoder(3.0).with_steps(3)).with_noise_level(10);
        ready(bundle, "flex").text_to_image("a cat", &options).unwrap().images()
    };
    for layout in ["stable", "native"] {
        let out = folder.path().join(layout);
        bundle.save(layout, &out, Precision::F16, &flex).unwrap();
        let again = Bundle::open(&out).unwrap();
        assert_eq!(print(&again), print(&bundle), "{layout}");
        assert_eq!(again.decoder.config(), bundle.decoder.config());
        assert_eq!(picture(again), picture(Bundle::open(fixture("model")).unwrap()));
    }
    for part in ["unet", "vae", "image_normalizer", "prior"] {
        let open = |root: &Path| {
            Weights::open_in(&root.join(part), "diffusion_pytorch_model").unwrap().keys()
        };
        assert_eq!(open(&fixture("model")), open(&folder.path().join("stable")), "{part}");
    }
    let kandinsky = Bundle::open(fixture("../kandinsky/model")).unwrap();
    refused(
        kandinsky.save("stable", folder.path().join("x"), Precision::F16, &flex),
        &["augmentation is absent", "embeddings with noise"],
    );
    refused(
        bundle.save("kandinsky", folder.path().join("x"), Precision::F16, &flex),
        &["prior_text_encoder is given", "one text tower"],
    );
}

/// The model without a prior, as it is published, makes variations; captions take another's prior of
/// the same CLIP, and of no other.
#[test]
fn a_prior_may_come_from_another_model() {
    let model = Karlo::new("../stable/model");
    let other = Karlo::new("../stable/model");
    for part in ["prior", "prior_scheduler", "prior_text_encoder", "prior_tokenizer"] {
        fs::remove_dir_all(model.path(part)).unwrap();
        // in Karlo's layout these have no prefix
        let place = part.replace("prior_t", "t");
        if place != part {
            fs::remove_dir_all(other.path(&place)).unwrap();
            fs::rename(other.path(part), other.path(&place)).unwrap();
        }
    }
    other.edit("prior_scheduler/scheduler_config.json", |json| {
        json["_class_name"] = "UnCLIPScheduler".into();
        let known = ["clip_sample", "num_train_timesteps", "prediction_type", "variance_type"];
        let fields = json.as_object_mut().unwrap();
        fields.retain(|name, _| {
            name.starts_with('_') || name.starts_with(known[0]) || known.contains(&name.as_str())
        });
    });
    model.edit("model_index.json", |json| {
        json["_class_name"] = "StableUnCLIPImg2ImgPipeline".into();
        let parts = json.as_object_mut().unwrap();
        parts.retain(|name, _| !name.starts_with("prior"));
    });
    let alone = ready(model.open().unwrap(), "flex");
    let picture = read_picture(fixture("../karlo/wide.png")).unwrap();
    let pictures = std::slice::from_ref(&picture);
    let options = GenerateOptions::default().with_decoder(decoder(3.0).with_steps(3));
    alone.image_variation(pictures, &options).unwrap();
    use unclip::Ability::{
        CaptionBesidePicture, ImageVariation, NoiseLevel, OtherSizes, Similarity, TextToImage,
    };
    let others = [ImageVariation, CaptionBesidePicture, NoiseLevel, OtherSizes];
    assert_eq!(alone.bundle().abilities(), others);
    let whole = Bundle::open(fixture("model")).unwrap();
    assert!(whole.can(TextToImage) && whole.can(Similarity));
    refused(alone.text_to_image("a cat", &options), &["has no prior", "takes Karlo's"]);
    refused(alone.embed_texts(&["a cat"]), &["has no prior_text_encoder"]);

    let with = |path: PathBuf| OpenOptions { prior_model: Some(path), ..OpenOptions::default() };
    let both = Bundle::open_with(model.path(""), &with(other.path(""))).unwrap();
    assert_eq!(print(&both), print(&Bundle::open(fixture("model")).unwrap()));
    ready(both, "flex").text_to_image("a cat", &options).unwrap();
    refused(
        Bundle::open_with(fixture("model"), &with(other.path(""))),
        &["prior model is", "absent: the model has a prior of its own"],
    );
    refused(
        Bundle::open_with(model.path(""), &with(fixture("../karlo/tiny"))),
        &["image_normalizer", "standard deviation of image embeddings"],
    );
    refused(Bundle::open_with(model.path(""), &with(model.path(""))), &["prior"]);
}

/// Half of a download, and statistics that nothing can be divided by, are named.
#[test]
fn what_is_half_there_is_named() {
    let model = Karlo::new("../stable/model");
    let marks = model.path("tokenizer/special_tokens_map.json");
    fs::remove_file(&marks).unwrap();
    model.open().unwrap();
    std::os::unix::fs::symlink("/nowhere/blob", &marks).unwrap();
    refused(model.open(), &["special_tokens_map.json", "a link to /nowhere/blob"]);
    fs::remove_file(&marks).unwrap();
    let index = fs::read(model.path("model_index.json")).unwrap();
    fs::remove_file(model.path("model_index.json")).unwrap();
    refused(model.open(), &["model_index.json", "No such file"]);
    fs::write(model.path("model_index.json"), index).unwrap();
    let path = model.path("image_normalizer/diffusion_pytorch_model.safetensors");
    let std = vec![0.0; 12];
    let tensors = [("mean".into(), vec![1, 12], std.clone()), ("std".into(), vec![1, 12], std)];
    save_tensors(&path, &tensors, &[]).unwrap();
    refused(model.open(), &["std in ", "image_normalizer", "is 0, expected at least"]);
}

/// Levels of noise are of decoders that were trained on such; more makes pictures less alike.
#[test]
fn noise_in_embeddings_has_a_level() {
    let unclip = open("flex");
    let picture = read_picture(fixture("../karlo/wide.png")).unwrap();
    let pictures = std::slice::from_ref(&picture);
    let options = GenerateOptions::default().with_decoder(decoder(3.0).with_steps(2));
    let made = |level| {
        let options = options.clone().with_noise_level(level);
        unclip.image_variation(pictures, &options).unwrap().images()
    };
    assert_eq!(made(0), unclip.image_variation(pictures, &options).unwrap().images());
    // the noise itself is the same: the more of it, the farther from the picture without
    let distance = |level| {
        let [a, b] = [made(0), made(level)].map(|mut images| images.remove(0));
        psnr(&a, &b)
    };
    assert!(distance(100) > distance(900), "{} {}", distance(100), distance(900));
    refused(
        unclip.image_variation(pictures, &options.clone().with_noise_level(1000)),
        &["noise level is 1000, expected 0 to 999"],
    );
    let shapes = UnClip::shapes(&device("flex").unwrap()).unwrap();
    refused(
        shapes.text_to_image("a red circle", &GenerateOptions::default().with_noise_level(1)),
        &["noise level is 1", "reads embeddings as they are"],
    );
}

/// What makes sense in latents works: there and back, edits, captions beside a picture.
#[test]
fn its_pictures_are_changed_and_come_back() {
    let unclip = open("flex");
    let picture = read_picture(fixture("../karlo/wide.png")).unwrap();
    let pictures = std::slice::from_ref(&picture);
    let exact = StageOptions::default().with_steps(10).with_sampler(unclip::Belm);
    let found = GenerateOptions::default().with_decoder(exact);
    let latents = unclip.invert(pictures, &found).unwrap();
    let back = |options: &GenerateOptions| unclip.draw(&latents, options).unwrap().images();
    let plain = GenerateOptions::default();
    // the noise of embeddings has no part in it, whatever the seed
    assert_eq!(back(&plain), back(&plain.clone().with_seed(7)));
    // what its autoencoder alone keeps of the picture comes back
    let device = device("flex").unwrap();
    let small = unclip.bundle().fit_small(&picture, &device).unwrap();
    let autoencoder = unclip.bundle().autoencoder.as_ref().unwrap().load(&device).unwrap();
    let mean = autoencoder.encode(to_tensor(&[small], &device)).mean;
    let kept = to_rgb(autoencoder.decode(mean).clamp(-1.0, 1.0)).remove(0);
    let again = psnr(&back(&plain)[0], &kept);
    assert!(again > 40.0, "{again} dB");
    refused(
        unclip.draw(&latents, &plain.clone().with_noise_level(5)),
        &["noise level is 5", "embeddings of latents are taken as they are"],
    );
    let options = with_prior(plain, 4.0).with_decoder(decoder(3.0).with_steps(3));
    let mask =
        image::GrayImage::from_fn(41, 27, |x, _| image::Luma([if x == 20 { 255 } else { 0 }]));
    let made =
        unclip.inpaint((&picture, &mask), Subject::Caption("a cat"), None, &options).unwrap();
    assert_eq!(made.pictures[0].image.get_pixel(3, 3), picture.get_pixel(3, 3));
    let sampler = &made.pictures[0].recipe.settings.decoder.sampler;
    assert_eq!(sampler.to_string(), "ddim");
    unclip.image_to_image(&picture, 0.5, Subject::Caption("a cat"), &options).unwrap();
    for (strength, through_prior) in [(0.5, false), (1.0, true), (0.0, false)] {
        let variation =
            Variation { caption: "a cat", strength, through_prior, ..Variation::default() };
        unclip.vary(pictures, &variation, &options).unwrap();
    }
    unclip.similarity(pictures, &["a cat", "a dog"]).unwrap();
    unclip.imagine(&["a cat"], &with_prior(GenerateOptions::default(), 4.0)).unwrap();
}

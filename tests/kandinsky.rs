//! Kandinsky's folders: the numbers that diffusers gives on them.
//! `tools/reference/kandinsky_fixtures.py` makes folders, noise and traces.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use unclip::decoder::Condition;
use unclip::unclip_core::image::to_tensor;
use unclip::unclip_core::{ImageEmbedding, Network, TextEmbedding};
use unclip::unclip_nn::checkpoint::Weights;
use unclip::{
    Bundle, GenerateOptions, OpenOptions, Precision, RecordedNoise, Resampling, Residency,
    StageOptions, Subject, UnClip, device, read_picture,
};

use crate::karlo_write::Karlo;
use crate::reference::{Calls, Saved, Tolerance};
use crate::support::refused;

pub(crate) const PROMPTS: [&str; 2] =
    ["a cat!", "a painting of two cats on the moon, highly detailed digital art"];

/// On the CPU. A decoder of random weights samples latents twenty times too large, of which the
/// autoencoder makes pictures that are nearly all black or white, and gray only at the edges: when
/// those latents move by one part in a million, diffusers' pictures move by up to 0.03.
pub(crate) const FLEX: Tolerance =
    Tolerance { clip: 1e-4, prior: 1e-4, latent: 1e-4, call: 1e-4, picture: [1e-5, 1e-2] };

/// A file or folder of the fixtures.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kandinsky").join(name)
}

pub(crate) fn open(device_name: &str) -> UnClip {
    let bundle = Bundle::open(fixture("model")).unwrap();
    UnClip::new(bundle, &device(device_name).unwrap(), Residency::OneByOne).unwrap()
}

pub(crate) fn options(name: &str) -> GenerateOptions {
    let noise = RecordedNoise::open(fixture(&format!("{name}.noise.safetensors"))).unwrap();
    GenerateOptions::default()
        .with_noise(Arc::new(noise))
        .with_decoder(StageOptions::default().with_steps(5))
}

pub(crate) fn with_prior(options: GenerateOptions) -> GenerateOptions {
    options.with_prior(StageOptions::default().with_steps(5))
}

/// Compares the traces of pictures of captions, with a negative one, and of pictures of pictures.
pub(crate) fn agrees_with_diffusers(device: &str, tolerance: Tolerance) {
    let unclip = open(device);
    let of_text = ["text_encoder.pooled", "text_encoder.tokens", "text_encoder.mask"];
    let ends = ["prior.negative_embedding", "decoder.latent", "decoder.image"];
    let keys = [&of_text[..], &["prior.embedding"], &ends].concat();
    for (name, negative) in [("text", ""), ("negative", "a dog")] {
        let options = with_prior(options(name)).with_negative_prompt(negative);
        let trace = unclip.text_to_images(&PROMPTS, &options).unwrap().trace;
        let file = fixture(&format!("{name}.trace.safetensors"));
        Saved::of(&trace).agrees(&file, &keys, tolerance);
    }
    let pictures = ["wide.png", "high.png"];
    let pictures = pictures.map(|name| read_picture(fixture("../karlo").join(name)).unwrap());
    let trace = unclip.image_variation(&pictures, &options("variation")).unwrap().trace;
    let keys = [&["image_encoder.pixels", "image_encoder.embedding"], &ends[..]].concat();
    Saved::of(&trace).agrees(&fixture("variation.trace.safetensors"), &keys, tolerance);
}

#[test]
fn flex_gives_the_numbers_of_diffusers() {
    agrees_with_diffusers("flex", FLEX);
}

#[test]
fn flex_gives_the_calls_of_diffusers() {
    calls_agree_with_diffusers("flex", FLEX);
}

/// Compares single calls of the networks.
pub(crate) fn calls_agree_with_diffusers(name: &str, tolerance: Tolerance) {
    let bundle = Bundle::open(fixture("model")).unwrap();
    let file = Weights::open(&fixture("text.calls.safetensors")).unwrap();
    let calls = Calls { file, device: device(name).unwrap() };
    let prior = bundle.prior().unwrap().load(&calls.device).unwrap();
    let text = TextEmbedding {
        pooled: calls.tensor("prior.input.proj_embedding"),
        tokens: calls.tensor("prior.input.encoder_hidden_states"),
        mask: calls.tensor::<2>("prior.input.attention_mask").equal_elem(1),
    };
    let x_t = calls.tensor("prior.input.hidden_states");
    let output = prior.bind(&text).forward(x_t, calls.timesteps("prior", 4));
    calls.agree("prior.output", output, tolerance);

    let decoder = bundle.decoder.load(&calls.device).unwrap();
    let image = ImageEmbedding(calls.tensor("unet.input.image_embeds"));
    let x_t = calls.tensor::<4>("unet.input.sample");
    let output =
        decoder.bind(&Condition::new(image, text)).forward(x_t, calls.timesteps("unet", 4));
    calls.agree("unet.output", output, tolerance);

    let autoencoder = bundle.autoencoder.as_ref().unwrap().load(&calls.device).unwrap();
    let picture = autoencoder.decode(calls.tensor("movq.input.latent"));
    calls.agree("movq.output.picture", picture, tolerance);
    let latent = autoencoder.encode(calls.tensor("movq.input.picture")).mean;
    calls.agree("movq.output.latent", latent, tolerance);
}

/// Two folders, as they are published, are the same model as one folder with both.
#[test]
fn decoder_and_prior_may_lie_apart() {
    let prior = || Some(fixture("model/prior"));
    let with = |prior_model| OpenOptions { prior_model, ..OpenOptions::default() };
    let apart = Bundle::open_with(fixture("model/decoder"), &with(prior())).unwrap();
    let together = Bundle::open(fixture("model")).unwrap();
    let print = |bundle: &Bundle| bundle.decoder.fingerprint().unwrap().to_string();
    assert_eq!(print(&apart), print(&together));
    assert_eq!(apart.image_size(), 16);
    refused(
        Bundle::open(fixture("model/decoder")),
        &["prior model is absent", "kandinsky-2-2-prior"],
    );
    refused(Bundle::open(fixture("model/prior")), &["model is a prior", "the decoder's folder"]);
    // the folder with both stands for its prior
    Bundle::open_with(fixture("model/decoder"), &with(Some(fixture("model")))).unwrap();
    refused(
        Bundle::open_with(fixture("model/decoder"), &with(Some("nowhere".into()))),
        &["nowhere", "No such file"],
    );
    refused(
        Bundle::open_with(fixture("model/decoder"), &with(Some(fixture("model/decoder")))),
        &["_class_name is KandinskyV22Pipeline", "KandinskyV22PriorPipeline"],
    );
    let karlo = fixture("../karlo/tiny");
    refused(
        Bundle::open_with(karlo, &with(prior())),
        &["prior model is", "no model that is published without a prior"],
    );
    let folder = Some(fixture("../karlo/tiny"));
    refused(
        Bundle::open_with(fixture("model/decoder"), &with(folder)),
        &["model_index.json", "_class_name is UnCLIPPipeline", "KandinskyV22PriorPipeline"],
    );
}

/// Reachable alone, from its own folder or its model's, and in tiles.
#[test]
fn the_autoencoder_is_opened_alone() {
    let flex = device("flex").unwrap();
    let print = |folder: &str| {
        let slot = unclip::open_autoencoder(fixture(folder)).unwrap();
        slot.fingerprint().unwrap().to_string()
    };
    assert_eq!(print("model/decoder/movq"), print("model/decoder"));
    let slot = unclip::open_autoencoder(fixture("model/decoder")).unwrap();
    let autoencoder = slot.load(&flex).unwrap();
    let picture = read_picture(fixture("../karlo/wide.png")).unwrap();
    let picture = image::imageops::crop_imm(&picture, 0, 0, 40, 26).to_image();
    let latents = autoencoder.encode(to_tensor(&[picture], &flex)).mean;
    assert_eq!(latents.dims(), [1, 4, 13, 20]);
    let tiling = unclip::autoencoder::Tiling::new(8).unwrap();
    assert_eq!(autoencoder.decode_tiled(latents, tiling).dims(), [1, 3, 26, 40]);
    refused(unclip::open_autoencoder(fixture("model/decoder/unet")), &["_class_name", "VQModel"]);
    assert_eq!(print("model"), print("model/decoder"));
    let karlo = unclip::open_autoencoder(fixture("../karlo/tiny"));
    refused(karlo, &["has no autoencoder", "Kandinsky's decoder and Stable unCLIP have one"]);
    refused(unclip::open_autoencoder("nowhere"), &["nowhere"]);
}

/// Written in this project's own layout, in the types that it has, it is the same model.
#[test]
fn it_is_written_in_the_native_layout() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("native");
    let with = |prior_model| OpenOptions { prior_model, ..OpenOptions::default() };
    let prior = with(Some(fixture("model/prior")));
    let apart = Bundle::open_with(fixture("model/decoder"), &prior).unwrap();
    let flex = device("flex").unwrap();
    apart.save("native", &out, Precision::F16, &flex).unwrap();
    let again = Bundle::open(&out).unwrap();
    let picture = |bundle: Bundle| {
        let unclip = UnClip::new(bundle, &flex, Residency::OneByOne).unwrap();
        let options = with_prior(GenerateOptions::default());
        let decoder = StageOptions::default().with_steps(3);
        unclip.text_to_image("a cat", &options.with_decoder(decoder)).unwrap().images()
    };
    assert_eq!(picture(again), picture(apart));
    let refused = Bundle::open(fixture("model")).unwrap();
    let refused = refused.save("diffusers", folder.path().join("other"), Precision::F16, &flex);
    assert!(refused.unwrap_err().to_string().contains("d_text is absent"));
}

/// Written back as it was read, it has the same tensors, as the same bytes, and the same pictures.
#[test]
fn it_is_written_back() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("again");
    let bundle = Bundle::open(fixture("model")).unwrap();
    bundle.save("kandinsky", &out, Precision::F16, &device("flex").unwrap()).unwrap();
    let weights = "diffusion_pytorch_model";
    for (part, name) in [
        ("decoder/unet", weights),
        ("decoder/movq", weights),
        ("prior/prior", weights),
        ("prior/text_encoder", "model"),
        ("prior/image_encoder", "model"),
    ] {
        let open = |folder: &Path| Weights::open_in(&folder.join(part), name).unwrap();
        let (before, after) = (open(&fixture("model")), open(&out));
        assert_eq!(before.keys(), after.keys(), "{part}");
        assert_eq!(before.fingerprint().unwrap(), after.fingerprint().unwrap(), "{part}");
        for key in before.keys() {
            assert_eq!(before.dtype(&key), after.dtype(&key), "{part} {key}");
        }
    }
    let again = Bundle::open(&out).unwrap();
    assert_eq!(again.decoder.config(), bundle.decoder.config());
    let of = |bundle: &Bundle| bundle.autoencoder.as_ref().unwrap().config().clone();
    assert_eq!(of(&again), of(&bundle));
    assert_eq!(again.prior().unwrap().config(), bundle.prior().unwrap().config());
    let shapes = Bundle::shapes().unwrap();
    let refused =
        shapes.save("kandinsky", folder.path().join("x"), Precision::F16, &device("flex").unwrap());
    assert!(refused.is_err() && !folder.path().join("x").exists());
}

/// With the other scheduler that its users have, which it keeps when it is written.
#[test]
fn the_scheduler_may_be_ddim() {
    let model = Karlo::new("../kandinsky/model");
    model.edit("decoder/scheduler/scheduler_config.json", |json| {
        json["_class_name"] = "DDIMScheduler".into();
        json["set_alpha_to_one"] = false.into();
        json.as_object_mut().unwrap().remove("variance_type");
    });
    let out = model.beside("out");
    let bundle = model.open().unwrap();
    let diffusion = &bundle.decoder.config().diffusion;
    assert_eq!(
        (diffusion.sampler.to_string().as_str(), diffusion.set_alpha_to_one),
        ("ddim", false)
    );
    bundle.save("kandinsky", &out, Precision::F16, &device("flex").unwrap()).unwrap();
    assert_eq!(Bundle::open(out).unwrap().decoder.config(), bundle.decoder.config());
}

/// On the CPU, 16 bits are a format of weights: pictures become latents as in f32.
#[test]
fn latents_are_those_of_f32_where_weights_have_16_bits() {
    let flex = device("flex").unwrap();
    let slot = unclip::open_autoencoder(fixture("model/decoder")).unwrap();
    let picture = read_picture(fixture("../karlo/wide.png")).unwrap();
    let picture = image::imageops::crop_imm(&picture, 0, 0, 16, 16).to_image();
    let latents = |precision| {
        let autoencoder = slot.load((&flex, precision)).unwrap();
        let latents = autoencoder.encode(to_tensor(std::slice::from_ref(&picture), &flex)).mean;
        latents.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    // the fixture's weights are of f16
    let (half, full) = (latents(Precision::F16), latents(Precision::F32));
    assert!(half.iter().zip(&full).all(|(a, b)| (a - b).abs() < 1e-4), "{half:?} {full:?}");
    assert!(latents(Precision::BF16).iter().all(|it| it.is_finite()));
}

/// A picture of a recorded batch with a negative prompt is made again alone, from its rows.
#[test]
fn a_row_of_noise_stands_for_its_negative_prompt_too() {
    let unclip = open("flex");
    let options = with_prior(options("negative")).with_negative_prompt("a dog");
    let made = unclip.text_to_images(&PROMPTS, &options).unwrap();
    for (row, picture) in made.pictures.iter().enumerate() {
        let noise = RecordedNoise::open(fixture("negative.noise.safetensors")).unwrap().row(row);
        let again = picture.recipe.options().with_noise(Arc::new(noise));
        let again = unclip.text_to_image(&picture.recipe.prompt, &again).unwrap();
        assert_eq!(again.pictures[0].image, picture.image, "{row}");
    }
    // what CLIP sees of nothing has a part where there is no negative prompt
    let plain = with_prior(GenerateOptions::default());
    let plain = plain.with_decoder(StageOptions::default().with_steps(2));
    let sees = |options: &GenerateOptions| {
        let made = unclip.text_to_image("a cat", options).unwrap();
        made.pictures[0].recipe.weights.contains_key("image_encoder")
    };
    assert!(sees(&plain) && !sees(&plain.clone().with_negative_prompt("a dog")));
}

/// What its decoder does not read, or a decoder of latents cannot do, is refused before any work.
#[test]
fn what_the_decoder_cannot_do_is_refused() {
    let unclip = open("flex");
    let picture = read_picture(fixture("../karlo/wide.png")).unwrap();
    let pictures = std::slice::from_ref(&picture);
    let plain = GenerateOptions::default();
    let caption = unclip::Variation { caption: "a cat", ..unclip::Variation::default() };
    refused(unclip.vary(pictures, &caption, &plain), &["caption is", "reads no captions"]);
    let away = plain.clone().with_negative_prompt("a dog");
    refused(unclip.image_variation(pictures, &away), &["negative prompt", "reads no captions"]);
    let apart = StageOptions::default().with_image_guidance(2.0);
    refused(
        unclip.text_to_image("a cat", &plain.clone().with_decoder(apart)),
        &["guidance of caption and picture apart is given", "reads no captions"],
    );
}

/// Kept pixels are the same bytes; the rest is drawn in latents. A noisy version begins at latents.
#[test]
fn pictures_are_edited_in_latents() {
    let unclip = open("flex");
    let picture = read_picture(fixture("../karlo/wide.png")).unwrap();
    let (width, height) = picture.dimensions();
    let in_hole = |x: u32, y: u32| (15..25).contains(&x) && (8..19).contains(&y);
    let mask = image::GrayImage::from_fn(width, height, |x, y| {
        image::Luma([if in_hole(x, y) { 255 } else { 0 }])
    });
    let options = GenerateOptions::default().with_decoder(StageOptions::default().with_steps(4));
    let subject = Subject::Picture(&picture);
    let resampling = Some(Resampling { jump: 2, times: 2 });
    let made = unclip.inpaint((&picture, &mask), subject, resampling, &options).unwrap();
    let drawn = &made.pictures[0].image;
    let pixels = picture.enumerate_pixels();
    let differs = pixels.filter(|(x, y, pixel)| drawn.get_pixel(*x, *y) != *pixel);
    let differs: Vec<bool> = differs.map(|(x, y, _)| in_hole(x, y)).collect();
    assert!(!differs.is_empty() && differs.iter().all(|&it| it), "{differs:?}");
    assert_eq!(made.trace.latent.unwrap().dims(), [1, 4, 8, 8]);

    let of_picture = || Subject::Picture(&picture);
    let image = |strength| {
        unclip.image_to_image(&picture, strength, of_picture(), &options).unwrap().images()
    };
    assert_ne!(image(0.25), image(1.0));
}

/// A picture is inverted to its noise as latents, and comes back as its autoencoder shows it.
#[test]
fn pictures_become_latents_and_come_back() {
    let unclip = open("flex");
    let picture = read_picture(fixture("../karlo/wide.png")).unwrap();
    let steps = StageOptions::default().with_steps(20);
    let options = GenerateOptions::default().with_decoder(steps);
    let latents = unclip.invert(&[picture], &options).unwrap();
    assert_eq!(latents.start.x_t.as_ref().unwrap().dims(), [1, 4, 8, 8]);
    let made = unclip.draw(&latents, &GenerateOptions::default()).unwrap();
    assert_eq!(made.pictures[0].image.dimensions(), (16, 16));
}

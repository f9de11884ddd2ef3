//! Decoders that are told of every pixel (Kandinsky 2.2's for inpainting and for depth maps), and
//! pictures of other sizes: the numbers that diffusers gives.
//! `tools/reference/kandinsky_fixtures.py` makes the U-Nets, noise and traces.

use std::fs;
use std::sync::Arc;

use image::imageops::crop_imm;
use image::{GrayImage, Luma, RgbImage};
use unclip::decoder::{Condition, Control};
use unclip::unclip_nn::checkpoint::{Weights, save_tensors};
use unclip::{
    Ability, Bundle, GenerateOptions, Precision, RecordedNoise, Residency, Run, StageOptions,
    Subject, UnClip, Variation, device, read_picture,
};

use crate::kandinsky::{FLEX, PROMPTS, fixture, open, options, with_prior};
use crate::karlo_write::Karlo;
use crate::reference::Saved;
use crate::support::refused;

const WEIGHTS: &str = "decoder/unet/diffusion_pytorch_model.safetensors";

/// The model with another U-Net in the place of its own.
fn with_unet(control: &str) -> Karlo {
    let model = Karlo::new("../kandinsky/model");
    for name in ["model_index.json", "unet/config.json"] {
        fs::copy(fixture(control).join(name), model.path("decoder").join(name)).unwrap();
    }
    let weights = fixture(control).join("unet/diffusion_pytorch_model.safetensors");
    if control == "hint" {
        add_hint_network(&Weights::open(&weights).unwrap(), &model);
    } else {
        fs::copy(weights, model.path(WEIGHTS)).unwrap();
    }
    model
}

/// The same tensors, and those of the hint's network, which a formula gives on both sides.
fn add_hint_network(weights: &Weights, model: &Karlo) {
    let read = |key: String| {
        let (shape, values) = (weights.shape(&key).unwrap(), weights.read(&key).unwrap().unwrap());
        (key, shape.to_vec(), values)
    };
    let mut tensors: Vec<_> = weights.keys().into_iter().map(read).collect();
    let channels = [3, 16, 16, 32, 32, 96, 96, 256, 4];
    for (layer, sides) in channels.windows(2).enumerate() {
        let sine = |k: usize| (0.7 * k as f64 + layer as f64).sin();
        let values = |n: usize, scale: f64| (0..n).map(|k| (scale * sine(k)) as f32).collect();
        let key = |what: &str| format!("add_embedding.input_hint_block.{}.{what}", 2 * layer);
        let (inputs, n) = (9 * sides[0], sides[1]);
        let weight = values(n * inputs, 3.0 / (inputs as f64).sqrt());
        tensors.push((key("weight"), vec![n, sides[0], 3, 3], weight));
        tensors.push((key("bias"), vec![n], values(n, 0.1)));
    }
    save_tensors(&model.path(WEIGHTS), &tensors, &[]).unwrap();
}

fn ready(bundle: Bundle) -> UnClip {
    UnClip::new(bundle, &device("flex").unwrap(), Residency::OneByOne).unwrap()
}

/// The upper left of one of the pictures, as large as the model's own.
fn corner(name: &str) -> RgbImage {
    let picture = read_picture(fixture("../karlo").join(name)).unwrap();
    crop_imm(&picture, 0, 0, 16, 16).to_image()
}

fn mask() -> GrayImage {
    GrayImage::from_fn(16, 16, |x, y| {
        Luma([if (6..12).contains(&x) && (4..10).contains(&y) { 255 } else { 0 }])
    })
}

const KEYS: [&str; 3] = ["prior.negative_embedding", "decoder.latent", "decoder.image"];

#[test]
fn an_inpainting_has_the_numbers_of_diffusers() {
    let model = with_unet("inpaint");
    let bundle = model.open().unwrap();
    assert_eq!(bundle.control(), Some(Control::Kept));
    assert!(bundle.can(Ability::TrainedInpainting) && !bundle.can(Ability::Hint));
    let unclip = ready(bundle);
    let (picture, mask) = (corner("wide.png"), mask());
    let subject = Subject::Picture(&picture);
    let made = unclip.inpaint((&picture, &mask), subject, None, &options("inpaint")).unwrap();
    Saved::of(&made.trace).agrees_in(&fixture("inpaint.trace.safetensors"), &KEYS, FLEX);
    let drawn = &made.pictures[0].image;
    for (x, y, pixel) in picture.enumerate_pixels().filter(|(x, y, _)| mask[(*x, *y)].0[0] == 0) {
        assert_eq!(drawn.get_pixel(x, y), pixel, "{x} {y}");
    }
    // of nothing that is kept, it draws all
    let plain = GenerateOptions::default().with_decoder(StageOptions::default().with_steps(2));
    unclip.text_to_image("a cat", &with_prior(plain.clone())).unwrap();
    // to walk once is what it does by default
    let draw = |resampling| {
        let subject = Subject::Picture(&picture);
        unclip.inpaint((&picture, &mask), subject, resampling, &plain).unwrap().images()
    };
    assert_eq!(draw(Some(unclip::Resampling::NONE)), draw(None));
    let resampling = Some(unclip::Resampling { jump: 1, times: 2 });
    let subject = Subject::Picture(&picture);
    unclip.inpaint((&picture, &mask), subject, resampling, &plain).unwrap();
    let subject = Subject::Picture(&picture);
    refused(
        unclip.inpaint((&picture, &mask), subject, resampling, &options("inpaint")),
        &["recorded noise", "a resampling draws more"],
    );
}

fn steps(n: usize) -> StageOptions {
    StageOptions::default().with_steps(n)
}

/// Both latents of a picture are found, drawn and edited under a hint, and not without one.
#[test]
fn a_hint_has_a_part_in_all_that_the_decoder_does() {
    let unclip = ready(with_unet("hint").open().unwrap());
    let pictures = [corner("wide.png")];
    let plain = GenerateOptions::default().with_decoder(steps(20));
    let hinted = |name: &str| plain.clone().with_hint(corner(name));
    let latents = unclip.invert(&pictures, &hinted("high.png")).unwrap();
    let back = |name: &str| unclip.draw(&latents, &hinted(name)).unwrap().images();
    assert_eq!(back("high.png"), back("high.png"));
    assert_ne!(back("high.png"), back("wide.png"));
    let subject = || Subject::Picture(&pictures[0]);
    unclip.image_to_image(&pictures[0], 0.5, subject(), &hinted("high.png")).unwrap();
    let inpaint = |options: &GenerateOptions| {
        let options = options.clone().with_decoder(steps(2));
        unclip.inpaint((&pictures[0], &mask()), subject(), None, &options)
    };
    inpaint(&hinted("high.png")).unwrap();
    let absent = ["hint is absent", "a depth map"];
    refused(unclip.invert(&pictures, &plain), &absent);
    refused(unclip.draw(&latents, &plain), &absent);
    refused(inpaint(&plain), &absent);
    refused(unclip.image_to_image(&pictures[0], 0.5, subject(), &plain), &absent);
    // embeddings alone follow no hint
    unclip.reimagine(&latents.image, &Variation::default(), &GenerateOptions::default()).unwrap();
}

/// What a run is told is checked when the decoder is bound.
#[test]
fn a_run_cannot_be_told_what_its_decoder_cannot_do() {
    let unclip = open("flex");
    let settings = GenerateOptions::default().with_decoder(steps(2)).resolve(unclip.bundle());
    let settings = settings.unwrap().decoder;
    let hint = corner("high.png");
    let image = unclip.embed_images(&[corner("wide.png")]).unwrap();
    let condition = Condition::new(image, unclip.embed_texts(&["a cat"]).unwrap());
    let decode = |mut run: Run<'_>| run.decode(&condition, &settings);
    refused(decode(unclip.run(&[0]).with_size([18, 16])), &["size is 18 × 16", "multiples of 4"]);
    refused(
        decode(unclip.run(&[0]).with_noise_level(5)),
        &["noise level is 5", "reads embeddings as they are"],
    );
    refused(decode(unclip.run(&[0]).with_hint(&hint)), &["hint is a picture", "follows none"]);
    decode(unclip.run(&[0])).unwrap();
}

#[test]
fn a_hint_has_the_numbers_of_diffusers() {
    let model = with_unet("hint");
    let bundle = model.open().unwrap();
    assert_eq!(bundle.control(), Some(Control::Hint));
    let unclip = ready(bundle);
    let pictures = [corner("wide.png")];
    let with_hint = options("hint").with_hint(corner("high.png"));
    let made = unclip.image_variation(&pictures, &with_hint).unwrap();
    Saved::of(&made.trace).agrees_in(&fixture("hint.trace.safetensors"), &KEYS, FLEX);
    assert!(made.pictures[0].recipe.hint);
    refused(
        unclip.image_variation(&pictures, &options("hint")),
        &["hint is absent", "a depth map, which the decoder of this model follows"],
    );
    let thin = options("hint").with_hint(RgbImage::new(400, 1));
    refused(unclip.image_variation(&pictures, &thin), &["hint is [(400, 1)]"]);
    refused(
        open("flex").image_variation(&pictures, &with_hint),
        &["hint is a picture of 16 × 16", "absent", "controlnet-depth"],
    );
}

#[test]
fn other_sizes_have_the_numbers_of_diffusers() {
    let unclip = open("flex");
    let options = with_prior(options("sized")).with_size([24, 16]);
    let made = unclip.text_to_images(&PROMPTS, &options).unwrap();
    Saved::of(&made.trace).agrees_in(&fixture("sized.trace.safetensors"), &KEYS, FLEX);
    assert_eq!(made.pictures[0].image.dimensions(), (24, 16));
    // alone, from its recipe
    let recipe = &made.pictures[1].recipe;
    let noise = RecordedNoise::open(fixture("sized.noise.safetensors")).unwrap().row(1);
    let again = unclip.text_to_image(&recipe.prompt, &recipe.options().with_noise(Arc::new(noise)));
    assert_eq!(again.unwrap().pictures[0].image, made.pictures[1].image);

    assert_eq!(unclip.bundle().size_multiple(), Some(4));
    let plain = GenerateOptions::default();
    for size in [[24, 18], [0, 16], [16, 100_000]] {
        refused(
            unclip.text_to_image("a cat", &plain.clone().with_size(size)),
            &["size is", "sides that are multiples of 4"],
        );
    }
    let picture = corner("wide.png");
    let sized = plain.with_size([24, 16]);
    let subject = Subject::Picture(&picture);
    refused(
        unclip.image_to_image(&picture, 0.5, subject, &sized),
        &["size is 24 × 16", "an edit has the size of its picture"],
    );
    let shapes = UnClip::shapes(&device("flex").unwrap()).unwrap();
    refused(
        shapes.text_to_image("a red circle", &sized),
        &["size is 24 × 16", "absent: this model makes pictures of 512 × 512"],
    );
}

/// Written back as it was read, and in this project's own layout, it is the same model.
#[test]
fn such_decoders_are_written_back() {
    for control in ["inpaint", "hint"] {
        let model = with_unet(control);
        let bundle = model.open().unwrap();
        for layout in ["kandinsky", "native"] {
            let out = model.beside(layout);
            let flex = device("flex").unwrap();
            // the formula's weights are of f32
            bundle.save(layout, &out, Precision::F32, &flex).unwrap();
            let again = Bundle::open(&out).unwrap();
            assert_eq!(again.decoder.config(), bundle.decoder.config());
            let print = |bundle: &Bundle| bundle.decoder.fingerprint().unwrap().to_string();
            assert_eq!(print(&again), print(&bundle), "{control} {layout}");
            let images = |bundle: Bundle| {
                let mut options = GenerateOptions::default().with_decoder(steps(2));
                if control == "hint" {
                    options = options.with_hint(corner("high.png"));
                }
                ready(bundle).image_variation(&[corner("wide.png")], &options).unwrap().images()
            };
            assert_eq!(images(again), images(model.open().unwrap()), "{control} {layout}");
        }
        let index = fs::read_to_string(model.beside("kandinsky/decoder/model_index.json")).unwrap();
        let before = fs::read_to_string(model.path("decoder/model_index.json")).unwrap();
        let class = |text: &str| {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            value["_class_name"].clone()
        };
        assert_eq!(class(&index), class(&before));
    }
}

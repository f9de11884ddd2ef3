//! Both latents of pictures: there and back, on disk, and what does not belong together.

use image::RgbImage;
use unclip::unclip_core::image::to_rgb;
use unclip::{
    Ddim, GenerateOptions, ImageEmbedding, Latents, Recipe, StageOptions, Tensor, UnClip,
};

use crate::support::{Model, refused};

fn picture(seed: u8) -> RgbImage {
    RgbImage::from_fn(12, 9, |x, y| {
        image::Rgb([20 * x as u8, 25 * y as u8, seed.wrapping_mul(31).wrapping_add(x as u8)])
    })
}

fn steps(sampler: &str, steps: usize) -> StageOptions {
    StageOptions::default()
        .with_steps(steps)
        .with_sampler(sampler.parse::<unclip::SamplerKind>().unwrap())
}

/// An inversion by them.
fn by(sampler: &str, n: usize) -> GenerateOptions {
    GenerateOptions::default().with_decoder(steps(sampler, n))
}

/// The decoder's pictures.
fn small(unclip: &UnClip, latents: &Latents, options: &GenerateOptions) -> Tensor<4> {
    unclip.draw(latents, options).unwrap().trace.decoder.unwrap()
}

fn distance(a: &Tensor<4>, b: &Tensor<4>) -> f32 {
    (a.clone() - b.clone()).abs().max().into_scalar::<f32>()
}

#[test]
fn an_exact_inversion_is_undone_whatever_the_number_of_steps() {
    let unclip = Model::new().load().unwrap();
    let (pictures, none) = ([picture(1), picture(2)], GenerateOptions::default());
    let side = unclip.bundle().decoder.config().unet.image_size() as u32;
    for n in [3, 5, 10] {
        let latents = unclip.invert(&pictures, &by("belm", n)).unwrap();
        assert_eq!(latents.batch(), 2);
        assert_eq!(latents.start.steps, Some(n - 1));
        let back = to_rgb(small(&unclip, &latents, &none));
        for (back, picture) in back.iter().zip(&pictures) {
            // what the decoder sees of it: the square in the middle, as small as its pictures
            let square = image::imageops::crop_imm(picture, 1, 0, 9, 9).to_image();
            let seen = unclip::unclip_core::resize::bicubic_8bit(picture, 10, side);
            let seen = image::imageops::crop_imm(&seen, (10 - side) / 2, 0, side, side).to_image();
            assert_eq!(square.dimensions(), (9, 9));
            let off = back.iter().zip(seen.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(off <= 1, "{n} steps: {off}");
        }
    }
}

#[test]
fn without_randomness_a_variation_is_the_reconstruction() {
    let unclip = Model::new().load().unwrap();
    let latents = unclip.invert(&[picture(3)], &by("ddim", 4)).unwrap();
    let of = |eta: f64, n: usize| {
        let decoder = StageOptions::default().with_sampler(Ddim { eta });
        let options = GenerateOptions::default().with_n(n).with_seed(5).with_decoder(decoder);
        small(&unclip, &latents, &options)
    };
    let back = small(&unclip, &latents, &GenerateOptions::default());
    assert_eq!(distance(&back, &of(0.0, 1)), 0.0);
    let varied = of(1.0, 2);
    let [a, b] = [0, 1].map(|row| varied.clone().narrow(0, row, 1));
    assert!(distance(&a, &back) > 1e-3 && distance(&a, &b) > 1e-3);
    assert_eq!(distance(&a, &of(1.0, 1)), 0.0, "a picture does not depend on its batch");
}

#[test]
fn the_ends_of_a_way_are_its_ends_and_its_frames_have_one_seed() {
    let unclip = Model::new().load().unwrap();
    let none = GenerateOptions::default();
    for sampler in ["ddim", "belm"] {
        let ends = unclip.invert(&[picture(1), picture(2)], &by(sampler, 4)).unwrap();
        let [a, b] = [0, 1].map(|row| ends.narrow(row, 1));
        let way = [0.0, 0.5, 1.0].map(|t| a.between(&b, t).unwrap());
        let way = Latents::cat(&way).unwrap();
        assert_eq!(way.batch(), 3);
        let made = unclip.draw(&way, &none).unwrap();
        let ends = small(&unclip, &ends, &none);
        let frames = made.trace.decoder.unwrap();
        for (frame, end) in [(0, 0), (2, 1)] {
            let (frame, end) = (frames.clone().narrow(0, frame, 1), ends.clone().narrow(0, end, 1));
            assert!(distance(&frame, &end) < 1e-4, "{sampler}");
        }
        assert_eq!(made.pictures.iter().map(|it| it.recipe.seed).collect::<Vec<_>>(), [0; 3]);
        assert!(made.pictures.iter().all(|it| it.recipe.incomplete));
    }
}

#[test]
fn latents_are_kept_for_the_model_that_they_mean_something_to() {
    let model = Model::new();
    let (unclip, folder) = (model.load().unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("latents.safetensors");
    let (bundle, device) = (unclip.bundle(), unclip.device());
    for sampler in ["ddim", "belm"] {
        let latents = unclip.invert(&[picture(1), picture(2)], &by(sampler, 4)).unwrap();
        latents.save(&path, bundle).unwrap();
        let read = Latents::open(&path, bundle, &device).unwrap();
        let none = GenerateOptions::default();
        assert_eq!(distance(&small(&unclip, &latents, &none), &small(&unclip, &read, &none)), 0.0);
        assert_eq!(read.settings, latents.settings);
    }
    let other = Model::new();
    other.edit_tensors("decoder", |tensors| tensors[0].bytes.fill(0));
    let other = other.load().unwrap();
    let wrong = Latents::open(&path, other.bundle(), &device);
    refused(wrong, &["latents.safetensors", "the model with which they were made", "decoder"]);
    let trace =
        unclip.draw(&Latents::open(&path, bundle, &device).unwrap(), &GenerateOptions::default());
    trace.unwrap().trace.save(&path).unwrap();
    refused(Latents::open(&path, bundle, &device), &["latents.safetensors", "a file of latents"]);
}

#[test]
fn what_does_not_belong_to_latents_is_refused() {
    let unclip = Model::new().load().unwrap();
    let pictures = [picture(1), picture(2)];
    let [four, five] = [4, 5].map(|n| unclip.invert(&pictures, &by("ddim", n)).unwrap());
    refused(unclip.invert(&pictures, &by("ddpm", 4)), &["sampler of an inversion is ddpm", "belm"]);
    refused(
        unclip.invert(&pictures, &by("belm", 2)),
        &["steps of an inversion is 2", "at least 3"],
    );
    refused(unclip.invert(&[], &by("ddim", 4)), &["pictures"]);
    refused(four.between(&five, 0.5), &["latents is 5 of 5 steps", "4 of 4 steps"]);
    refused(Latents::cat(&[four.clone(), five]), &["5 of 5 steps"]);
    let drawn = Latents::drawn(four.image.clone(), four.settings.clone());
    refused(four.between(&drawn, 0.5), &["the seed's noise", "noise of its own"]);
    refused(Latents::cat(&[]), &["latents is 0"]);
    let draw = |options: &GenerateOptions| unclip.draw(&four, options);
    let plain = StageOptions::default;
    let options = GenerateOptions::default;
    refused(
        draw(&options().with_decoder(plain().with_steps(9))),
        &["9 steps", "those of the latents"],
    );
    refused(draw(&options().with_prior(plain().with_steps(9))), &["latents have no prior"]);
    let odd = Tensor::from_floats([[f32::NAN; 6]], &unclip.device());
    let odd = four.clone().with_image(ImageEmbedding(odd));
    refused(unclip.draw(&odd, &options()), &["decoder", "not finite"]);
    let made = draw(&options()).unwrap();
    let recipe: Recipe = made.pictures[0].recipe.clone();
    assert!(recipe.incomplete && recipe.settings.prior.is_none());
}

//! Pictures of which a part is drawn anew, or all of it from a noisy version.

use image::{GrayImage, Luma, RgbImage};
use unclip::unclip_core::image::to_tensor;
use unclip::unclip_core::resize::bicubic_8bit;
use unclip::{GenerateOptions, RecordedNoise, Resampling, StageId, StageOptions, Subject, UnClip};

use crate::support::{Model, refused};

const CAPTION: &str = "a circle";

fn unclip() -> UnClip {
    Model::new().load().unwrap()
}

fn picture() -> RgbImage {
    RgbImage::from_fn(20, 12, |x, y| image::Rgb([12 * x as u8, 20 * y as u8, 99]))
}

/// White in a rectangle.
fn mask([left, top, right, bottom]: [u32; 4]) -> GrayImage {
    GrayImage::from_fn(20, 12, |x, y| {
        let is_white = (left..right).contains(&x) && (top..bottom).contains(&y);
        Luma([if is_white { 255 } else { 127 }])
    })
}

/// DDPM, for as many steps.
fn options(steps: usize) -> GenerateOptions {
    let decoder = StageOptions::default().with_steps(steps);
    GenerateOptions::default().with_seed(3).with_decoder(decoder)
}

#[test]
fn what_is_not_masked_stays_to_the_last_bit() {
    let (unclip, picture) = (unclip(), picture());
    let mask = mask([6, 2, 11, 7]);
    let subjects =
        [Subject::Caption(CAPTION), Subject::Picture(&picture), Subject::Both(CAPTION, &picture)];
    for subject in subjects {
        let options = options(6).with_n(2);
        let resampling = Resampling { jump: 2, times: 3 };
        let made = unclip.inpaint((&picture, &mask), subject, Some(resampling), &options).unwrap();
        assert_eq!(made.pictures.len(), 2);
        for drawn in &made.pictures {
            assert_eq!(drawn.image.dimensions(), picture.dimensions());
            assert!(drawn.recipe.incomplete);
            for (x, y, pixel) in drawn.image.enumerate_pixels() {
                if mask.get_pixel(x, y)[0] == 127 {
                    assert_eq!(pixel, picture.get_pixel(x, y), "{x} {y}");
                }
            }
        }
        assert_ne!(made.pictures[0].image, picture);
        assert_ne!(made.pictures[0].image, made.pictures[1].image);
        let decoder = made.costs.iter().find(|cost| cost.stage == StageId::Decoder).unwrap();
        assert_eq!(decoder.calls.len(), resampling.calls(6));
        // the decoder kept what the small picture shows beside the mask, to the last bit where the
        // hole is far
        let square = image::imageops::crop_imm(&picture, 4, 0, 12, 12).to_image();
        let small = to_tensor(&[bicubic_8bit(&square, 8, 8)], &unclip.device());
        let drawn = made.trace.decoder.clone().unwrap().narrow(0, 0, 1);
        let differs = (drawn - small).abs().into_data();
        let differs: Vec<f32> = differs.iter::<f32>().collect();
        for (at, difference) in differs.iter().enumerate() {
            let (x, y) = (at % 8, at / 8 % 8);
            if (1..5).contains(&x) && (1..5).contains(&y) {
                assert!(*difference > 0.0, "{x} {y}");
            } else {
                let most = if (x, y) == (7, 7) { 0.0 } else { 0.3 };
                assert!(*difference <= most, "{x} {y}: {difference}");
            }
        }
        // each result as it is alone
        let second = options.with_n(1).with_seed(4);
        let alone = unclip.inpaint((&picture, &mask), subject, Some(resampling), &second).unwrap();
        assert_eq!(alone.pictures[0].image, made.pictures[1].image);
    }
}

#[test]
fn what_lies_in_a_hole_does_not_show_beside_it() {
    let (unclip, picture) = (unclip(), picture());
    let mask = mask([6, 2, 11, 7]);
    let mut other = picture.clone();
    for (x, y, pixel) in other.enumerate_pixels_mut() {
        if mask.get_pixel(x, y)[0] == 255 {
            *pixel = image::Rgb([255, 0, 255]);
        }
    }
    let draw = |picture: &RgbImage| {
        let subject = Subject::Caption(CAPTION);
        let made = unclip.inpaint((picture, &mask), subject, None, &options(3));
        made.unwrap().images()
    };
    assert_eq!(draw(&picture), draw(&other));
}

#[test]
fn a_mask_without_white_gives_the_picture_back() {
    let (unclip, picture) = (unclip(), picture());
    let (subject, none) = (Subject::Picture(&picture), mask([0; 4]));
    let made = unclip.inpaint((&picture, &none), subject, None, &options(3));
    assert_eq!(made.unwrap().pictures[0].image, picture);
}

#[test]
fn masks_that_cannot_be_followed_are_refused() {
    let (unclip, picture) = (unclip(), picture());
    let inpaint = |mask: &GrayImage, resampling: Option<Resampling>, options: &GenerateOptions| {
        unclip.inpaint((&picture, mask), Subject::Caption(CAPTION), resampling, options)
    };
    let plain = None;
    let good = mask([6, 2, 11, 7]);
    refused(
        inpaint(&GrayImage::new(12, 20), plain, &options(3)),
        &["mask is 12 × 20 pixels", "expected 20 × 12 pixels"],
    );
    refused(
        inpaint(&mask([2, 2, 11, 7]), plain, &options(3)),
        &["white beyond the square in the middle", "12 × 12"],
    );
    let times = |jump, times| Some(Resampling { jump, times });
    refused(inpaint(&good, times(0, 1), &options(3)), &["jump of the resampling is 0"]);
    refused(inpaint(&good, times(1, 0), &options(3)), &["times of the resampling is 0"]);
    let solver =
        StageOptions::default().with_sampler("dpm_solver".parse::<unclip::SamplerKind>().unwrap());
    refused(
        inpaint(&good, plain, &GenerateOptions::default().with_decoder(solver)),
        &["sampler of an inpainting is dpm_solver", "ddpm, analytic_dpm, ddim or heun"],
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("noise.safetensors");
    unclip.text_to_image(CAPTION, &options(3)).unwrap().trace.save(&path).unwrap();
    let noise = std::sync::Arc::new(RecordedNoise::open(&path).unwrap());
    let subject = Subject::Picture(&picture);
    let recorded = options(3).with_noise(noise);
    let made = unclip.inpaint((&picture, &good), subject, plain, &recorded);
    refused(made, &["recorded noise", "noise.safetensors"]);
}

#[test]
fn strength_is_the_share_of_the_steps() {
    let (unclip, picture) = (unclip(), picture());
    let draw = |strength: f64| {
        let subject = Subject::Caption(CAPTION);
        unclip.image_to_image(&picture, strength, subject, &options(10))
    };
    let mut before = Vec::new();
    for (strength, steps) in [(0.01, 1), (0.3, 3), (0.66, 6), (1.0, 10)] {
        let made = draw(strength).unwrap();
        let decoder = made.costs.iter().find(|cost| cost.stage == StageId::Decoder).unwrap();
        assert_eq!(decoder.calls.len(), steps, "{strength}");
        assert!(!before.contains(&made.pictures[0].image));
        before.push(made.pictures[0].image.clone());
    }
    for strength in [0.0, -0.5, 1.5, f64::NAN] {
        refused(draw(strength), &["strength is", "above 0, up to 1"]);
    }
}

//! A tiny model from its folder to pictures, and back from the pictures to their recipes.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use burn::tensor::Device;
use image::RgbImage;
use unclip::clip::TextEncoderConfig;
use unclip::unclip_core::SamplerKind;
use unclip::unclip_nn::checkpoint::{StageFiles, save_stage};
use unclip::{
    Bundle, Error, Event, GenerateOptions, Generated, Precision, Residency, Stage, StageOptions,
    UnClip, grid, read_settings, write_png,
};

use crate::support::{Model, SPACE, STEPS};

const CAPTION: &str = "a red circle";

fn generate(unclip: &UnClip, options: &GenerateOptions) -> Generated {
    unclip.text_to_image(CAPTION, options, &mut ()).unwrap()
}

fn options(seed: u64, n: usize) -> GenerateOptions {
    GenerateOptions { seed, n, ..GenerateOptions::default() }
}

#[test]
fn a_folder_gives_pictures() {
    let model = Model::new();
    let unclip = model.load().unwrap();
    assert_eq!(unclip.bundle().image_size(), 32);
    let made = generate(&unclip, &options(5, 2));
    assert_eq!(made.images.len(), 2);
    assert!(made.images.iter().all(|image| image.dimensions() == (32, 32)));
    assert_ne!(made.images[0], made.images[1]);
    assert_eq!(made.dropped, [None]);
    assert_eq!(made.settings[1].seed, 6);
    assert_eq!(made.settings[0].embedding_space, SPACE);
    let stages: Vec<Stage> = made.costs.iter().map(|cost| cost.stage).collect();
    let upsamplers = [Stage::Upsampler(0), Stage::Upsampler(1)];
    assert_eq!(stages[..3], [Stage::TextEncoder, Stage::Prior, Stage::Decoder]);
    assert_eq!(stages[3..], upsamplers);
    let calls: Vec<usize> = made.costs[1..].iter().map(|cost| cost.calls.len()).collect();
    assert_eq!(calls, STEPS);
    assert!(made.costs.iter().all(|cost| cost.parameters > 100));
}

#[test]
fn what_is_loaded_is_what_was_saved() {
    let (model, device) = (Model::new(), Device::flex());
    let folder = model.path("text_encoder");
    let open = || StageFiles::<TextEncoderConfig>::open(&folder).unwrap();
    let read = || std::fs::read(folder.join("model.safetensors")).unwrap();
    let before = read();
    let files = open();
    let network = files.load(&device).unwrap();
    let save = |format| save_stage(&folder, SPACE, &files.manifest.config, &network, format);
    save(Precision::F32).unwrap();
    assert!(before == read(), "32 bits keep every bit");
    save(Precision::F16).unwrap();
    assert!(read().len() * 3 < before.len() * 2);
    open().load(&device).unwrap();
    generate(&model.load().unwrap(), &options(0, 1));
}

#[test]
fn a_seed_is_a_picture() {
    let model = Model::new();
    let [first, second] = [model.load().unwrap(), model.load().unwrap()];
    let picture = generate(&first, &options(1, 1)).images;
    assert_eq!(picture, generate(&first, &options(1, 1)).images);
    assert_eq!(picture, generate(&second, &options(1, 1)).images);
    assert_ne!(picture, generate(&first, &options(2, 1)).images);
    let other = first.text_to_image("a blue square", &options(1, 1), &mut ()).unwrap();
    assert_ne!(picture, other.images);
}

#[test]
fn a_picture_does_not_depend_on_its_batch() {
    let unclip = Model::new().load().unwrap();
    for sampler in [SamplerKind::Ddpm, SamplerKind::Ddim] {
        let stage = StageOptions { sampler: Some(sampler), ..StageOptions::default() };
        let options = GenerateOptions {
            prior: stage,
            decoder: stage,
            upsample: stage,
            ..options(u64::MAX - 1, 5)
        };
        let batch = generate(&unclip, &options);
        for (image, settings) in batch.images.iter().zip(&batch.settings) {
            let alone = generate(
                &unclip,
                &GenerateOptions { seed: settings.seed, n: 1, ..options.clone() },
            );
            assert_eq!(*image, alone.images[0], "seed {}", settings.seed);
            assert_eq!(*settings, alone.settings[0]);
        }
    }
}

#[test]
fn networks_that_are_loaded_one_by_one_give_the_same_pictures() {
    let model = Model::new();
    let resident = model.load().unwrap();
    let bundle = model.open().unwrap();
    let one_by_one = UnClip::new(bundle, &Device::flex(), Residency::OneByOne).unwrap();
    let options = options(3, 2);
    for _ in 0..2 {
        assert_eq!(generate(&resident, &options).images, generate(&one_by_one, &options).images);
    }
}

/// The bundled model's files are f16: keeping its weights so loses nothing on the processor, which
/// widens them.
#[test]
fn weights_kept_as_they_are_give_the_same_pictures() {
    let steps = StageOptions { steps: Some(2), ..Default::default() };
    let options =
        GenerateOptions { prior: steps, decoder: steps, upsample: steps, ..options(1, 1) };
    let [wide, narrow, narrower] =
        [Precision::F32, Precision::F16, Precision::BF16].map(|format| {
            let place = (&Device::flex(), format);
            let unclip =
                UnClip::new(Bundle::shapes().unwrap(), place, Residency::OneByOne).unwrap();
            let made = generate(&unclip, &options);
            assert_eq!(made.settings[0].precision, format);
            made.images
        });
    assert_eq!(wide, narrow);
    assert_ne!(wide, narrower);
}

#[test]
fn a_stop_at_any_step_leaves_the_pipeline_as_it_was() {
    let unclip = Model::new().load().unwrap();
    let options = options(4, 1);
    let expected = generate(&unclip, &options).images;
    let stages = [Stage::Prior, Stage::Decoder, Stage::Upsampler(0), Stage::Upsampler(1)];
    let steps = stages.iter().zip(STEPS).flat_map(|(&s, n)| (1..=n).map(move |k| (s, k, n)));
    for (number, (at, k, n)) in steps.enumerate() {
        let mut heard = 0;
        let mut observer = |event: &Event<'_>| {
            heard += 1;
            assert_eq!(event.preview.is_some(), event.stage != Stage::Prior);
            match heard > number {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let error = unclip.text_to_image(CAPTION, &options, &mut observer).unwrap_err();
        let Error::Stopped { stage, done, total } = error else { panic!("{error}") };
        assert_eq!((stage, done, total), (at, k, n));
        assert_eq!(error.to_string(), format!("stopped in the {at} after step {k} of {n}"));
        assert_eq!(heard, number + 1, "nothing is computed after the stop");
    }
    assert_eq!(generate(&unclip, &options).images, expected);
}

#[test]
fn an_observer_that_panics_leaves_the_pipeline_as_it_was() {
    let unclip = Model::new().load().unwrap();
    let options = options(4, 1);
    let expected = generate(&unclip, &options).images;
    let mut observer = |event: &Event<'_>| match event.stage {
        // not a panic with a message, which would stand in the log of the tests
        Stage::Decoder => std::panic::resume_unwind(Box::new("observer")),
        _ => ControlFlow::Continue(()),
    };
    let call = AssertUnwindSafe(|| unclip.text_to_image(CAPTION, &options, &mut observer));
    let payload = catch_unwind(call).unwrap_err();
    assert_eq!(*payload.downcast::<&str>().unwrap(), "observer");
    assert_eq!(generate(&unclip, &options).images, expected);
}

#[test]
fn threads_share_a_pipeline() {
    const fn shared<T: Send + Sync>() {}
    const { shared::<UnClip>() };
    let model = Model::new();
    for residency in [Residency::Resident, Residency::OneByOne] {
        let bundle = model.open().unwrap();
        let unclip = Arc::new(UnClip::new(bundle, &Device::flex(), residency).unwrap());
        // the first use of each network is among what is shared
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let unclip = Arc::clone(&unclip);
                std::thread::spawn(move || generate(&unclip, &options(seed, 1)).images)
            })
            .collect();
        for (seed, thread) in threads.into_iter().enumerate() {
            let serial = generate(&unclip, &options(seed as u64, 1)).images;
            assert_eq!(thread.join().unwrap(), serial);
        }
    }
}

#[test]
fn a_file_keeps_its_recipe() {
    let unclip = Model::new().load().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    let captions = [
        String::new(),
        "a \0 circle".into(),
        "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{1f3f3}\u{fe0f}".into(),
        "\u{645}\u{631}\u{628}\u{639} \u{202e}detrevni\u{202c}".into(),
        "\"quotes\" \\ \r\n\t \u{85}\u{2028} \u{fffd} e\u{301}".into(),
        "long ".repeat(200_000),
    ];
    for caption in captions {
        let made = unclip.text_to_image(&caption, &options(u64::MAX, 1), &mut ()).unwrap();
        write_png(&path, &made.images[0], Some(&made.settings[0])).unwrap();
        let settings = read_settings(&path).unwrap();
        assert_eq!(settings.prompt, caption);
        assert_eq!(settings, made.settings[0]);
        let pixels = image::open(&path).unwrap().into_rgb8();
        assert_eq!(pixels, made.images[0]);
        let again = unclip.text_to_image(&settings.prompt, &settings.options(), &mut ()).unwrap();
        assert_eq!(again.images[0], made.images[0]);
    }
}

#[test]
fn a_recipe_makes_its_picture_again_whatever_was_chosen() {
    let unclip = Model::new().load().unwrap();
    let stage = |steps, guidance_scale, sampler| StageOptions { steps, guidance_scale, sampler };
    let ddim = Some(SamplerKind::Ddim);
    let choices = [
        GenerateOptions { n: 3, ..GenerateOptions::default() },
        GenerateOptions { prior: stage(Some(4), Some(1.5), ddim), ..options(1, 2) },
        GenerateOptions { decoder: stage(Some(2), Some(0.0), None), ..options(2, 1) },
        GenerateOptions { upsample: stage(Some(3), None, None), ..options(3, 1) },
        GenerateOptions { upsample: stage(None, None, ddim), ..options(4, 1) },
    ];
    for choice in choices {
        let made = generate(&unclip, &choice);
        for (image, settings) in made.images.iter().zip(&made.settings) {
            let again = unclip.text_to_image(&settings.prompt, &settings.options(), &mut ());
            let again = again.unwrap();
            assert_eq!(again.settings, std::slice::from_ref(settings));
            assert_eq!(again.images[0], *image);
        }
    }
}

#[test]
fn a_written_file_replaces_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    for side in [4, 2] {
        write_png(&path, &RgbImage::new(side, side), None).unwrap();
        assert_eq!(image::image_dimensions(&path).unwrap(), (side, side));
    }
    assert_eq!(crate::support::names(folder.path()), ["picture.png"]);
}

#[test]
fn pictures_stand_in_a_square() {
    let color = |i: u8| RgbImage::from_pixel(3, 2, image::Rgb([i; 3]));
    assert_eq!(grid(&[]).dimensions(), (0, 0));
    assert_eq!(grid(&[color(9)]), color(9));
    let sheet = grid(&[color(0), color(1), color(2), color(3), color(4)]);
    assert_eq!(sheet.dimensions(), (3 * 3 + 2 * 2, 2 * 2 + 2));
    assert_eq!(sheet.get_pixel(5, 0).0, [1; 3]);
    assert_eq!(sheet.get_pixel(5, 4).0, [4; 3]);
    assert_eq!(sheet.get_pixel(3, 0).0, [128; 3]);
    assert_eq!(sheet.get_pixel(12, 5).0, [128; 3]);
    let larger = RgbImage::from_pixel(9, 9, image::Rgb([7; 3]));
    assert_eq!(grid(&[color(0), larger]).dimensions(), (3 * 2 + 2, 2));
}

//! A tiny model from its folder to pictures, and back from the pictures to their recipes.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use burn::tensor::Device;
use image::RgbImage;
use unclip::clip::TextEncoderConfig;
use unclip::decoder::Condition;
use unclip::unclip_core::image::to_rgb;
use unclip::unclip_core::{Limit, normalize};
use unclip::unclip_nn::checkpoint::{StageFiles, save_stage};
use unclip::{
    Bundle, Ddim, Error, Event, GenerateOptions, Generated, Heun, Precision, Recipe, Residency,
    SamplerKind, Spacing, StageId, StageOptions, Start, TimestepRange, UnClip, grid,
    picture_from_bytes, read_picture, strip, write_picture,
};

use crate::support::{Changed, Model, SPACE, STEPS, refused};

const CAPTION: &str = "a red circle";

fn generate(unclip: &UnClip, options: &GenerateOptions) -> Generated {
    unclip.text_to_image(CAPTION, options).unwrap()
}

fn options(seed: u64, n: usize) -> GenerateOptions {
    GenerateOptions::default().with_seed(seed).with_n(n)
}

/// The same choices for every stage.
fn everywhere(stage: StageOptions) -> GenerateOptions {
    let options = GenerateOptions::default().with_prior(stage.clone());
    options.with_decoder(stage.clone()).with_upsampler(stage)
}

#[test]
fn a_folder_gives_pictures() {
    let model = Model::new();
    let unclip = model.load().unwrap();
    assert_eq!(unclip.bundle().image_size(), 32);
    let made = generate(&unclip, &options(5, 2));
    let [first, second] = &made.pictures[..] else { panic!("two pictures") };
    assert!(made.images().iter().all(|image| image.dimensions() == (32, 32)));
    assert_ne!(first.image, second.image);
    assert_eq!(made.dropped, [None]);
    assert_eq!(made.dropped_negative, None);
    assert_eq!(second.recipe.seed, 6);
    assert_eq!(
        first.recipe.weights.keys().collect::<Vec<_>>(),
        ["decoder", "prior", "text_encoder", "upsampler.0", "upsampler.1"]
    );
    let stages: Vec<StageId> = made.costs.iter().map(|cost| cost.stage).collect();
    let upsamplers = [StageId::Upsampler(0), StageId::Upsampler(1)];
    assert_eq!(stages[..3], [StageId::TextEncoder, StageId::Prior, StageId::Decoder]);
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
    let picture = generate(&first, &options(1, 1)).images();
    assert_eq!(picture, generate(&first, &options(1, 1)).images());
    assert_eq!(picture, generate(&second, &options(1, 1)).images());
    assert_ne!(picture, generate(&first, &options(2, 1)).images());
    let other = first.text_to_image("a blue square", &options(1, 1)).unwrap();
    assert_ne!(picture, other.images());
}

#[test]
fn a_picture_does_not_depend_on_its_batch() {
    let unclip = Model::new().load().unwrap();
    for sampler in ["ddpm", "ddim", "ddim:0.5", "dpm_solver", "heun"] {
        let sampler: SamplerKind = sampler.parse().unwrap();
        let options = everywhere(StageOptions::default().with_sampler(sampler));
        let batch = generate(&unclip, &options.clone().with_seed(u64::MAX - 1).with_n(5));
        for picture in &batch.pictures {
            let seed = picture.recipe.seed;
            let alone = generate(&unclip, &options.clone().with_seed(seed));
            assert_eq!(*picture, alone.pictures[0], "seed {seed}");
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
        assert_eq!(
            generate(&resident, &options).images(),
            generate(&one_by_one, &options).images()
        );
    }
}

/// The bundled model's files are f16: keeping its weights so loses nothing on the CPU, which
/// widens them.
#[test]
fn weights_kept_as_they_are_give_the_same_pictures() {
    let options = everywhere(StageOptions::default().with_steps(2)).with_seed(1);
    let [wide, narrow, narrower] =
        [Precision::F32, Precision::F16, Precision::BF16].map(|format| {
            let place = (&Device::flex(), format);
            let unclip =
                UnClip::new(Bundle::shapes().unwrap(), place, Residency::OneByOne).unwrap();
            let made = generate(&unclip, &options);
            assert_eq!(made.pictures[0].recipe.precision, format);
            made.images()
        });
    assert_eq!(wide, narrow);
    assert_ne!(wide, narrower);
}

#[test]
fn a_stop_at_any_step_leaves_the_pipeline_as_it_was() {
    let unclip = Model::new().load().unwrap();
    let options = options(4, 1);
    let expected = generate(&unclip, &options).images();
    let stages = [StageId::Prior, StageId::Decoder, StageId::Upsampler(0), StageId::Upsampler(1)];
    let steps = stages.iter().zip(STEPS).flat_map(|(&s, n)| (1..=n).map(move |k| (s, k, n)));
    for (number, (at, k, n)) in steps.enumerate() {
        let mut heard = 0;
        let mut observer = |event: &Event<'_>| {
            assert_eq!((event.call_index, event.call_total), (heard, Some(STEPS.iter().sum())));
            heard += 1;
            assert_eq!(event.preview.is_some(), event.stage != StageId::Prior);
            assert_eq!(event.pictures().map(|it| it.len()), event.preview.map(|_| 1));
            if heard > number { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let error = unclip.observed(&mut observer).text_to_image(CAPTION, &options).unwrap_err();
        let Error::Stopped { stage, done, total } = error else { panic!("{error}") };
        assert_eq!((stage, done, total), (at, k, n));
        assert_eq!(error.to_string(), format!("stopped in the {at} after step {k} of {n}"));
        assert_eq!(heard, number + 1, "nothing is computed after the stop");
    }
    assert_eq!(generate(&unclip, &options).images(), expected);
}

#[test]
fn an_observer_that_panics_leaves_the_pipeline_as_it_was() {
    let unclip = Model::new().load().unwrap();
    let options = options(4, 1);
    let expected = generate(&unclip, &options).images();
    let mut observer = |event: &Event<'_>| match event.stage {
        // not a panic with a message, which would stand in the log of the tests
        StageId::Decoder => std::panic::resume_unwind(Box::new("observer")),
        _ => ControlFlow::Continue(()),
    };
    let call = AssertUnwindSafe(|| unclip.observed(&mut observer).text_to_image(CAPTION, &options));
    let payload = catch_unwind(call).unwrap_err();
    assert_eq!(*payload.downcast::<&str>().unwrap(), "observer");
    assert_eq!(generate(&unclip, &options).images(), expected);
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
                std::thread::spawn(move || generate(&unclip, &options(seed, 1)).images())
            })
            .collect();
        for (seed, thread) in threads.into_iter().enumerate() {
            let serial = generate(&unclip, &options(seed as u64, 1)).images();
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
        let made = unclip.text_to_image(&caption, &options(u64::MAX, 1)).unwrap();
        made.pictures[0].save(&path).unwrap();
        let recipe = Recipe::read(&path).unwrap();
        assert_eq!(recipe.prompt, caption);
        assert_eq!(recipe, made.pictures[0].recipe);
        let pixels = read_picture(&path).unwrap();
        assert_eq!(pixels, made.pictures[0].image);
        let bytes = made.pictures[0].to_bytes(unclip::PictureFormat::Png).unwrap();
        assert_eq!(bytes, std::fs::read(&path).unwrap());
        assert_eq!(pixels, picture_from_bytes(&bytes).unwrap());
        let again = unclip.text_to_image(&recipe.prompt, &recipe.options()).unwrap();
        assert_eq!(again.pictures, made.pictures);
    }
}

#[test]
fn a_recipe_makes_its_picture_again_whatever_was_chosen() {
    let unclip = Model::new().load().unwrap();
    let (stage, ddim) = (StageOptions::default, Ddim { eta: 0.5 });
    let prior = stage().with_steps(4).with_guidance_scale(1.5).with_sampler(ddim);
    let range = TimestepRange { from: 20, to: 60 };
    let choices = [
        options(0, 3),
        options(1, 2).with_prior(prior.with_guidance_range(range)),
        options(2, 1).with_decoder(stage().with_steps(2).with_guidance_scale(0.0)),
        options(3, 1).with_upsampler(stage().with_steps(3)),
        options(4, 1).with_upsampler(stage().with_sampler(ddim)),
        options(5, 1).with_decoder(stage().with_spacing("2,1".parse().unwrap())),
        options(6, 1).with_prior(stage().with_sampler(Heun).with_spacing(Spacing::LogSnr)),
        options(7, 1).with_upsampler(stage().with_spacing(Spacing::Trailing)),
    ];
    for choice in choices {
        let made = generate(&unclip, &choice);
        for picture in &made.pictures {
            let again = unclip.text_to_image(CAPTION, &picture.recipe.options()).unwrap();
            assert_eq!(again.pictures, std::slice::from_ref(picture));
        }
    }
}

#[test]
fn a_written_file_replaces_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("picture.png");
    for side in [4, 2] {
        write_picture(&path, &RgbImage::new(side, side)).unwrap();
        assert_eq!(image::image_dimensions(&path).unwrap(), (side, side));
    }
    assert_eq!(crate::support::names(folder.path()), ["picture.png"]);
}

#[test]
fn pictures_stand_in_a_square() {
    let color = |i: u8| RgbImage::from_pixel(3, 2, image::Rgb([i; 3]));
    assert_eq!(grid(&[]).dimensions(), (0, 0));
    assert_eq!(grid(&[color(9)]), color(9));
    assert_eq!(strip(&[]).dimensions(), (0, 0));
    assert_eq!(strip(&[color(1), color(2), color(3)]).dimensions(), (3 * 3 + 2 * 2, 2));
    let sheet = grid(&[color(0), color(1), color(2), color(3), color(4)]);
    assert_eq!(sheet.dimensions(), (3 * 3 + 2 * 2, 2 * 2 + 2));
    assert_eq!(sheet.get_pixel(5, 0).0, [1; 3]);
    assert_eq!(sheet.get_pixel(5, 4).0, [4; 3]);
    assert_eq!(sheet.get_pixel(3, 0).0, [128; 3]);
    assert_eq!(sheet.get_pixel(12, 5).0, [128; 3]);
    let larger = RgbImage::from_pixel(9, 9, image::Rgb([7; 3]));
    assert_eq!(grid(&[color(0), larger]).dimensions(), (3 * 2 + 2, 2));
}

#[test]
fn stages_can_be_driven_by_hand_and_give_the_same_picture() {
    let unclip = Model::new().load().unwrap();
    let made = generate(&unclip, &options(5, 1));
    let settings = GenerateOptions::default().resolve(unclip.bundle()).unwrap();
    let prior = settings.prior.unwrap();
    // the text comes from elsewhere: what guidance leads away from is embedded when it is needed
    let text = unclip.embed_texts(&[CAPTION]).unwrap();
    let mut run = unclip.run(&[5]);
    let image = run.prior(&text, &prior).unwrap();
    let condition = Condition::new(image.clone(), text.clone());
    let small = run.decode(&condition, &settings.decoder).unwrap();
    let large = run.upsample(small.clone(), &settings.upsamplers).unwrap();
    assert_eq!(to_rgb(large), made.images());
    // the same in halves, from a start of one's own
    let mut run = unclip.run(&[5]).with_negative_prompt("a blue square");
    let bound = run.bind_decoder(&condition, &settings.decoder).unwrap();
    assert_eq!(bound.sample_shape(), small.dims());
    let away = run.sample(&bound, Start::default()).unwrap();
    assert_ne!(away.into_data(), small.clone().into_data(), "the negative prompt counts");
    let x_t = run.invert(&bound, &small).unwrap();
    assert_eq!(x_t.dims(), small.dims());
    let start = Start { x_t: Some(x_t), steps: Some(1), ..Start::default() };
    let costs = std::mem::take(&mut run.costs);
    assert_eq!(costs.last().unwrap().calls.len(), 2 * STEPS[1] - 1);
    assert_eq!(run.sample(&bound, start).unwrap().dims(), small.dims());
    let error = run.sample(&bound, Start { steps: Some(99), ..Start::default() }).unwrap_err();
    assert!(error.to_string().contains("steps to begin with is 99"), "{error}");
    let error = run.encode::<&str>(&[]).unwrap_err().to_string();
    assert_eq!(error, "captions is 0, expected at least 1");
}

#[test]
fn a_recipe_of_before_is_read() {
    let json = r#"{"prompt":"a pink ring","seed":3,"model":"m","embedding_space":"tiny",
        "prior":{"steps":2,"guidance_scale":2.0,"sampler":"ddpm"},
        "decoder":{"steps":3,"guidance_scale":2.0,"sampler":"ddim"},
        "upsample":[{"steps":2,"guidance_scale":1.0,"sampler":"dpm_solver"}],"version":"0.1.0"}"#;
    let recipe: Recipe = serde_json::from_str(json).unwrap();
    assert_eq!(recipe.settings.upsamplers[0].steps, 2);
    assert_eq!(recipe.settings.decoder.sampler, Ddim { eta: 0.0 }.into());
    let options = recipe.options();
    assert_eq!(options.upsampler.sampler, Some("dpm_solver".parse().unwrap()));
}

#[test]
fn a_recipe_knows_its_model() {
    let model = Model::new();
    let made = generate(&model.load().unwrap(), &options(5, 1));
    let recipe = &made.pictures[0].recipe;
    recipe.check_model(&model.open().unwrap()).unwrap();
    assert!(!recipe.weights.contains_key("image_encoder"));
    model.edit_tensors("decoder", |tensors| tensors[0].bytes[..4].copy_from_slice(&[1, 2, 3, 63]));
    let other = recipe.check_model(&model.open().unwrap());
    refused(other, &["another model", "its decoder has the weights", &recipe.weights["decoder"]]);
    let model = Model::new();
    std::fs::remove_dir_all(model.path("upsampler.1")).unwrap();
    let other = recipe.check_model(&model.open().unwrap());
    refused(other, &["its upsampler.1 has the weights absent"]);
}

#[test]
fn a_recipe_that_no_options_would_give_is_refused() {
    let unclip = Model::new().load().unwrap();
    let recipe = generate(&unclip, &options(1, 1)).pictures[0].recipe.clone();
    let bundle = unclip.bundle();
    recipe.check_model(bundle).unwrap();
    let mut none = recipe.clone();
    none.settings.upsamplers.clear();
    refused(none.check_model(bundle), &["upsampler.0 of the recipe is absent", "as this model"]);
    let mut guided = recipe.clone();
    guided.settings.upsamplers[1].guidance_scale = 3.0;
    refused(
        guided.check_model(bundle),
        &["upsampler.1 of the recipe is", "as this model is driven"],
    );
    let mut endless = recipe;
    endless.settings.decoder.steps = 100_000;
    refused(endless.check_model(bundle), &["decoder steps is 100000"]);
}

#[test]
fn a_negative_prompt_that_would_do_nothing_is_refused() {
    let unclip = Model::new().load().unwrap();
    let idle = everywhere(StageOptions::default()).with_negative_prompt("a star");
    let one = StageOptions::default().with_guidance_scale(1.0);
    let words = [
        "negative prompt is \"a star\"",
        "no stage that reads it has a guidance scale other than 1",
    ];
    let both = idle.clone().with_prior(one.clone()).with_decoder(one.clone());
    refused(unclip.text_to_image(CAPTION, &both), &words);
    drop(unclip.text_to_image(CAPTION, &idle.clone().with_prior(one.clone())).unwrap());
    let pictures = [RgbImage::new(8, 8)];
    refused(unclip.image_variation(&pictures, &idle.with_decoder(one)), &words);
}

#[test]
fn choices_go_before_those_that_they_replace() {
    let made = StageOptions::default().with_steps(25).with_sampler(Heun);
    let asked = StageOptions::default().with_spacing("2,1".parse().unwrap());
    let both = asked.or(made);
    assert_eq!((both.steps, both.sampler), (Some(3), Some(Heun.into())));
    // and are not contradicted by them
    let range = TimestepRange { from: 20, to: 60 };
    let listed = StageOptions::default().with_spacing("2,1".parse().unwrap());
    let made = listed.with_guidance_scale(2.0).with_guidance_range(range);
    let asked = StageOptions::default().with_steps(7).with_guidance_scale(1.0);
    let both = asked.or(made.clone());
    assert_eq!((both.steps, both.spacing, both.guidance_range), (Some(7), None, None));
    let both = StageOptions::default().with_steps(3).or(made);
    assert_eq!((both.spacing.is_some(), both.guidance_range), (true, Some(range)));
}

/// Less memory for a batch makes more parts of it, and the same pictures.
#[test]
fn a_batch_in_parts_gives_the_pictures_of_the_whole() {
    let unclip = Model::new().load().unwrap();
    let decoder = StageOptions::default().with_guidance_scale(3.0);
    let options = options(5, 5).with_decoder(decoder);
    let whole = generate(&unclip, &options);
    for bytes in [1, 1 << 16, 1 << 18] {
        let _changed = Changed::new(Limit::BatchBytes, bytes);
        let parts = generate(&unclip, &options);
        assert_eq!(parts.images(), whole.images(), "{bytes} bytes");
    }
    let varied = |bytes| {
        let _changed = Changed::new(Limit::BatchBytes, bytes);
        let made = unclip.image_variation(&whole.images(), &GenerateOptions::default()).unwrap();
        made.images()
    };
    assert_eq!(varied(1), varied(Limit::BatchBytes.default_value()));
}

#[test]
fn the_candidate_closest_to_the_caption_is_kept() {
    let unclip = Model::new().load().unwrap();
    let settings = GenerateOptions::default().resolve(unclip.bundle()).unwrap().prior.unwrap();
    let text = unclip.embed_texts(&[CAPTION, "a blue square"]).unwrap();
    let cosines = |n: usize| {
        let image = unclip.run(&[5, 6]).best_prior(&text, &settings, n).unwrap();
        let cosine = (normalize(image.0) * normalize(text.pooled.clone())).sum_dim(1);
        cosine.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    let (one, few, many) = (cosines(1), cosines(4), cosines(16));
    for row in 0..2 {
        assert!(one[row] <= few[row] && few[row] <= many[row]);
        assert!(one[row] < many[row], "{one:?} {many:?}");
    }
    let options = options(5, 2).with_candidates(3);
    let made = generate(&unclip, &options);
    assert_eq!(made.pictures[1].recipe.settings.candidates, 3);
    let prior = made.costs.iter().find(|cost| cost.stage == StageId::Prior).unwrap();
    assert_eq!(prior.calls.len(), 3 * STEPS[0]);
    let again = generate(&unclip, &made.pictures[1].recipe.options());
    assert_eq!(again.pictures[0].image, made.pictures[1].image);
    for (n, words) in [(0, "at least 1"), (65, "at most 64 pictures (the limit images")] {
        let options = options.clone().with_candidates(n);
        refused(unclip.text_to_image(CAPTION, &options), &["candidates is", words]);
    }
    let varied = GenerateOptions::default().with_candidates(2);
    refused(unclip.image_variation(&[RgbImage::new(9, 9)], &varied), &["candidates is 2"]);
}

//! Variations with a caption, less of the picture, or by way of the prior; guidance of a caption
//! and a picture apart.

use image::RgbImage;
use unclip::{Ddim, GenerateOptions, Generated, StageId, StageOptions, UnClip, Variation};

use crate::support::{Model, refused};

const CAPTION: &str = "a circle";

fn unclip() -> UnClip {
    Model::new().load().unwrap()
}

fn picture() -> RgbImage {
    RgbImage::from_fn(12, 12, |x, y| image::Rgb([20 * x as u8, 20 * y as u8, 99]))
}

fn options() -> GenerateOptions {
    GenerateOptions::default().with_seed(3).with_n(2)
}

fn vary(unclip: &UnClip, variation: Variation<'_>) -> Generated {
    unclip.vary(&[picture()], &variation, &options()).unwrap()
}

#[test]
fn strength_leads_from_the_caption_to_the_picture() {
    let unclip = unclip();
    let of = |strength| {
        vary(
            &unclip,
            Variation { caption: CAPTION, strength, through_prior: false, ..Variation::default() },
        )
    };
    let none = of(0.0);
    assert_eq!(none.images(), unclip.text_to_image(CAPTION, &options()).unwrap().images());
    let plain = Variation { caption: "", ..Variation::default() };
    assert_eq!(
        vary(&unclip, plain).images(),
        unclip.image_variation(&[picture()], &options()).unwrap().images()
    );
    let (half, full) = (of(0.5), of(1.0));
    assert_ne!(half.images(), none.images());
    assert_ne!(half.images(), full.images());
    assert_ne!(full.images(), vary(&unclip, plain).images(), "the caption counts");
    let prior = |made: &Generated| made.costs.iter().any(|cost| cost.stage == StageId::Prior);
    assert!(prior(&half) && !prior(&full));
    let recipe = &half.pictures[1].recipe;
    assert_eq!((recipe.prompt.as_str(), recipe.strength), (CAPTION, 0.5));
    recipe.check_model(unclip.bundle()).unwrap();
    let variation = Variation {
        caption: &recipe.prompt,
        strength: 0.5,
        through_prior: false,
        ..Variation::default()
    };
    let again = unclip.vary(&[picture()], &variation, &recipe.options()).unwrap();
    assert_eq!(again.images()[0], half.images()[1]);
}

#[test]
fn the_prior_draws_from_a_picture_as_from_a_caption() {
    let unclip = unclip();
    let through = Variation { through_prior: true, ..Variation::default() };
    let made = vary(&unclip, through);
    assert_ne!(made.images(), vary(&unclip, Variation::default()).images());
    assert_ne!(made.images()[0], made.images()[1], "each seed draws its own");
    assert!(made.pictures[0].recipe.through_prior);
    let image = unclip.embed_images(&[picture()]).unwrap();
    let one = GenerateOptions::default().with_seed(3);
    let drawn = unclip.reimagine(&image, &through, &one).unwrap().0.into_data();
    let traced = made.trace.prior.unwrap().narrow(0, 1).0.into_data();
    assert_eq!(drawn, traced);
    // the direction alone counts
    let longer = unclip::ImageEmbedding(image.0.clone() * 2.0);
    let same = unclip.reimagine(&longer, &through, &one).unwrap().0
        - unclip::Tensor::from_data(drawn, &unclip.device());
    assert!(same.abs().max().into_scalar::<f32>() < 1e-4);
}

#[test]
fn every_step_of_every_prior_is_told() {
    let unclip = unclip();
    let both =
        Variation { caption: CAPTION, strength: 0.5, through_prior: true, ..Variation::default() };
    let (mut seen, mut total) = (0, 0);
    let mut observer = |event: &unclip::Event<'_>| {
        assert_eq!(event.call_index, seen);
        seen += 1;
        total = event.call_total.unwrap();
        std::ops::ControlFlow::Continue(())
    };
    unclip.observed(&mut observer).vary(&[picture()], &both, &options()).unwrap();
    assert_eq!(seen, total);
}

#[test]
fn what_a_variation_cannot_be_is_refused() {
    let unclip = unclip();
    for strength in [-0.1, 1.1, f64::NAN] {
        let variation = Variation { strength, ..Variation::default() };
        refused(unclip.vary(&[picture()], &variation, &options()), &["strength of the picture"]);
    }
    let steps = options().with_prior(StageOptions::default().with_steps(2));
    refused(unclip.image_variation(&[picture()], &steps), &["prior options", "full strength"]);
    let half = Variation { strength: 0.5, ..Variation::default() };
    unclip.vary(&[picture()], &half, &steps).unwrap();
    let model = Model::new();
    std::fs::remove_dir_all(model.path("prior")).unwrap();
    let without = model.load().unwrap();
    refused(without.vary(&[picture()], &half, &options()), &["prior"]);
    without.vary(&[picture()], &Variation::default(), &options()).unwrap();
}

#[test]
fn caption_and_picture_are_guided_apart() {
    let unclip = unclip();
    let made = |text: f64, image: Option<f64>| {
        let mut decoder = StageOptions::default().with_guidance_scale(text);
        decoder.image_guidance = image;
        let made = unclip.text_to_image(CAPTION, &options().with_decoder(decoder)).unwrap();
        made.trace.decoder.unwrap()
    };
    let near = |a: &unclip::Tensor<4>, b: &unclip::Tensor<4>| {
        (a.clone() - b.clone()).abs().max().into_scalar::<f32>() < 1e-4
    };
    // with equal scales the branch between falls out
    assert!(near(&made(3.0, Some(3.0)), &made(3.0, None)));
    assert!(near(&made(1.0, Some(1.0)), &made(1.0, None)));
    assert!(near(&made(0.0, Some(0.0)), &made(0.0, None)));
    let apart = [made(3.0, Some(1.0)), made(1.0, Some(3.0)), made(3.0, None)];
    assert!(!near(&apart[0], &apart[1]) && !near(&apart[0], &apart[2]));
    assert!(!near(&apart[1], &apart[2]));
    // a caption whose scale is 0 does not count, but for the variance, which DDIM has no use for
    let decoder = StageOptions::default().with_guidance_scale(0.0).with_image_guidance(2.0);
    let decoder = decoder.with_sampler(Ddim { eta: 0.0 });
    let of = |caption: &str| {
        let image = unclip.embed_images(&[picture()]).unwrap();
        let text = unclip.embed_texts(&[caption]).unwrap();
        let settings = options().with_decoder(decoder.clone()).resolve(unclip.bundle()).unwrap();
        let condition = unclip::decoder::Condition::new(image, text);
        unclip.run(&[1]).decode(&condition, &settings.decoder).unwrap()
    };
    assert!(near(&of(CAPTION), &of("a star")));
}

#[test]
fn a_negative_picture_is_led_away_from() {
    let unclip = unclip();
    let negative = unclip.embed_images(&[RgbImage::new(9, 9)]).unwrap();
    let plain = unclip.text_to_image(CAPTION, &options()).unwrap();
    let away = options().with_negative_image(negative.clone());
    let made = unclip.text_to_image(CAPTION, &away).unwrap();
    assert_ne!(made.images(), plain.images());
    let led_away = |made: &Generated| made.pictures[0].recipe.negative_picture;
    assert!(led_away(&made) && !led_away(&plain));
    let unguided = away.clone().with_decoder(StageOptions::default().with_guidance_scale(1.0));
    refused(unclip.text_to_image(CAPTION, &unguided), &["negative picture", "scale of 1"]);
    let two = options().with_negative_image(negative.repeat_rows(2));
    refused(unclip.text_to_image(CAPTION, &two), &["shape of the negative picture is [2, 6]"]);
}

#[cfg(feature = "autodiff")]
#[test]
fn clip_leads_to_the_caption() {
    use unclip::{ClipGradient, ClipGuidance};

    let unclip = unclip();
    let of = |guidance: Option<(f64, ClipGradient)>| {
        let mut options = options().with_n(4);
        options.clip_guidance = guidance.map(|(scale, gradient)| ClipGuidance { scale, gradient });
        let made = unclip.text_to_image(CAPTION, &options).unwrap();
        // what the upsamplers make of them CLIP does not lead
        let small = unclip::unclip_core::image::to_rgb(made.trace.decoder.clone().unwrap());
        let found = unclip.similarity(&small, &[CAPTION]).unwrap();
        let mean = (0..4).map(|row| found.cosine(row, 0)).sum::<f32>() / 4.0;
        (made, mean)
    };
    let (plain, before) = of(None);
    assert_eq!(of(Some((0.0, ClipGradient::Decoder))).0.images(), plain.images());
    for gradient in [ClipGradient::Decoder, ClipGradient::Estimate] {
        // what random weights make of a small change in the next step may be anything
        let (made, after) = of(Some((30.0, gradient)));
        assert!(after > before + 0.005, "{after} {before}");
        let recipe = &made.pictures[1].recipe;
        assert!(recipe.weights.contains_key("image_encoder"));
        recipe.check_model(unclip.bundle()).unwrap();
        let again = unclip.text_to_image(CAPTION, &recipe.options()).unwrap();
        assert_eq!(again.images()[0], made.images()[1], "and no batch matters");
    }
    let guidance = ClipGuidance { scale: 2.0, gradient: ClipGradient::Decoder };
    let guided = options().with_clip_guidance(guidance);
    refused(unclip.image_variation(&[picture()], &guided), &["CLIP guidance", "no caption"]);
    let odd = ClipGuidance { scale: f64::NAN, ..guidance };
    refused(
        unclip.text_to_image(CAPTION, &options().with_clip_guidance(odd)),
        &["CLIP guidance is NaN"],
    );
    let among = |captions: &[&str]| captions.iter().map(|it| it.to_string()).collect();
    let aimless = options().with_clip_against(among(&["a dog"]));
    refused(unclip.text_to_image(CAPTION, &aimless), &["captions to choose from", "nothing to"]);
    let long = ["a circle ".repeat(50)];
    let cut = guided.clone().with_clip_against(among(&["a dog", &long[0]]));
    refused(
        unclip.text_to_image(CAPTION, &cut),
        &["captions to choose from is \"a circle", "whole"],
    );
    let model = Model::new();
    std::fs::remove_dir_all(model.path("image_encoder")).unwrap();
    refused(model.load().unwrap().text_to_image(CAPTION, &guided), &["image_encoder"]);
}

#[test]
fn a_dynamic_threshold_is_of_the_stages_that_have_a_range() {
    let unclip = unclip();
    let with = |share: f64, scale: f64| {
        let decoder = StageOptions::default().with_dynamic_threshold(share);
        options().with_decoder(decoder.with_guidance_scale(scale))
    };
    let cut = with(1.0, 9.0);
    let mut plain = cut.clone();
    plain.decoder.dynamic_threshold = None;
    let images =
        |options: &GenerateOptions| unclip.text_to_image(CAPTION, options).unwrap().images();
    assert_ne!(images(&cut), images(&plain), "guidance leads out of the range");
    let made = unclip.text_to_image(CAPTION, &cut).unwrap();
    assert_eq!(made.pictures[0].recipe.settings.decoder.dynamic_threshold, Some(1.0));
    assert_eq!(images(&made.pictures[0].recipe.options()), made.images()[..1]);
    for share in [-0.1, 1.1, f64::NAN] {
        refused(unclip.text_to_image(CAPTION, &with(share, 2.0)), &["decoder dynamic threshold"]);
    }
    let prior = StageOptions::default().with_image_guidance(2.0);
    let prior = options().with_prior(prior);
    refused(
        unclip.text_to_image(CAPTION, &prior),
        &["prior image guidance is 2", "only the decoder"],
    );
}

#[cfg(not(feature = "autodiff"))]
#[test]
fn without_gradients_clip_cannot_lead() {
    let gradient = unclip::ClipGradient::Decoder;
    let guidance = unclip::ClipGuidance { scale: 2.0, gradient };
    let guided = options().with_clip_guidance(guidance);
    refused(unclip().text_to_image(CAPTION, &guided), &["CLIP guidance", "--features autodiff"]);
}

/// The prior may start from a picture's embedding, with as much noise as its share of steps asks for.
#[test]
fn a_prior_may_start_from_a_picture() {
    let unclip = unclip();
    let picture = [picture()];
    let vary = |prior_strength: f64| {
        let prior_strength = Some(prior_strength);
        let variation = Variation { caption: CAPTION, prior_strength, ..Variation::default() };
        unclip.vary(&picture, &variation, &GenerateOptions::default())
    };
    let cosine = |made: &Generated| {
        let [a, b] = [&made.trace.image, &made.trace.prior].map(|it| it.clone().unwrap().0);
        let product = unclip::unclip_core::normalize(a) * unclip::unclip_core::normalize(b);
        product.sum().into_scalar::<f32>()
    };
    let [little, much] = [0.1, 1.0].map(|share| vary(share).unwrap());
    assert!(cosine(&little) > cosine(&much), "{} {}", cosine(&little), cosine(&much));
    let steps = |made: &Generated| {
        let cost = made.costs.iter().find(|cost| cost.stage == unclip::StageId::Prior);
        cost.unwrap().calls.len()
    };
    let all = steps(&much);
    assert_eq!(steps(&little), ((all as f64 * 0.1) as usize).max(1));
    assert_eq!(little.pictures[0].recipe.prior_strength, Some(0.1));
    for (share, expected) in [(0.0, "above 0, up to 1"), (1.5, "above 0"), (f64::NAN, "above 0")] {
        refused(vary(share), &["strength of the prior is", expected]);
    }
    // its recipe makes it again, alone
    let recipe = &little.pictures[0].recipe;
    let variation = Variation {
        caption: &recipe.prompt,
        strength: recipe.strength,
        prior_strength: recipe.prior_strength,
        ..Variation::default()
    };
    let again = unclip.vary(&picture, &variation, &recipe.options()).unwrap();
    assert_eq!(again.images(), little.images());
    let plain = GenerateOptions::default();
    unclip.vary(&picture, &Variation { strength: 0.5, ..variation }, &plain).unwrap();
    refused(
        unclip.vary(&picture, &variation, &plain.clone().with_candidates(2)),
        &["candidates is 2", "draws one embedding"],
    );
    refused(
        unclip.vary(&picture, &Variation { strength: 0.0, ..variation }, &plain),
        &["strength of the picture is 0"],
    );
    let both = Variation { through_prior: true, prior_strength: Some(0.5), ..Variation::default() };
    refused(
        unclip.vary(&picture, &both, &GenerateOptions::default()),
        &["strength of the prior is 0.5", "in one way or the other"],
    );
}

//! Every prior: which of them draws, what it is asked, and what its recipe says.

use std::sync::Arc;

use serde_json::json;
use unclip::unclip_core::normalize;
use unclip::{
    AnalyticDpm, Ddpm, Gallery, GenerateOptions, ImageEmbedding, PriorKind, PriorSettings, Recipe,
    SamplerKind, Spacing, StageId, StageOptions, Tensor, UnClip,
};

use crate::support::{Model, ar_prior, refused};

const CAPTION: &str = "a circle";

fn ar() -> GenerateOptions {
    GenerateOptions::default().with_seed(4).with_prior_kind(PriorKind::Autoregressive)
}

/// Six embeddings, one in each direction.
fn gallery(unclip: &UnClip) -> Gallery {
    let names = (0..6).map(|number| format!("{number}.png")).collect();
    Gallery::new(ImageEmbedding(Tensor::eye(6, &unclip.device())), names).unwrap()
}

fn retrieval(unclip: &UnClip) -> GenerateOptions {
    let gallery = Arc::new(gallery(unclip));
    GenerateOptions::default().with_prior_kind(PriorKind::Retrieval).with_gallery(gallery)
}

fn embedding(unclip: &UnClip, options: &GenerateOptions) -> Vec<f32> {
    let drawn = unclip.imagine(&[CAPTION], options).unwrap().0;
    drawn.into_data().iter::<f32>().collect()
}

#[test]
fn each_prior_draws_and_its_recipe_makes_the_picture_again() {
    let unclip = Model::with_ar_prior().load().unwrap();
    let diffusion = ar().with_prior_kind(PriorKind::Diffusion);
    let made = [
        ("prior", unclip.text_to_image(CAPTION, &diffusion).unwrap()),
        ("ar_prior", unclip.text_to_image(CAPTION, &ar()).unwrap()),
    ];
    assert_ne!(made[0].1.pictures[0].image, made[1].1.pictures[0].image);
    for (stage, made) in &made {
        let recipe = &made.pictures[0].recipe;
        let stages: Vec<&String> = recipe.weights.keys().collect();
        assert!(stages.iter().any(|name| name == stage), "{stages:?}");
        assert_eq!(stages.iter().filter(|name| name.ends_with("prior")).count(), 1, "{stages:?}");
        let text = serde_json::to_string(recipe).unwrap();
        let again: Recipe = serde_json::from_str(&text).unwrap();
        assert_eq!(again, *recipe);
        again.check_model(unclip.bundle()).unwrap();
        let picture = unclip.text_to_image(CAPTION, &again.options()).unwrap();
        assert_eq!(picture.pictures[0].image, made.pictures[0].image);
    }
    let of_stage = |stage| made[1].1.costs.iter().find(|cost| cost.stage == stage);
    assert_eq!(of_stage(StageId::ArPrior).unwrap().calls.len(), ar_prior().n_codes);
    assert!(of_stage(StageId::Prior).is_none());
}

/// A table that leaves nothing open is DDPM with its smaller variance.
#[test]
fn what_the_prior_leaves_open_is_drawn() {
    let model = Model::new();
    let with = |table: Option<f64>, sampler: SamplerKind| {
        if let Some(variance) = table {
            let table = json!([variance, variance]);
            model.edit_config("prior", |json| json["config"]["diffusion"]["uncertainty"] = table);
        }
        let mut options = GenerateOptions::default().with_seed(4);
        options.prior = StageOptions::default().with_sampler(sampler).with_steps(5);
        model.load().unwrap().imagine(&[CAPTION], &options)
    };
    let values = |image: ImageEmbedding| image.0.into_data().iter::<f32>().collect::<Vec<_>>();
    refused(
        with(None, AnalyticDpm.into()),
        &["prior sampler is analytic_dpm", "diffusion.uncertainty in the stage's config.json"],
    );
    let plain = values(with(None, Ddpm.into()).unwrap());
    assert_eq!(values(with(Some(0.0), AnalyticDpm.into()).unwrap()), plain);
    assert_ne!(values(with(Some(0.5), AnalyticDpm.into()).unwrap()), plain);
}

#[test]
fn the_diffusion_prior_is_the_default_where_there_are_both() {
    let model = Model::with_ar_prior();
    let kind = |unclip: &UnClip| {
        let settings = GenerateOptions::default().resolve(unclip.bundle()).unwrap();
        settings.prior.map(|prior| prior.kind())
    };
    assert_eq!(kind(&model.load().unwrap()), Some(PriorKind::Diffusion));
    std::fs::remove_dir_all(model.path("prior")).unwrap();
    let unclip = model.load().unwrap();
    assert_eq!(kind(&unclip), Some(PriorKind::Autoregressive));
    unclip.text_to_image(CAPTION, &GenerateOptions::default()).unwrap();
    refused(
        unclip.text_to_image(CAPTION, &ar().with_prior_kind(PriorKind::Diffusion)),
        &["has no prior", "expected a folder `prior`"],
    );
    let without = Model::new().load().unwrap();
    refused(without.text_to_image(CAPTION, &ar()), &["ar_prior"]);
}

#[test]
fn a_picture_does_not_depend_on_its_batch_and_observers_see_every_code() {
    let unclip = Model::with_ar_prior().load().unwrap();
    let both = unclip.text_to_image(CAPTION, &ar().with_n(2)).unwrap();
    let second = unclip.text_to_image(CAPTION, &ar().with_seed(5)).unwrap();
    assert_eq!(both.pictures[1].image, second.pictures[0].image);
    let mut seen = Vec::new();
    let mut observer = |event: &unclip::Event<'_>| {
        assert!(event.call_index < event.call_total.unwrap());
        if event.stage == StageId::ArPrior {
            assert!(event.preview.is_none());
            seen.push(event.timestep);
        }
        std::ops::ControlFlow::Continue(())
    };
    unclip.observed(&mut observer).text_to_image(CAPTION, &ar()).unwrap();
    assert_eq!(seen, [3, 2, 1, 0]);
}

#[test]
fn guidance_and_candidates_are_those_of_any_prior() {
    let unclip = Model::with_ar_prior().load().unwrap();
    let scale = |scale| ar().with_prior(StageOptions::default().with_guidance_scale(scale));
    assert_eq!(embedding(&unclip, &scale(1.5)), embedding(&unclip, &ar()), "the model's own scale");
    // with a scale of 0 the caption does not count
    let other = unclip.imagine(&["a star"], &scale(0.0)).unwrap().0;
    let other: Vec<f32> = other.into_data().iter::<f32>().collect();
    assert_eq!(embedding(&unclip, &scale(0.0)), other);
    let text = normalize(unclip.embed_texts(&[CAPTION]).unwrap().pooled);
    let cosine = |n: usize| {
        let drawn = unclip.imagine(&[CAPTION], &ar().with_candidates(n)).unwrap().0;
        (normalize(drawn) * text.clone()).sum().into_scalar::<f32>()
    };
    assert!(cosine(1) <= cosine(8) && cosine(8) <= cosine(32) && cosine(1) < cosine(32));
}

#[test]
fn options_of_another_prior_are_refused() {
    let unclip = Model::with_ar_prior().load().unwrap();
    let prior = StageOptions::default;
    for options in [prior().with_steps(9), prior().with_spacing(Spacing::Trailing)] {
        refused(unclip.imagine(&[CAPTION], &ar().with_prior(options)), &["prior options", "code"]);
    }
    let odd = ar().with_prior(prior().with_guidance_scale(f64::NAN));
    refused(unclip.imagine(&[CAPTION], &odd), &["ar_prior guidance is NaN"]);
    refused(unclip.imagine(&[CAPTION], &ar().with_neighbors(2)), &["neighbors is 2"]);
    let stray = ar().with_gallery(Arc::new(gallery(&unclip)));
    refused(unclip.imagine(&[CAPTION], &stray), &["gallery", "only the prior retrieval"]);
    let bare = GenerateOptions::default().with_prior_kind(PriorKind::Retrieval);
    refused(unclip.imagine(&[CAPTION], &bare), &["gallery for the prior retrieval is absent"]);
    let with = |change: fn(GenerateOptions) -> GenerateOptions| change(retrieval(&unclip));
    refused(unclip.imagine(&[CAPTION], &with(|it| it.with_neighbors(7))), &["neighbors is 7", "6"]);
    refused(unclip.imagine(&[CAPTION], &with(|it| it.with_neighbors(0))), &["neighbors is 0"]);
    refused(unclip.imagine(&[CAPTION], &with(|it| it.with_candidates(2))), &["candidates is 2"]);
    let stepped = with(|it| it.with_prior(StageOptions::default().with_steps(3)));
    refused(unclip.imagine(&[CAPTION], &stepped), &["prior options", "no steps"]);
    let picture = image::RgbImage::new(8, 8);
    refused(unclip.image_variation(&[picture], &ar()), &["prior is ar", "absent"]);
}

#[test]
fn retrieval_takes_the_nearest() {
    let unclip = Model::new().load().unwrap();
    let text = unclip.embed_texts(&[CAPTION]).unwrap().pooled;
    let values: Vec<f32> = text.into_data().iter::<f32>().collect();
    let mut order: Vec<usize> = (0..6).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let drawn = embedding(&unclip, &retrieval(&unclip));
    assert_eq!(drawn[order[0]], 1.0, "{drawn:?}");
    // of several, each now and then, and no other
    let many = retrieval(&unclip).with_neighbors(2);
    let found = |seed| {
        let drawn = embedding(&unclip, &many.clone().with_seed(seed));
        drawn.iter().position(|&v| v == 1.0).unwrap()
    };
    let mut found: Vec<usize> = (0..20).map(found).collect();
    found.sort_unstable();
    found.dedup();
    let mut expected = order[..2].to_vec();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let made = unclip.text_to_image(CAPTION, &many).unwrap();
    let recipe = &made.pictures[0].recipe;
    assert!(!recipe.weights.keys().any(|stage| stage.ends_with("prior")));
    assert!(matches!(&recipe.settings.prior, Some(PriorSettings::Retrieval(_))));
    let again = recipe.options().with_gallery(Arc::new(gallery(&unclip)));
    let again = unclip.text_to_image(CAPTION, &again).unwrap();
    assert_eq!(again.pictures[0].image, made.pictures[0].image);
}

#[test]
fn a_gallery_finds_what_is_near_and_refuses_what_it_cannot_compare() {
    let unclip = Model::new().load().unwrap();
    let gallery = gallery(&unclip);
    let query = |values: [f32; 6]| Tensor::<2>::from_floats([values], &unclip.device());
    let found = gallery.nearest(&query([0.0, 2.0, 0.0, -5.0, 1.0, 0.0]), 3).unwrap();
    let numbers: Vec<usize> = found[0].iter().map(|near| near.0).collect();
    assert_eq!(numbers, [1, 4, 0], "of equals the first");
    assert!((found[0][0].1 - 2.0 / 30.0f32.sqrt()).abs() < 1e-6);
    assert_eq!(gallery.nearest(&query([1.0; 6]), 99).unwrap()[0].len(), 6);
    refused(gallery.nearest(&query([0.0; 6]), 1), &["length of the query is 0"]);
    refused(gallery.nearest(&query([f32::NAN; 6]), 1), &["length of the query is NaN"]);
    let narrow = Tensor::<2>::ones([1, 5], &unclip.device());
    refused(gallery.nearest(&narrow, 1), &["width of the query is 5, expected 6"]);
    let image = |row: [f32; 2]| ImageEmbedding(Tensor::from_floats([row], &unclip.device()));
    let names = |n: usize| vec!["a".to_string(); n];
    refused(Gallery::new(image([1.0, 0.0]), names(2)), &["names of embeddings is 2, expected 1"]);
    let none = ImageEmbedding(Tensor::zeros([2, 0], &unclip.device()));
    refused(Gallery::new(none, names(2)), &["names of embeddings is 2"]);
    refused(Gallery::new(image([0.0, 0.0]), names(1)), &["length of the embedding of a is 0"]);
    refused(Gallery::new(image([f32::INFINITY, 0.0]), names(1)), &["length of the embedding of a"]);
}

#[test]
fn a_gallery_comes_back_from_its_file_for_the_same_clip_alone() {
    let model = Model::new();
    let unclip = model.load().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("embeddings.safetensors");
    let gallery = gallery(&unclip);
    gallery.save(&path, unclip.bundle()).unwrap();
    let back = Gallery::open(&path, unclip.bundle()).unwrap();
    assert_eq!((back.names(), back.name()), (gallery.names(), "embeddings.safetensors"));
    let values = |of: &Gallery| of.image(&unclip.device()).0.into_data();
    assert_eq!(values(&back), values(&gallery));
    // the decoder has nothing to do with it
    let change = |stage: &str| {
        let other = Model::new();
        other.edit_tensors(stage, |tensors| tensors[0].bytes[3] ^= 1);
        Gallery::open(&path, other.load().unwrap().bundle()).map(drop)
    };
    change("decoder").unwrap();
    refused(change("image_encoder"), &["embeddings.safetensors", "CLIP", "image_encoder"]);
    refused(change("text_encoder"), &["embeddings.safetensors", "CLIP", "text_encoder"]);
    refused(Gallery::open(model.path("prior/model.safetensors"), unclip.bundle()), &["embed"]);
    refused(Gallery::open(folder.path().join("none"), unclip.bundle()), &["none"]);
    // made by hand
    let whole = std::fs::read(&path).unwrap();
    let odd = folder.path().join("odd.safetensors");
    let open = |bytes: &[u8]| {
        std::fs::write(&odd, bytes).unwrap();
        Gallery::open(&odd, unclip.bundle()).map(drop)
    };
    let header = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let at = whole.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let mut bytes = whole.clone();
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        open(&bytes)
    };
    header("0.png", "9.png").unwrap();
    refused(header("[6,6]", "[4,9]"), &["shape of image in", "[4, 9]", "[6, 6]"]);
    refused(header("\"F32\"", "\"I32\""), &["image in", "I32", "expected F32"]);
    let data = whole.len() - 6 * 6 * 4;
    for (byte, words) in [(0, "length of the embedding of 0.png in"), (0xff, "odd.safetensors")] {
        let mut bytes = whole.clone();
        bytes[data..].fill(byte);
        refused(open(&bytes), &[words]);
    }
    refused(open(&whole[..whole.len() - 1]), &["odd.safetensors"]);
}

#[test]
fn probabilities_are_those_of_the_softmax() {
    let unclip = Model::new().load().unwrap();
    let pictures = [1u8, 9].map(|seed| {
        image::RgbImage::from_fn(9, 9, |x, y| image::Rgb([seed * x as u8, 20 * y as u8, 7]))
    });
    let captions = [CAPTION, "a star", "a blue square"];
    let found = unclip.similarity(&pictures, &captions).unwrap();
    for picture in 0..2 {
        let exps = [0, 1, 2].map(|k| (100.0 * f64::from(found.cosine(picture, k))).exp());
        let sum: f64 = exps.iter().sum();
        for (k, exp) in exps.iter().enumerate() {
            let off = exp / sum - f64::from(found.probability(picture, k));
            assert!(off.abs() < 1e-4, "{off}");
        }
        let best = found.best_captions(picture);
        let cosines = [0, 1, 2].map(|place| found.cosine(picture, best[place]));
        assert!(cosines.is_sorted_by(|a, b| a >= b), "{cosines:?}");
    }
    refused(unclip.similarity(&pictures, &[] as &[&str]), &["captions is 0"]);
    refused(unclip.similarity(&[], &captions), &["pictures"]);
}

#[test]
fn codes_do_not_hide_what_is_not_finite() {
    let model = Model::with_ar_prior();
    model.edit_tensors("ar_prior", |tensors| {
        let head = tensors.iter_mut().find(|it| it.key == "proj_to_buckets.weight").unwrap();
        let huge = f32::MAX.to_le_bytes();
        head.bytes.chunks_mut(4).for_each(|value| value.copy_from_slice(&huge));
    });
    let made = model.load().unwrap().text_to_image(CAPTION, &ar());
    refused(made, &["the ar_prior", "not finite"]);
}

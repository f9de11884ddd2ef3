//! What a call will need, before it is made.

use unclip::{GenerateOptions, Precision, Rate, Residency, SamplerKind, StageId, StageOptions};

use crate::support::{Model, STEPS, limits};

fn options(n: usize) -> GenerateOptions {
    let decoder = StageOptions::default().with_guidance_scale(2.0);
    GenerateOptions::default().with_n(n).with_decoder(decoder)
}

#[test]
fn an_estimate_has_the_stages_calls_and_parameters_of_the_call() {
    let _limits = limits();
    let model = Model::new();
    let estimate = model.open().unwrap().estimate(1, &options(3), Precision::F32).unwrap();
    let made = model.load().unwrap().text_to_image("a circle", &options(3)).unwrap();
    let found = estimate.stages.iter().map(|it| (it.stage, it.steps, it.rows, it.parameters));
    let costs =
        made.costs.iter().map(|it| (it.stage, it.calls.len(), it.rows, it.parameters as u64));
    assert_eq!(found.collect::<Vec<_>>(), costs.collect::<Vec<_>>());
    let sampled = |stage| !matches!(stage, StageId::TextEncoder);
    assert!(estimate.stages.iter().all(|it| it.rows == if sampled(it.stage) { 3 } else { 2 }));
}

#[test]
fn candidates_take_steps_and_no_memory() {
    let _limits = limits();
    let bundle = Model::new().open().unwrap();
    let prior = |candidates| {
        let options = options(2).with_candidates(candidates);
        let estimate = bundle.estimate(1, &options, Precision::F32).unwrap();
        estimate.stages.into_iter().find(|it| it.stage == StageId::Prior).unwrap()
    };
    let (one, three) = (prior(1), prior(3));
    assert_eq!([three.steps, three.calls], [3 * one.steps, 3 * one.calls]);
    assert_eq!([three.rows as u64, three.working], [one.rows as u64, one.working]);
}

#[test]
fn a_sampler_that_looks_ahead_calls_twice() {
    let _limits = limits();
    let model = Model::new();
    let heun: SamplerKind = "heun".parse().unwrap();
    let options = options(1).with_decoder(StageOptions::default().with_sampler(heun));
    let estimate = model.open().unwrap().estimate(1, &options, Precision::F32).unwrap();
    let decoder = estimate.stages.iter().find(|it| it.stage == StageId::Decoder).unwrap();
    assert_eq!([decoder.steps, decoder.calls], [STEPS[1], 2 * STEPS[1]]);
}

#[test]
fn memory_is_that_of_the_largest_stage_or_of_all_weights() {
    let _limits = limits();
    let bundle = Model::new().open().unwrap();
    let of = |n, precision| bundle.estimate(1, &options(n), precision).unwrap();
    let one = of(1, Precision::F32);
    let each = one.stages.iter().map(|it| it.weights + it.working);
    assert_eq!(one.memory(Residency::OneByOne), each.max().unwrap());
    let weights: u64 = one.stages.iter().map(|it| it.weights).sum();
    let working = one.stages.iter().map(|it| it.working).max().unwrap();
    assert_eq!(one.memory(Residency::Resident), one.weights + working);
    // a model has an image encoder, which captions do not need
    assert!(one.weights > weights, "{} {weights}", one.weights);
    assert!(one.stages.iter().all(|it| it.weights == 4 * it.parameters));
    let half = of(1, Precision::F16);
    assert!(half.stages.iter().all(|it| it.weights == 2 * it.parameters));
    let many = of(40, Precision::F32).memory(Residency::OneByOne);
    assert!(many > 10 * (one.memory(Residency::OneByOne) - weights), "{many}");
}

#[test]
fn seconds_are_those_of_a_call_before_scaled_to_this_one() {
    let model = Model::new();
    let bundle = model.open().unwrap();
    let made = model.load().unwrap().text_to_image("a circle", &options(1)).unwrap();
    let before: Vec<_> = made.costs.iter().map(Rate::from).collect();
    let seconds = |n| {
        let estimate = bundle.estimate(1, &options(n), Precision::F32).unwrap();
        estimate.seconds(&before).unwrap()
    };
    let calls = |all: fn(&StageId) -> bool| {
        let costs = made.costs.iter().filter(|cost| all(&cost.stage));
        costs.flat_map(|cost| &cost.calls).map(|it| it.as_secs_f64()).sum::<f64>()
    };
    let loading = made.costs.iter().map(|cost| cost.loading.as_secs_f64()).sum::<f64>();
    let reading = calls(|stage| *stage == StageId::TextEncoder);
    let sampling = calls(|stage| *stage != StageId::TextEncoder);
    assert!((seconds(1) - loading - reading - sampling).abs() < 1e-9, "{}", seconds(1));
    // one caption, and the negative prompt, are read once for all pictures
    assert!((seconds(8) - loading - reading - 8.0 * sampling).abs() < 1e-9, "{}", seconds(8));
    let estimate = bundle.estimate(1, &options(1), Precision::F32).unwrap();
    assert_eq!(estimate.seconds(&before[1..]), None, "a stage was not seen");
}

#[test]
fn what_is_estimated_is_checked_like_what_is_made() {
    let bundle = Model::new().open().unwrap();
    let none = bundle.estimate(0, &options(1), Precision::F32).unwrap_err().to_string();
    assert!(none.contains("captions or pictures is 0"), "{none}");
    let many = bundle.estimate(1, &options(65), Precision::F32).unwrap_err().to_string();
    assert!(many.contains("the limit images"), "{many}");
}

//! What a machine does to the work: values that are no numbers, few threads, small stacks.

use burn::tensor::{Device, Tensor};
use unclip::decoder::Condition;
use unclip::unclip_core::{ImageEmbedding, TextEmbedding};
use unclip::{Error, GenerateOptions, StageId, UnClip};

use crate::support::Model;

/// Everything that passes from stage to stage, for one picture.
struct Passed {
    text: TextEmbedding,
    image: ImageEmbedding,
    small: Tensor<4>,
}

fn passed(unclip: &UnClip) -> Passed {
    let settings = GenerateOptions::default().resolve(unclip.bundle()).unwrap();
    let mut run = unclip.run(&[1]);
    let text = run.encode(&["a circle"]).unwrap();
    let image = run.prior(&text, &settings.prior.unwrap()).unwrap();
    let condition = Condition::new(image.clone(), text.clone());
    let small = run.decode(&condition, &settings.decoder).unwrap();
    Passed { text, image, small }
}

/// The same tensor with one such value.
fn with<const D: usize>(tensor: &Tensor<D>, value: f32) -> Tensor<D> {
    let first = tensor.dims().map(|_| 0..1);
    tensor.clone().slice_fill(first, value)
}

/// It failed in this stage, at once.
#[track_caller]
fn failed<T>(result: Result<T, Error>, expected: StageId) {
    match result {
        Err(Error::NonFinite { stage, step: Some(1) }) => assert_eq!(stage, expected),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("taken for a number by the {expected}"),
    }
}

#[test]
fn what_is_no_number_is_noticed_by_the_stage_that_gets_it_in_its_first_step() {
    let unclip = Model::new().load().unwrap();
    let settings = GenerateOptions::default().resolve(unclip.bundle()).unwrap();
    let Passed { text, image, small } = passed(&unclip);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut run = unclip.run(&[1]);
        let bad = TextEmbedding { pooled: with(&text.pooled, value), ..text.clone() };
        failed(run.prior(&bad, settings.prior.as_ref().unwrap()), StageId::Prior);
        let bad = TextEmbedding { tokens: with(&text.tokens, value), ..text.clone() };
        failed(run.prior(&bad, settings.prior.as_ref().unwrap()), StageId::Prior);
        let condition = Condition::new(ImageEmbedding(with(&image.0, value)), text.clone());
        failed(run.decode(&condition, &settings.decoder), StageId::Decoder);
        let large = run.upsample(with(&small, value), &settings.upsamplers);
        failed(large, StageId::Upsampler(0));
        // and the pipeline is as it was
        let condition = Condition::new(image.clone(), text.clone());
        let again = run.decode(&condition, &settings.decoder).unwrap();
        assert_eq!(again.into_data(), small.clone().into_data());
    }
}

#[test]
fn a_step_that_breaks_is_named() {
    let unclip = Model::new().load().unwrap();
    let options = GenerateOptions::default();
    let settings = options.resolve(unclip.bundle()).unwrap();
    let Passed { text, image, .. } = passed(&unclip);
    let mut run = unclip.run(&[1]);
    let bound = run.bind_decoder(&Condition::new(image, text), &settings.decoder).unwrap();
    let start = Tensor::full(bound.sample_shape(), f32::NAN, &Device::flex());
    let start = unclip::Start { x_t: Some(start), ..unclip::Start::default() };
    let error = run.sample(&bound, start).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the decoder gave values that are not finite in step 1; try f32, another seed, or less guidance"
    );
}

fn images(unclip: &UnClip) -> Vec<unclip::RgbImage> {
    let options = GenerateOptions::default().with_n(3);
    unclip.text_to_image("a circle", &options).unwrap().images()
}

/// What a thread's stack has to hold without optimization; `soak --stack` tries less with it.
const STACK: usize = 1 << 20;

#[test]
fn the_number_of_threads_and_their_stacks_make_no_difference() {
    let unclip = Model::new().load().unwrap();
    let expected = images(&unclip);
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).stack_size(STACK);
        let pool = pool.build().unwrap();
        assert_eq!(pool.install(|| images(&unclip)), expected, "{threads} threads");
    }
    let small = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn_scoped(scope, || images(&unclip)).unwrap().join().unwrap()
    });
    assert_eq!(small, expected, "a thread with a small stack");
}

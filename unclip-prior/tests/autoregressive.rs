//! The autoregressive prior: comparisons with PyTorch, and laws of codes, caches and draws.

use burn::tensor::{Device, Int, Tensor, TensorData};
use unclip_core::{
    Draw, Guide, ImageEmbedding, NoiseSource, SeededNoise, StepEvent, TextEmbedding,
};
use unclip_nn::checkpoint::{StageConfig, Weights, load_weights};
use unclip_nn::{Activation, TransformerConfig, Whitening};
use unclip_prior::{ArPrior, ArPriorConfig};

use crate::fixture::{Fixture, assert_close, noise};

/// Both sides compute in f32, and sum in different orders.
const F32: f64 = 5e-6;

fn config() -> ArPriorConfig {
    ArPriorConfig {
        d_embedding: 24,
        d_text: 20,
        context_length: 12,
        n_codes: 6,
        n_buckets: 8,
        n_similarities: 4,
        transformer: TransformerConfig {
            d_model: 32,
            n_layers: 2,
            n_heads: 4,
            d_hidden: 64,
            activation: Activation::Gelu,
            norm_eps: 1e-5,
        },
        guidance_scale: 1.0,
    }
}

/// The fixture's prior, read through a file.
fn prior(fixture: &Fixture) -> ArPrior {
    config().validate().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), fixture.weights("weights.")).unwrap();
    let weights = Weights::open(file.path()).unwrap();
    let device = Device::flex();
    load_weights(config().init(&device), &weights, &ArPriorConfig::KEYS, &device).unwrap()
}

fn text(fixture: &Fixture) -> TextEmbedding {
    TextEmbedding {
        pooled: fixture.tensor("input.text"),
        tokens: fixture.tensor("input.tokens"),
        mask: fixture.mask("input.attention_mask"),
    }
}

/// The fixture's noise.
struct Recorded(Vec<Vec<f32>>);

impl NoiseSource for Recorded {
    fn draw(&mut self, draw: Draw, shape: &[usize]) -> TensorData {
        let place = match draw {
            Draw::Initial => 0,
            Draw::Step(left) => self.0.len() - left,
        };
        TensorData::new(self.0[place].clone(), shape.to_vec())
    }
}

fn recorded(fixture: &Fixture) -> Recorded {
    let values = fixture.tensor::<3>("input.noise").into_data();
    let values: Vec<f32> = values.iter::<f32>().collect();
    Recorded(values.chunks(3).map(<[f32]>::to_vec).collect())
}

#[test]
fn codes_and_losses() {
    let fixture = Fixture::open("ar_prior");
    let prior = prior(&fixture);
    let (text, image) = (text(&fixture), ImageEmbedding(fixture.tensor("input.image")));
    let codes = prior.codebook().encode(&image);
    assert_eq!(
        codes.clone().into_data().iter::<i64>().collect::<Vec<_>>(),
        fixture.integers::<2>("output.codes").into_data().iter::<i64>().collect::<Vec<_>>(),
    );
    let decoded = prior.codebook().decode(codes).0;
    assert_close("decoded", decoded, fixture.tensor("output.decoded"), F32);
    let similarity = prior.codebook().similarity(&image, &text);
    assert_eq!(
        similarity.into_data().iter::<i64>().collect::<Vec<_>>(),
        fixture.integers::<1>("output.similarity").into_data().iter::<i64>().collect::<Vec<_>>(),
    );
    let unknown: Tensor<1, Int> = fixture.integers("input.unknown");
    let loss = prior.loss(&text, &image, unknown);
    assert_close("loss", loss, fixture.tensor("output.loss"), F32);
}

#[test]
fn what_is_written() {
    let fixture = Fixture::open("ar_prior");
    let (prior, given) = (prior(&fixture), text(&fixture));
    let null = given.narrow(2, 1).repeat_rows(3);
    let guide = Guide { null: &null, scale: 2.5, image_scale: None, within: None };
    for (name, guide) in [("plain", None), ("guided", Some(guide))] {
        let image = prior.bind(&given, guide).draw(&mut recorded(&fixture), &mut ()).unwrap();
        assert_close(name, image.0, fixture.tensor(&format!("output.{name}")), F32);
    }
}

#[test]
fn guidance_by_one_or_zero_is_one_of_both_captions() {
    let fixture = Fixture::open("ar_prior");
    let (prior, given) = (prior(&fixture), text(&fixture));
    let null = given.narrow(1, 1).repeat_rows(3);
    let draw = |guide| prior.bind(&given, guide).draw(&mut recorded(&fixture), &mut ()).unwrap().0;
    let guided = |scale| draw(Some(Guide { null: &null, scale, image_scale: None, within: None }));
    assert_close("one", guided(1.0), draw(None), 0.0);
    // captions do not count, and the noise is the same for all
    let same = Recorded(vec![vec![0.3; 3]; 7]);
    let guide = Guide { null: &null, scale: 0.0, image_scale: None, within: None };
    let drawn = prior.bind(&given, Some(guide)).draw(&mut { same }, &mut ()).unwrap();
    for row in 1..3 {
        assert_close("zero", drawn.narrow(row, 1).0, drawn.narrow(0, 1).0, 0.0);
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let fixture = Fixture::open("ar_prior");
    let (prior, given) = (prior(&fixture), text(&fixture));
    let together = prior.bind(&given, None).draw(&mut SeededNoise::new(&[1, 2, 3], 0), &mut ());
    let alone = prior.bind(&given.narrow(1, 1), None).draw(&mut SeededNoise::new(&[2], 0), &mut ());
    assert_close("row", alone.unwrap().0, together.unwrap().narrow(1, 1).0, 1e-6);
}

#[test]
fn every_code_is_told_and_a_stop_is_obeyed() {
    let fixture = Fixture::open("ar_prior");
    let (prior, given) = (prior(&fixture), text(&fixture));
    let bound = prior.bind(&given, None);
    let mut seen = Vec::new();
    let mut observer = |event: StepEvent<'_, 2>| {
        seen.push((event.index, event.total, event.timestep));
        if event.index < 3 {
            std::ops::ControlFlow::Continue(())
        } else {
            std::ops::ControlFlow::Break(())
        }
    };
    let stopped = bound.draw(&mut recorded(&fixture), &mut observer).unwrap_err();
    assert_eq!((stopped.done, stopped.total), (4, 6));
    assert_eq!(seen, [(0, 6, 5), (1, 6, 4), (2, 6, 3), (3, 6, 2)]);
}

#[test]
fn decoding_is_within_half_a_bucket() {
    let device = Device::flex();
    let fresh = ArPriorConfig { n_codes: 24, n_buckets: 64, ..config() }.init(&device);
    let image = ImageEmbedding(noise([500, 24], 5, &device));
    let text = TextEmbedding {
        pooled: noise([500, 24], 6, &device),
        tokens: Tensor::zeros([500, 1, 1], &device),
        mask: Tensor::<2, Int>::ones([500, 1], &device).equal_elem(1),
    };
    let identity = Whitening::identity(24, true, &device);
    let codebook = fresh.codebook().clone().of(identity, &image, &text);
    let codes = codebook.encode(&image);
    let again = codebook.decode(codes.clone());
    let width = (image.0.clone().max() - image.0.clone().min()).into_scalar::<f32>() / 64.0;
    let far = (again.0.clone() - image.0.clone()).abs().max().into_scalar::<f32>();
    assert!(far <= 0.501 * width, "{far}, half a bucket is {}", 0.5 * width);
    let twice = codebook.encode(&again);
    assert_eq!(
        twice.into_data().iter::<i64>().collect::<Vec<_>>(),
        codes.into_data().iter::<i64>().collect::<Vec<_>>()
    );
    // equally many pairs in each bucket
    let mut counts = [0; 4];
    let buckets = codebook.similarity(&image, &text).into_data();
    buckets.iter::<i64>().for_each(|bucket| counts[bucket as usize] += 1);
    assert_eq!(counts, [125; 4]);
}

#[test]
fn sizes_that_do_not_go_together_are_refused() {
    let refused = |config: ArPriorConfig, field: &str| {
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    };
    refused(ArPriorConfig { n_codes: 25, ..config() }, "n_codes is 25, expected 1 to 24");
    refused(ArPriorConfig { n_codes: 0, ..config() }, "n_codes");
    refused(ArPriorConfig { n_buckets: 0, ..config() }, "n_buckets");
    refused(ArPriorConfig { n_similarities: 5, ..config() }, "n_similarities is 5");
    refused(ArPriorConfig { guidance_scale: f64::NAN, ..config() }, "guidance_scale");
}

//! Tests of the Winograd convolution, also of shapes for which it is not chosen.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::super::conv::{naive, shapes};
use super::super::test_util::{assert_close, random};
use super::*;

/// Shapes that hit every edge of the blocking.
fn cases() -> Vec<ConvShape> {
    let more = [
        [1, 16, 48, 4, 4],
        [2, 65, 70, 9, 30],
        [3, 200, 100, 12, 20],
        [1, 400, 33, 8, 70],
        [70, 17, 50, 8, 8],
        [2, 24, 64, 66, 62],
    ];
    let more = more.map(|[batch, c_in, c_out, height, width]| ConvShape {
        batch,
        c_in,
        c_out,
        height,
        width,
    });
    let with_values = |s: &ConvShape| s.batch * s.c_in > 0;
    shapes().into_iter().filter(with_values).chain(more).collect()
}

fn filters(shape: ConvShape, weight: &[f32]) -> Filters<'_> {
    Filters { taps: weight.as_chunks().0, out_stride: shape.c_in, in_stride: 1 }
}

/// The convolution in a pool of so many threads.
fn computed(s: ConvShape, x: &[f32], weight: &[f32], bias: &[f32], threads: usize) -> Vec<f32> {
    let mut y = vec![f32::NAN; s.output_len()];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| convolve::<false>(s, x, filters(s, weight), Some(bias), &mut y));
    y
}

/// Values of a normal distribution (Box & Muller).
fn normal(len: usize, seed: u64) -> Vec<f32> {
    let uniform = random(2 * len, seed);
    let pairs = uniform.as_chunks::<2>().0.iter();
    pairs
        .map(|[a, b]| {
            (-2.0 * (0.5 * a + 0.500_001).ln()).max(0.0).sqrt() * (std::f32::consts::PI * b).cos()
        })
        .collect()
}

#[test]
fn matches_the_definition() {
    for s in cases() {
        let (x, w) = (random(s.input_len(), 1), random(s.weight_len(), 2));
        let bias = random(s.c_out, 3);
        let want = naive(s, &x, &w, Some(&bias));
        for threads in [1, 2, 9] {
            let y = computed(s, &x, &w, &bias, threads);
            assert_close(&y, &want, 5e-6, &format!("{s:?}, {threads} threads"));
        }
    }
}

#[test]
fn turned_filters_match_the_definition() {
    for s in cases() {
        let (x, w) = (random(s.input_len(), 4), random(s.weight_len(), 5));
        let turned: Vec<f32> = (0..s.weight_len())
            .map(|i| {
                let (k, c, o) = (i % 9, i / 9 % s.c_in, i / 9 / s.c_in);
                w[(c * s.c_out + o) * 9 + 8 - k]
            })
            .collect();
        let mut y = vec![f32::NAN; s.output_len()];
        let filters = Filters { taps: w.as_chunks().0, out_stride: 1, in_stride: s.c_out };
        convolve::<true>(s, &x, filters, None, &mut y);
        assert_close(&y, &naive(s, &x, &turned, None), 5e-6, &format!("{s:?}"));
    }
}

#[test]
fn many_channels_are_accurate() {
    let s = ConvShape { batch: 1, c_in: 1280, c_out: 20, height: 16, width: 16 };
    let (x, w) = (normal(s.input_len(), 6), normal(s.weight_len(), 7));
    let bias = vec![0.0; s.c_out];
    let y = computed(s, &x, &w, &bias, 2);
    assert_close(&y, &naive(s, &x, &w, None), 5e-6, "1280 channels");
}

#[test]
fn neither_batch_nor_threads_change_an_image() {
    for [batch, c_in, c_out, height, width] in
        [[3, 200, 70, 8, 8], [2, 33, 300, 18, 21], [5, 48, 48, 32, 32]]
    {
        let s = ConvShape { batch, c_in, c_out, height, width };
        let (x, w) = (random(s.input_len(), 8), random(s.weight_len(), 9));
        let bias = random(s.c_out, 10);
        let all = computed(s, &x, &w, &bias, 2);
        assert_eq!(all, computed(s, &x, &w, &bias, 7), "threads change {s:?}");
        let one = ConvShape { batch: 1, ..s };
        for (x, y) in x.chunks(one.input_len()).zip(all.chunks(one.output_len())) {
            assert!(computed(one, x, &w, &bias, 3) == y, "the batch changes {s:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 40,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn matches_the_definition_in_any_shape(
        batch in 1..5usize,
        [c_in, c_out] in prop::array::uniform2(1..90usize),
        [height, width] in prop::array::uniform2(1..40usize),
        threads in 1..4usize,
    ) {
        let s = ConvShape { batch, c_in, c_out, height, width };
        let (x, w) = (random(s.input_len(), 11), random(s.weight_len(), 12));
        let bias = random(s.c_out, 13);
        let y = computed(s, &x, &w, &bias, threads);
        assert_close(&y, &naive(s, &x, &w, Some(&bias)), 5e-6, &format!("{s:?}"));
    }
}

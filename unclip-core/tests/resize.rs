//! What bicubic resizing keeps.

use burn::tensor::{Device, Tensor};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use unclip_core::resize::bicubic;

use crate::fixture::{assert_close, noise};

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 48,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn constant_pictures_stay_constant(
        [height, width, tall, wide] in prop::array::uniform4(1..40usize),
    ) {
        // that is, the weights of every new pixel sum to 1
        let picture = Tensor::<4>::full([1, 2, height, width], 0.75, &Device::flex());
        let want = Tensor::full([1, 2, tall, wide], 0.75, &Device::flex());
        assert_close("constant", bicubic(picture, tall, wide), want, 1e-6);
    }

    #[test]
    fn mirrored_pictures_are_resized_to_mirrored_ones(
        [height, width, tall, wide] in prop::array::uniform4(1..40usize),
    ) {
        let picture: Tensor<4> = noise([1, 2, height, width], 1, &Device::flex());
        let mirrored = bicubic(picture.clone().flip([2, 3]), tall, wide);
        assert_close("mirrored", mirrored, bicubic(picture, tall, wide).flip([2, 3]), 1e-5);
    }

    #[test]
    fn a_picture_of_the_right_size_stays_as_it_is(
        [height, width] in prop::array::uniform2(1..40usize),
    ) {
        let picture: Tensor<4> = noise([1, 3, height, width], 2, &Device::flex());
        assert_close("same size", bicubic(picture.clone(), height, width), picture, 1e-6);
    }
}

#[test]
fn a_slope_keeps_its_gradient_away_from_the_borders() {
    let columns: Vec<f32> = (0..32).map(|i| i as f32).collect();
    let slope = Tensor::<1>::from_floats(columns.as_slice(), &Device::flex());
    let slope = slope.reshape([1, 1, 1, 32]).expand([1, 1, 8, 32]);
    for wide in [16, 64, 23] {
        let resized = bicubic(slope.clone(), 8, wide).narrow(2, 4, 1);
        let scale = 32.0 / wide as f64;
        let inner = wide / 4..3 * wide / 4;
        for (i, value) in resized.into_data().iter::<f64>().enumerate() {
            let want = (i as f64 + 0.5) * scale - 0.5;
            // antialiasing with a stretch that is no integer leaves a ripple
            let close = (value - want).abs() < 0.05;
            assert!(close || !inner.contains(&i), "pixel {i} of {wide}: {value}, not {want}");
        }
    }
}

//! The operations of `unclip_nn::ops` on values at both ends of what f32 holds, and beyond.

use burn::module::Param;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNormConfig, LinearConfig, PaddingConfig2d};
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use burn::tensor::{Device, Tensor, activation};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use unclip_nn::{LayerNorm, attend, downsample, ops, upsample};

use crate::fixture::noise;

/// The smallest positive f32.
const SMALLEST: f64 = 1.4e-45;

type Operation = Box<dyn Fn(Tensor<4>) -> Tensor<4>>;

/// An operation and the composition of burn's own that it stands for.
struct Pair {
    name: &'static str,
    own: Operation,
    plain: Operation,
    /// A factor in front of the input is one in front of the result.
    is_linear: bool,
}

fn pair(
    name: &'static str,
    is_linear: bool,
    own: impl Fn(Tensor<4>) -> Tensor<4> + 'static,
    plain: impl Fn(Tensor<4>) -> Tensor<4> + 'static,
) -> Pair {
    Pair { name, own: Box::new(own), plain: Box::new(plain), is_linear }
}

fn convolution(side: usize, channels: usize) -> Conv2d {
    let border = side / 2;
    let config = Conv2dConfig::new([channels, 5], [side, side]).with_bias(true);
    let padding = PaddingConfig2d::Explicit(border, border, border, border);
    let mut layer = config.with_padding(padding).init(&Device::flex());
    layer.weight = Param::from_tensor(noise([5, channels, side, side], 11, &Device::flex()));
    layer.bias = Some(Param::from_tensor(Tensor::zeros([5], &Device::flex())));
    layer
}

/// Rows of a picture as tokens.
fn attended(x: Tensor<4>, plain: bool) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let tokens: Tensor<3> = x.clone().reshape([batch, channels * height, width]);
    let y = if plain {
        let scores = tokens.clone().matmul(tokens.clone().transpose()) / (width as f64).sqrt();
        activation::softmax(scores, 2).matmul(tokens)
    } else {
        attend(tokens.clone(), tokens.clone(), tokens, 1, None)
    };
    y.reshape([batch, channels, height, width])
}

/// All operations for pictures with so many channels and columns.
fn pairs(channels: usize, width: usize) -> Vec<Pair> {
    let device = Device::flex();
    let convolutions = [("3x3 convolution", 3), ("1x1 convolution", 1)].map(|(name, side)| {
        let (own, plain) = (convolution(side, channels), convolution(side, channels));
        pair(name, true, move |x| ops::conv(&own, x), move |x| plain.forward(x))
    });
    let linear = LinearConfig::new(width, 7).with_bias(false).init(&device);
    let norm = GroupNormConfig::new(1, channels).init(&device);
    let rows = LayerNorm::new(width, LayerNorm::EPSILON, &device);
    let (gamma, beta) = (rows.gamma.val(), rows.beta.val());
    let (other_linear, other_norm) = (linear.clone(), norm.clone());
    let mut all = Vec::from(convolutions);
    all.extend([
        pair("linear", true, move |x| ops::linear(&linear, x), move |x| other_linear.forward(x)),
        pair("doubling", true, upsample, |x| {
            let [batch, channels, height, width] = x.dims();
            let twice = x.reshape([batch, channels, height, 1, width, 1]);
            let twice = twice.repeat(&[1, 1, 1, 2, 1, 2]);
            twice.reshape([batch, channels, 2 * height, 2 * width])
        }),
        pair("halving", true, downsample, |x| avg_pool2d(x, AvgPoolOptions::new([2, 2]))),
        pair("SiLU", false, ops::silu, activation::silu),
        pair("GELU", false, ops::gelu, activation::gelu),
        pair("attention", false, |x| attended(x, false), |x| attended(x, true)),
        pair(
            "group norm",
            false,
            move |x| ops::group_norm(&norm, x),
            move |x| other_norm.forward(x),
        ),
        pair(
            "layer norm",
            false,
            move |x| rows.forward(x),
            move |x| {
                let (gamma, beta) = (gamma.clone(), Some(beta.clone()));
                burn::tensor::module::layer_norm(x, gamma, beta, LayerNorm::EPSILON)
            },
        ),
    ]);
    all
}

fn values(tensor: Tensor<4>) -> Vec<f32> {
    tensor.into_data().iter().collect()
}

fn shapes() -> impl Strategy<Value = [usize; 4]> {
    (1..4usize, 1..20usize, 2..14usize, 2..14usize).prop_map(|(n, c, h, w)| [n, c, h, w])
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 40,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn tiny_and_huge_values_scale_as_others(shape in shapes(), exponent in -44..36i32, seed in 0..99u64) {
        let scale = 10f64.powi(exponent);
        let x: Tensor<4> = noise(shape, seed, &Device::flex());
        let scaled: Vec<f32> = x.to_data().iter::<f32>().map(|it| (f64::from(it) * scale) as f32).collect();
        let scaled = Tensor::<1>::from_data(scaled.as_slice(), &Device::flex()).reshape(shape);
        for pair in pairs(shape[1], shape[3]).into_iter().filter(|it| it.is_linear) {
            let want = values((pair.plain)(x.clone()));
            let got = values((pair.own)(scaled.clone()));
            let largest = want.iter().fold(1.0, |most: f64, it| most.max(it.abs().into()));
            // a sum of products of which each loses what is below the smallest number; Winograd's sums are of
            // differences, with factors up to 8
            let lost = 64.0 * (9 * shape[1] + shape[3]) as f64 * SMALLEST;
            for (got, want) in got.iter().zip(&want) {
                let (got, want) = (f64::from(*got), f64::from(*want) * scale);
                let error = (got - want).abs();
                prop_assert!(error <= 1e-5 * largest * scale + lost, "{}: {got:e}, not {want:e}", pair.name);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_never_disappears(
        shape in shapes(),
        place in any::<prop::sample::Index>(),
        bad in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
        seed in 0..99u64,
    ) {
        let x: Tensor<4> = noise(shape, seed, &Device::flex());
        let mut spoiled = values(x.clone());
        let place = place.index(spoiled.len());
        spoiled[place] = bad;
        let picture = place / (spoiled.len() / shape[0]);
        let spoiled = Tensor::<1>::from_data(spoiled.as_slice(), &Device::flex()).reshape(shape);
        for pair in pairs(shape[1], shape[3]) {
            let [clean, got] = [x.clone(), spoiled.clone()].map(|x| values((pair.own)(x)));
            let want = values((pair.plain)(spoiled.clone()));
            let each = got.len() / shape[0];
            for (n, (got, want)) in got.iter().zip(&want).enumerate() {
                let kept = want.is_finite() || !got.is_finite();
                prop_assert!(kept, "{}: {bad} gave {got} at {n}, where burn gives {want}", pair.name);
                let same = n / each == picture || got.to_bits() == clean[n].to_bits();
                prop_assert!(same, "{}: {bad} in picture {picture} changed another", pair.name);
            }
        }
    }
}

//! The operations of `unclip_nn::ops` against burn's own, values and gradients, over shapes that
//! are large, odd or a single pixel, and tensors that do not lie in order in memory.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, LinearConfig, PaddingConfig2d};
use burn::tensor::module::avg_pool2d;
use burn::tensor::ops::AvgPoolOptions;
use burn::tensor::{Bool, DType, Device, Gradients, Tensor, activation};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use unclip_nn::{LayerNorm, attend, causal_mask, downsample, ops, upsample};

use crate::fixture::{assert_close, difference, noise};

/// Sums of f32 in different orders; everything here is of order 1 or larger.
const VALUES: f64 = 3e-6;
/// A norm of equal values divides by √eps, in its gradient too: 1e-5 of that is rounding.
const GRADIENTS: f64 = 5e-5;

fn device() -> Device {
    Device::flex().autodiff()
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 100,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// Random values whose gradient is wanted.
fn leaf<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    noise(shape, seed, &device()).require_grad()
}

/// How a tensor lies in the memory of another.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// It is all of it, in order.
    Whole,
    /// Its rows are the other's columns.
    Swapped,
    /// Its channels come last, as in most image files.
    ChannelsLast,
    /// It is cut out of a larger one.
    Inner,
}

impl Layout {
    /// A leaf of which [`view`](Self::view) makes a tensor of this shape.
    fn leaf(self, [batch, channels, height, width]: [usize; 4], seed: u64) -> Tensor<4> {
        let shape = match self {
            Self::Whole => [batch, channels, height, width],
            Self::Swapped => [batch, channels, width, height],
            Self::ChannelsLast => [batch, height, width, channels],
            Self::Inner => [batch, channels + 2, height, width + 3],
        };
        leaf(shape, seed)
    }

    fn view(self, leaf: &Tensor<4>) -> Tensor<4> {
        let leaf = leaf.clone();
        let [_, channels, _, width] = leaf.dims();
        match self {
            Self::Whole => leaf,
            Self::Swapped => leaf.swap_dims(2, 3),
            Self::ChannelsLast => leaf.permute([0, 3, 1, 2]),
            Self::Inner => leaf.narrow(1, 1, channels - 2).narrow(3, 2, width - 3),
        }
    }
}

fn layouts() -> impl Strategy<Value = Layout> {
    prop::sample::select(vec![Layout::Whole, Layout::Swapped, Layout::ChannelsLast, Layout::Inner])
}

/// Reads the gradient of one leaf.
type Reader<'a> = (&'a str, Box<dyn Fn(&Gradients) -> Tensor<1>>);

fn gradient<'a, const D: usize>(name: &'a str, leaf: &Tensor<D>) -> Reader<'a> {
    let leaf = leaf.clone();
    let read = move |gradients: &Gradients| {
        let gradient = leaf.grad(gradients).unwrap();
        let len = gradient.shape().num_elements();
        gradient.reshape([len])
    };
    (name, Box::new(read))
}

fn assert_near<const D: usize>(what: &str, got: Tensor<D>, want: Tensor<D>, tolerance: f64) {
    let (difference, scale) = difference(what, got, want);
    let error = difference / scale.max(1.0);
    assert!(error <= tolerance, "{what}: off by {error:.1e} of {scale:.1e}");
}

/// Compares two results that were computed, apart from each other, from the same leaves.
fn assert_same<const D: usize>(got: Tensor<D>, want: Tensor<D>, leaves: &[Reader<'_>]) {
    assert_near("value", got.clone().inner(), want.clone().inner(), VALUES);
    let weight: Tensor<D> = noise(want.dims(), 99, &device());
    let [got, want] = [got, want].map(|y| (y * weight.clone()).sum().backward());
    for (name, read) in leaves {
        assert_near(&format!("gradient of {name}"), read(&got), read(&want), GRADIENTS);
    }
}

fn group_norm(groups: usize, channels: usize) -> GroupNorm {
    let mut norm = GroupNormConfig::new(groups, channels).init(&device());
    norm.gamma = Some(Param::from_tensor(noise([channels], 11, &device())));
    norm.beta = Some(Param::from_tensor(noise([channels], 12, &device())));
    norm
}

fn check_group_norm(groups: usize, shape: [usize; 4], layout: Layout) {
    let norm = group_norm(groups, shape[1]);
    let x = layout.leaf(shape, 1);
    let (gamma, beta) = (norm.gamma.as_ref().unwrap().val(), norm.beta.as_ref().unwrap().val());
    let leaves = [gradient("x", &x), gradient("gamma", &gamma), gradient("beta", &beta)];
    let view = || layout.view(&x);
    assert_same(ops::group_norm(&norm, view()), norm.forward(view()), &leaves);
    let want = activation::silu(norm.forward(view()));
    assert_same(ops::group_norm_silu(&norm, view(), None), want, &leaves);

    // scale and shift as the residual block makes them: two halves of one tensor
    let [batch, channels, ..] = shape;
    let modulation: Tensor<2> = leaf([batch, 2 * channels], 13);
    let half = |start| modulation.clone().narrow(1, start, channels);
    let got = ops::group_norm_silu(&norm, view(), Some((half(0), half(channels))));
    let [scale, shift] = [half(0), half(channels)].map(|v| v.reshape([batch, channels, 1, 1]));
    let want = activation::silu(norm.forward(view()) * (scale + 1.0) + shift);
    let [x, gamma, beta] = leaves;
    assert_same(got, want, &[x, gamma, beta, gradient("modulation", &modulation)]);
}

fn layer_norm(width: usize) -> LayerNorm {
    let mut norm = LayerNorm::new(width, LayerNorm::EPSILON, &device());
    norm.gamma = Param::from_tensor(noise([width], 11, &device()));
    norm.beta = Param::from_tensor(noise([width], 12, &device()));
    norm
}

fn plain_layer_norm<const D: usize>(norm: &LayerNorm, x: Tensor<D>) -> Tensor<D> {
    let (gamma, beta) = (norm.gamma.val(), norm.beta.val());
    burn::tensor::module::layer_norm(x, gamma, Some(beta), LayerNorm::EPSILON)
}

fn check_layer_norm(shape: [usize; 4], layout: Layout) {
    let norm = layer_norm(shape[3]);
    let x = layout.leaf(shape, 2);
    let (gamma, beta) = (norm.gamma.val(), norm.beta.val());
    let leaves = [gradient("x", &x), gradient("gamma", &gamma), gradient("beta", &beta)];
    let view = || layout.view(&x);
    assert_same(norm.forward(view()), plain_layer_norm(&norm, view()), &leaves);
}

fn check_linear(shape: [usize; 4], layout: Layout) {
    let layer = LinearConfig::new(shape[3], 5).init(&device());
    let x = layout.leaf(shape, 4);
    let (weight, bias) = (layer.weight.val(), layer.bias.as_ref().unwrap().val());
    let leaves = [gradient("x", &x), gradient("weight", &weight), gradient("bias", &bias)];
    let view = || layout.view(&x);
    assert_same(ops::linear(&layer, view()), layer.forward(view()), &leaves);
}

fn check_pointwise(shape: [usize; 4], layout: Layout) {
    // wide enough for both tails
    let x = (layout.leaf(shape, 3).inner() * 6.0).autodiff().require_grad();
    let view = || layout.view(&x);
    let leaves = [gradient("x", &x)];
    assert_same(ops::silu(view()), activation::silu(view()), &leaves);
    assert_same(ops::gelu(view()), activation::gelu(view()), &leaves);
    let want = view() * activation::sigmoid(view() * 1.702);
    assert_same(ops::quick_gelu(view()), want, &leaves);
}

/// A side of one pixel cannot be halved.
fn check_resampling(shape: [usize; 4], layout: Layout) {
    let x = layout.leaf(shape, 5);
    let view = || layout.view(&x);
    let leaves = [gradient("x", &x)];
    let [batch, channels, height, width] = shape;
    let twice = view().reshape([batch, channels, height, 1, width, 1]).repeat(&[1, 1, 1, 2, 1, 2]);
    let twice = twice.reshape([batch, channels, 2 * height, 2 * width]);
    assert_same(upsample(view()), twice, &leaves);
    if height > 1 && width > 1 {
        let want = avg_pool2d(view(), AvgPoolOptions::new([2, 2]));
        assert_same(downsample(view()), want, &leaves);
    }
}

/// Makes a layer's parameters random.
fn randomized(mut layer: Conv2d) -> Conv2d {
    let [channels_out, channels_in, height, width] = layer.weight.dims();
    let fan_in = (channels_in * height * width) as f64;
    let weight = noise::<4>([channels_out, channels_in, height, width], 14, &device());
    layer.weight = Param::from_tensor(weight / fan_in.sqrt());
    layer.bias = layer.bias.map(|_| Param::from_tensor(noise([channels_out], 15, &device())));
    layer
}

fn check_conv(layer: Conv2dConfig, shape: [usize; 4], layout: Layout) {
    let layer = randomized(layer.init(&device()));
    let x = layout.leaf(shape, 4);
    let mut leaves = vec![gradient("x", &x), gradient("weight", &layer.weight.val())];
    leaves.extend(layer.bias.as_ref().map(|bias| gradient("bias", &bias.val())));
    let view = || layout.view(&x);
    assert_same(ops::conv(&layer, view()), layer.forward(view()), &leaves);
}

fn conv3x3(channels: [usize; 2]) -> Conv2dConfig {
    Conv2dConfig::new(channels, [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
}

/// softmax(q·kᵀ / √d)·v, step by step.
fn plain_attention(
    [q, k, v]: [Tensor<3>; 3],
    n_heads: usize,
    hidden: Option<Tensor<4, Bool>>,
) -> Tensor<3> {
    let [batch, seq, width] = q.dims();
    let d_head = width / n_heads;
    let [q, k, v] = [q, k, v].map(|x| {
        let seq = x.dims()[1];
        x.reshape([batch, seq, n_heads, d_head]).swap_dims(1, 2)
    });
    let scores = q.matmul(k.transpose()) / (d_head as f64).sqrt();
    let scores = match hidden {
        Some(hidden) => {
            let shape = scores.dims();
            scores.mask_fill(hidden.expand(shape), f32::NEG_INFINITY)
        }
        None => scores,
    };
    activation::softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([batch, seq, width])
}

fn check_attend(
    [batch, seq_q, seq_k]: [usize; 3],
    [n_heads, d_head]: [usize; 2],
    hidden: Option<Tensor<4, Bool>>,
) {
    let width = n_heads * d_head;
    // queries are cut out of a wider tensor, as from a fused projection
    let q: Tensor<3> = leaf([batch, seq_q, width + 3], 5);
    let [k, v] = [6, 7].map(|seed| leaf::<3>([batch, seq_k, width], seed));
    let leaves = [gradient("q", &q), gradient("k", &k), gradient("v", &v)];
    let cut = || q.clone().narrow(2, 1, width);
    let got = attend(cut(), k.clone(), v.clone(), n_heads, hidden.clone());
    let want = plain_attention([cut(), k.clone(), v.clone()], n_heads, hidden);
    assert_same(got, want, &leaves);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn group_norms(
        [batch, groups, each] in prop::array::uniform3(1..5usize),
        [height, width] in prop::array::uniform2(1..18usize),
        layout in layouts(),
    ) {
        check_group_norm(groups, [batch, groups * each, height, width], layout);
    }

    #[test]
    fn layer_norms(
        [batch, channels, height] in prop::array::uniform3(1..6usize),
        width in 1..70usize,
        layout in layouts(),
    ) {
        check_layer_norm([batch, channels, height, width], layout);
        check_linear([batch, channels, height, width], layout);
    }

    #[test]
    fn activations_and_resampling(
        [batch, channels, height] in prop::array::uniform3(1..6usize),
        width in 1..40usize,
        layout in layouts(),
    ) {
        check_pointwise([batch, channels, height, width], layout);
        check_resampling([batch, channels, height, width], layout);
    }

    #[test]
    fn convolutions(
        batch in 1..4usize,
        channels in prop::array::uniform2(1..20usize),
        [height, width] in prop::array::uniform2(1..22usize),
        layout in layouts(),
    ) {
        let shape = [batch, channels[0], height, width];
        check_conv(conv3x3(channels), shape, layout);
        check_conv(Conv2dConfig::new(channels, [1, 1]), shape, layout);
    }

    #[test]
    fn attention(
        shape in prop::array::uniform3(1..12usize),
        heads in prop::array::uniform2(1..6usize),
    ) {
        check_attend(shape, heads, None);
        let [batch, seq_q, seq_k] = shape;
        let causal = causal_mask(seq_q, &device());
        check_attend([batch, seq_q, seq_q], heads, Some(causal));
        // the last key of the last image is hidden; with one key there is nothing else to look at
        let mut last = vec![false; batch * seq_k];
        last[batch * seq_k - 1] = seq_k > 1;
        let last = Tensor::<1, Bool>::from_data(last.as_slice(), &device());
        check_attend(shape, heads, Some(last.reshape([batch, 1, 1, seq_k])));
    }
}

#[test]
fn a_query_that_sees_nothing_gets_the_mean_of_all_values() {
    // the first query of two sees nothing; f64 has no kernel and goes through burn's operations
    let hidden = [true, true, true, false, true, false];
    let hidden = Tensor::<1, Bool>::from_data(hidden.as_slice(), &device());
    let hidden = hidden.reshape([1, 1, 2, 3]);
    let [q, k, v] =
        [(2, 1), (3, 2), (3, 3)].map(|(seq, seed)| noise::<3>([1, seq, 4], seed, &device()));
    for format in [DType::F32, DType::F64] {
        let [q, k, v] = [&q, &k, &v].map(|x| x.clone().cast(format));
        let got = attend(q, k, v.clone(), 2, Some(hidden.clone()));
        let (got, mean) = (got.narrow(1, 0, 1).cast(DType::F32), v.mean_dim(1).cast(DType::F32));
        assert_close(&format!("{format:?}"), got, mean, 1e-6);
    }
}

#[test]
fn sizes_of_real_networks() {
    check_group_norm(32, [2, 96, 16, 16], Layout::Whole);
    check_group_norm(8, [1, 64, 33, 47], Layout::ChannelsLast);
    check_layer_norm([2, 1, 81, 512], Layout::Whole);
    check_layer_norm([1, 2, 7, 2048], Layout::Inner);
    check_pointwise([2, 3, 65, 129], Layout::Swapped);
    check_resampling([3, 70, 32, 32], Layout::Whole);
    check_resampling([1, 40, 66, 34], Layout::ChannelsLast);
    check_conv(conv3x3([48, 80]), [2, 48, 16, 16], Layout::Whole);
    check_conv(conv3x3([3, 70]), [1, 3, 33, 65], Layout::ChannelsLast);
    check_conv(conv3x3([130, 6]), [3, 130, 8, 8], Layout::Inner);
    check_conv(conv3x3([320, 96]), [2, 320, 8, 8], Layout::Inner);
    check_conv(conv3x3([70, 200]), [1, 70, 19, 30], Layout::ChannelsLast);
    check_conv(Conv2dConfig::new([96, 33], [1, 1]), [2, 96, 9, 17], Layout::Swapped);
    check_attend([2, 256, 333], [4, 16], None);
    check_attend([1, 81, 81], [8, 64], Some(causal_mask(81, &device())));
}

/// Whole, transposed, and a part: none of them may be read as another.
#[test]
fn weights_in_16_bits_are_widened_as_they_lie() {
    for dtype in [DType::F16, DType::BF16] {
        let x = noise::<2>([7, 12], 1, &Device::flex()).cast(dtype);
        let whole = x.clone();
        for view in [whole, x.clone().transpose(), x.clone().narrow(0, 2, 3), x.narrow(1, 5, 4)] {
            let wide = ops::working(&Param::from_tensor(view.clone()));
            assert_eq!(wide.dtype(), DType::F32);
            assert_eq!(wide.into_data(), view.cast(DType::F32).into_data());
        }
    }
}

#[test]
fn single_pixels_and_single_channels() {
    // burn itself refuses a group norm of less than three values
    check_group_norm(1, [3, 1, 1, 1], Layout::Whole);
    check_group_norm(4, [2, 4, 1, 1], Layout::Inner);
    check_group_norm(4, [1, 4, 1, 9], Layout::Swapped);
    check_layer_norm([1, 1, 1, 1], Layout::Whole);
    check_layer_norm([5, 1, 1, 1], Layout::Inner);
    check_pointwise([1, 1, 1, 1], Layout::Whole);
    check_resampling([1, 1, 1, 1], Layout::Whole);
    check_resampling([2, 3, 2, 2], Layout::Inner);
    check_conv(conv3x3([1, 1]), [1, 1, 1, 1], Layout::Whole);
    check_conv(conv3x3([5, 3]), [2, 5, 1, 1], Layout::ChannelsLast);
    check_conv(conv3x3([5, 3]), [2, 5, 1, 40], Layout::Inner);
    check_conv(conv3x3([5, 3]), [2, 5, 40, 1], Layout::Swapped);
    check_attend([1, 1, 1], [1, 1], None);
}

#[test]
fn convolutions_without_a_kernel_fall_back() {
    let shape = [2, 4, 9, 10];
    check_conv(conv3x3([4, 6]).with_bias(false), shape, Layout::Whole);
    check_conv(conv3x3([4, 6]).with_stride([2, 2]), shape, Layout::Inner);
    check_conv(Conv2dConfig::new([4, 6], [3, 3]), shape, Layout::Whole);
    check_conv(Conv2dConfig::new([4, 6], [1, 1]).with_bias(false), shape, Layout::Swapped);
    check_conv(Conv2dConfig::new([4, 6], [1, 1]).with_stride([2, 2]), shape, Layout::Whole);
    check_conv(conv3x3([4, 6]).with_groups(2), shape, Layout::Whole);
    check_conv(
        Conv2dConfig::new([4, 6], [5, 5]).with_padding(PaddingConfig2d::Explicit(2, 2, 2, 2)),
        shape,
        Layout::Whole,
    );
}

#[test]
fn inputs_or_parameters_may_be_untracked() {
    let data: Tensor<4> = noise([2, 8, 5, 6], 21, &device());
    let (norm, layer) = (group_norm(4, 8), randomized(conv3x3([8, 3]).init(&device())));
    let rows = layer_norm(6);
    let got = ops::conv(&layer, ops::group_norm_silu(&norm, data.clone(), None));
    let want = layer.forward(activation::silu(norm.forward(data.clone())));
    let (gamma, weight) = (norm.gamma.as_ref().unwrap().val(), layer.weight.val());
    assert_same(got, want, &[gradient("gamma", &gamma), gradient("weight", &weight)]);
    let (got, want) = (rows.forward(data.clone()), plain_layer_norm(&rows, data));
    assert_same(got, want, &[gradient("row gamma", &rows.gamma.val())]);

    let x: Tensor<4> = leaf([2, 8, 5, 6], 22);
    let (norm, layer, rows) = (norm.no_grad(), layer.no_grad(), rows.no_grad());
    let normed = ops::group_norm_silu(&norm, rows.forward(x.clone()), None);
    let got = ops::conv(&layer, normed);
    let want = layer.forward(activation::silu(norm.forward(rows.forward(x.clone()))));
    assert_same(got, want, &[gradient("x", &x)]);
}

#[test]
fn tails_are_finite() {
    let x = Tensor::<1>::from_floats([-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, 1e30], &device());
    let x = x.require_grad();
    for op in [ops::silu::<1>, ops::gelu::<1>, ops::quick_gelu::<1>] {
        let y = op(x.clone());
        let gradient = x.grad(&y.clone().sum().backward()).unwrap();
        for value in y.into_data().iter::<f32>().chain(gradient.into_data().iter::<f32>()) {
            assert!(value.is_finite(), "{value}");
        }
    }
}

#[test]
fn without_gradients_the_values_are_the_same() {
    let plain = Device::flex();
    let x: Tensor<4> = noise([2, 8, 7, 9], 8, &plain);
    let norm = GroupNormConfig::new(4, 8).init(&plain);
    let layer = conv3x3([8, 5]).init(&plain);
    assert_near("conv", ops::conv(&layer, x.clone()), layer.forward(x.clone()), VALUES);
    assert_near("norm", ops::group_norm(&norm, x.clone()), norm.forward(x.clone()), VALUES);
    assert_near("silu", ops::silu(x.clone()), activation::silu(x.clone()), VALUES);
    assert_near("gelu", ops::gelu(x.clone()), activation::gelu(x), VALUES);
}

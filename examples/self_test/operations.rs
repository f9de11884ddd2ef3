//! Every operation that has a kernel, against its definition in double precision, on odd sizes.

use burn::module::{Param, ParamId};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{GroupNorm, GroupNormConfig, Linear, PaddingConfig2d};
use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use unclip::unclip_nn::ops;

use crate::plain::{self, Picture};

/// What may separate f32 from double precision, relative to the largest value; for gradients, to the
/// gradient's length.
pub(crate) const TOLERANCE: f64 = 1e-5;

type OnDevice = Box<dyn Fn(&[Tensor<1>]) -> Tensor<1>>;
type Plain = Box<dyn Fn(&[Vec<f64>]) -> Vec<f64>>;

/// One operation: its inputs as flat rows of values, what computes it on a device, and its definition.
pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// Number of values of each input.
    inputs: Vec<usize>,
    /// Inputs are uniform in ± this.
    spread: f32,
    on_device: OnDevice,
    plain: Plain,
}

/// How far an operation is from its definition.
pub(crate) struct Found {
    pub(crate) value: f64,
    /// Of the gradients with respect to each input; only where the program can train.
    pub(crate) gradient: Option<f64>,
}

impl Found {
    pub(crate) fn worst(&self) -> f64 {
        // a NaN is no small difference
        [self.value, self.gradient.unwrap_or(0.0)]
            .into_iter()
            .fold(0.0, |worst, it| if it > worst || it.is_nan() { it } else { worst })
    }
}

impl Operation {
    pub(crate) fn compare(&self, device: &Device) -> Found {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut draw = |spread: f32, len: usize| -> Vec<f32> {
            (0..len).map(|_| random.random_range(-spread..spread)).collect()
        };
        let inputs: Vec<_> = self.inputs.iter().map(|&len| draw(self.spread, len)).collect();
        let expected = (self.plain)(&wide(&inputs));
        let tensors: Vec<_> = inputs.iter().map(|it| tensor(it, device)).collect();
        let found: Vec<f32> = (self.on_device)(&tensors).into_data().iter().collect();
        let scale = expected.iter().fold(0.0, |scale: f64, it| scale.max(it.abs()));
        let pairs = found.iter().zip(&expected);
        let value = pairs
            .map(|(&found, expected)| (f64::from(found) - expected).abs() / scale)
            .fold(0.0, |worst, it| if it > worst || it.is_nan() { it } else { worst });
        let gradient = self.gradients(&inputs, &draw(1.0, expected.len()), device);
        Found { value, gradient }
    }

    /// The gradient of a weighted sum of the results in a random direction of each input, against the
    /// difference quotient of the definition.
    #[cfg(feature = "train")]
    fn gradients(&self, inputs: &[Vec<f32>], weight: &[f32], device: &Device) -> Option<f64> {
        const STEP: f64 = 1e-5;
        let device = device.clone().autodiff();
        let leaves: Vec<_> = inputs.iter().map(|it| tensor(it, &device).require_grad()).collect();
        let grads = ((self.on_device)(&leaves) * tensor(weight, &device)).sum().backward();
        let mut random = ChaCha8Rng::seed_from_u64(2);
        let mut worst = 0.0f64;
        for (place, leaf) in leaves.iter().enumerate() {
            let grad: Vec<f32> = leaf.grad(&grads)?.into_data().iter().collect();
            let way: Vec<f64> =
                grad.iter().map(|_| if random.random() { 1.0 } else { -1.0 }).collect();
            let loss = |step: f64| -> f64 {
                let mut moved = wide(inputs);
                moved[place].iter_mut().zip(&way).for_each(|(value, way)| *value += step * way);
                let results = (self.plain)(&moved);
                results.iter().zip(weight).map(|(a, &b)| a * f64::from(b)).sum()
            };
            let expected = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
            let found: f64 = grad.iter().zip(&way).map(|(&a, b)| f64::from(a) * b).sum();
            let length = grad.iter().map(|&it| f64::from(it).powi(2)).sum::<f64>().sqrt();
            let error = (found - expected).abs() / length;
            worst = if error > worst || error.is_nan() { error } else { worst };
        }
        Some(worst)
    }

    #[cfg(not(feature = "train"))]
    fn gradients(&self, _: &[Vec<f32>], _: &[f32], _: &Device) -> Option<f64> {
        None
    }
}

fn wide(inputs: &[Vec<f32>]) -> Vec<Vec<f64>> {
    inputs.iter().map(|it| it.iter().map(|&value| value.into()).collect()).collect()
}

pub(crate) fn tensor(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), device)
}

fn param<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::initialized(ParamId::new(), value)
}

/// All that have a kernel on the CPU.
pub(crate) fn all() -> Vec<Operation> {
    let convolutions = [
        ("3x3 convolution, 5 to 7 channels of 9x11", [2, 5, 7, 9, 11, 3]),
        ("3x3 convolution, 48 to 40 channels of 17x16", [1, 48, 40, 17, 16, 3]),
        ("1x1 convolution, 5 to 7 channels of 9x11", [2, 5, 7, 9, 11, 1]),
    ];
    let mut all: Vec<_> = convolutions.map(|(name, sizes)| convolution(name, sizes)).into();
    all.push(linear());
    all.extend([attention("attention", false), attention("attention with a mask", true)]);
    all.extend([
        norm("group norm, SiLU", false),
        norm("group norm, factor and offset, SiLU", true),
    ]);
    all.push(layer_norm());
    all.push(pointwise("SiLU", ops::silu, plain::silu));
    all.push(pointwise("GELU", ops::gelu, plain::gelu));
    all.push(pointwise("quick GELU", ops::quick_gelu, |x| x * plain::sigmoid(1.702 * x)));
    all.extend([resampling("doubling", true), resampling("halving", false)]);
    all
}

/// A convolution with as much padding as keeps the size.
pub(crate) fn layer(weight: Tensor<1>, bias: Tensor<1>, [c_in, c_out, side]: [usize; 3]) -> Conv2d {
    let border = side / 2;
    let config = Conv2dConfig::new([c_in, c_out], [side, side])
        .with_padding(PaddingConfig2d::Explicit(border, border, border, border));
    let plain = config.init(&weight.device());
    let weight = param(weight.reshape([c_out, c_in, side, side]));
    Conv2d { weight, bias: Some(param(bias)), ..plain }
}

fn convolution(name: &'static str, [n, c_in, c_out, height, width, side]: [usize; 6]) -> Operation {
    Operation {
        name,
        inputs: vec![n * c_in * height * width, c_out * c_in * side * side, c_out],
        spread: 1.0,
        on_device: Box::new(move |inputs| {
            let [x, weight, bias] = [0, 1, 2].map(|place| inputs[place].clone());
            let layer = layer(weight, bias, [c_in, c_out, side]);
            ops::conv(&layer, x.reshape([n, c_in, height, width])).flatten(0, 3)
        }),
        plain: Box::new(move |inputs| {
            let picture = Picture { n, channels: c_in, height, width };
            plain::convolution(picture, c_out, side, inputs)
        }),
    }
}

fn linear() -> Operation {
    let [rows, d_in, d_out] = [7, 33, 65];
    Operation {
        name: "linear, 33 to 65, 7 rows",
        inputs: vec![rows * d_in, d_in * d_out, d_out],
        spread: 1.0,
        on_device: Box::new(move |inputs| {
            let [x, weight, bias] = [0, 1, 2].map(|place| inputs[place].clone());
            let weight = param(weight.reshape([d_in, d_out]));
            let layer = Linear { weight, bias: Some(param(bias)) };
            ops::linear(&layer, x.reshape([rows, d_in])).flatten(0, 1)
        }),
        plain: Box::new(move |inputs| plain::linear([rows, d_in, d_out], inputs)),
    }
}

fn attention(name: &'static str, masked: bool) -> Operation {
    let [batch, heads, d_head, seq_q, seq_k] = [2, 3, 8, 9, 13];
    let width = heads * d_head;
    Operation {
        name,
        inputs: vec![batch * seq_q * width, batch * seq_k * width, batch * seq_k * width],
        spread: 2.0,
        on_device: Box::new(move |inputs| {
            let [q, k, v] = [(0, seq_q), (1, seq_k), (2, seq_k)]
                .map(|(place, seq)| inputs[place].clone().reshape([batch, seq, width]));
            let hidden = masked.then(|| {
                let hidden: Vec<f32> =
                    (0..seq_k).map(|key| f32::from(plain::is_hidden(key))).collect();
                tensor(&hidden, &q.device())
                    .reshape([1, 1, 1, seq_k])
                    .expand([batch, 1, seq_q, seq_k])
                    .greater_elem(0.5)
            });
            ops::attend(q, k, v, heads, hidden).flatten(0, 2)
        }),
        plain: Box::new(move |inputs| {
            plain::attention([batch, heads, d_head, seq_q, seq_k], masked, inputs)
        }),
    }
}

/// What the norms add to the variance.
const EPSILON: f64 = 1e-5;

fn norm(name: &'static str, modulated: bool) -> Operation {
    let [n, channels, groups, height, width] = [2, 12, 4, 5, 7];
    let mut inputs = vec![n * channels * height * width, channels, channels];
    inputs.extend(vec![n * channels; if modulated { 2 } else { 0 }]);
    Operation {
        name,
        inputs,
        spread: 1.0,
        on_device: Box::new(move |inputs| {
            let layer = GroupNormConfig::new(groups, channels).with_epsilon(EPSILON);
            let [gamma, beta] = [1, 2].map(|place| Some(param(inputs[place].clone())));
            let layer = GroupNorm { gamma, beta, ..layer.init(&inputs[0].device()) };
            let per_picture = |place: usize| inputs[place].clone().reshape([n, channels]);
            let modulation = modulated.then(|| (per_picture(3), per_picture(4)));
            let x = inputs[0].clone().reshape([n, channels, height, width]);
            ops::group_norm_silu(&layer, x, modulation).flatten(0, 3)
        }),
        plain: Box::new(move |inputs| {
            plain::group_norm_silu(Picture { n, channels, height, width }, groups, EPSILON, inputs)
        }),
    }
}

fn layer_norm() -> Operation {
    let [rows, width] = [7, 33];
    Operation {
        name: "layer norm, 7 rows of 33",
        inputs: vec![rows * width, width, width],
        spread: 1.0,
        on_device: Box::new(move |inputs| {
            let [x, gamma, beta] = [0, 1, 2].map(|place| inputs[place].clone());
            ops::layer_norm(x.reshape([rows, width]), gamma, beta, EPSILON).flatten(0, 1)
        }),
        plain: Box::new(move |inputs| plain::layer_norm(width, EPSILON, inputs)),
    }
}

fn pointwise(
    name: &'static str,
    on_device: fn(Tensor<1>) -> Tensor<1>,
    plain: fn(f64) -> f64,
) -> Operation {
    Operation {
        name,
        inputs: vec![1003],
        spread: 12.0,
        on_device: Box::new(move |inputs| on_device(inputs[0].clone())),
        plain: Box::new(move |inputs| inputs[0].iter().map(|&x| plain(x)).collect()),
    }
}

fn resampling(name: &'static str, doubled: bool) -> Operation {
    let [n, channels, height, width] = [2, 3, 6, 10];
    Operation {
        name,
        inputs: vec![n * channels * height * width],
        spread: 1.0,
        on_device: Box::new(move |inputs| {
            let x = inputs[0].clone().reshape([n, channels, height, width]);
            let y = if doubled { ops::upsample(x) } else { ops::downsample(x) };
            y.flatten(0, 3)
        }),
        plain: Box::new(move |inputs| {
            plain::resampled(Picture { n, channels, height, width }, doubled, &inputs[0])
        }),
    }
}

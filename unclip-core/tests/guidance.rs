//! What guidance is at its ends, and what it leaves alone.

use burn::tensor::{Device, Tensor};
use unclip_core::{
    BetaSchedule, ClassifierFree, Denoiser, Guidance, Guided, Network, NoiseSchedule, Paired,
    Prediction, Step,
};

use crate::fixture::{assert_close, noise};

const SHAPE: [usize; 4] = [2, 3, 4, 5];

/// What a network bound to two conditions and two nulls answers: given rows, then null ones.
fn answers(channels: usize) -> [Tensor<4>; 2] {
    [1, 2].map(|seed| noise([2, channels, 4, 5], seed, &Device::flex()))
}

/// The guided answer, from a network that checks what it is fed.
fn guided(channels: usize, scale: f64) -> Tensor<4> {
    let x_t: Tensor<4> = noise(SHAPE, 3, &Device::flex());
    let expected = x_t.clone();
    let network = move |x: Tensor<4>, timesteps: Tensor<1>| {
        let twice = Tensor::cat(vec![expected.clone(); 2], 0);
        assert_close("both halves see x_t", x, twice, 0.0);
        assert_eq!(timesteps.into_data().iter::<f32>().collect::<Vec<_>>(), [7.0, 9.0, 7.0, 9.0]);
        Tensor::cat(answers(channels).into(), 0)
    };
    let timesteps = Tensor::from_floats([7.0, 9.0], &Device::flex());
    ClassifierFree::new(Paired(network), scale).forward(x_t, timesteps)
}

#[test]
fn scale_one_is_the_condition_and_scale_zero_is_none() {
    let [given, null] = answers(3);
    assert_close("scale 1", guided(3, 1.0), given, 1e-6);
    assert_close("scale 0", guided(3, 0.0), null, 1e-6);
}

#[test]
fn other_scales_lie_on_the_line_through_both() {
    let [given, null] = answers(3);
    for scale in [0.5, 4.0, 8.0] {
        let line = given.clone() * scale + null.clone() * (1.0 - scale);
        assert_close(&format!("scale {scale}"), guided(3, scale), line, 1e-6);
    }
}

#[test]
fn variance_channels_are_the_conditions_at_any_scale() {
    let [given, null] = answers(6);
    for scale in [0.0, 1.0, 8.0] {
        let output = guided(6, scale);
        let variance = given.clone().narrow(1, 3, 3);
        assert_close("variance", output.clone().narrow(1, 3, 3), variance, 0.0);
        let line = given.clone() * scale + null.clone() * (1.0 - scale);
        assert_close("prediction", output.narrow(1, 0, 3), line.narrow(1, 0, 3), 1e-6);
    }
}

/// A gradient that is the same everywhere.
struct Constant(Tensor<4>);

impl Guidance<4> for Constant {
    fn gradient(&self, _: Tensor<4>, _: &Step, _: &Prediction<4>) -> Tensor<4> {
        self.0.clone()
    }
}

/// Answers half of x_t.
struct Half;

impl Denoiser<4> for Half {
    fn denoise(&self, x_t: Tensor<4>, _: &Step) -> Prediction<4> {
        Prediction { x_0: x_t * 0.5, log_variance: None }
    }
}

#[test]
fn two_guidances_add_up() {
    let device = Device::flex();
    let [a, b] = [4, 5].map(|seed| noise::<4>(SHAPE, seed, &device));
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
    let x_t: Tensor<4> = noise(SHAPE, 6, &device);
    for index in [0, 500, 900] {
        let step = schedule.step(index);
        let sum = Constant(a.clone() + b.clone());
        let pair = (Constant(a.clone()), Constant(b.clone()));
        let one = Guided { inner: Half, guidance: sum }.denoise(x_t.clone(), &step).x_0;
        let two = Guided { inner: Half, guidance: pair }.denoise(x_t.clone(), &step).x_0;
        assert_close(&format!("step {index}"), two, one, 1e-6);
    }
}

#[test]
fn a_gradient_shifts_the_noise_estimate() {
    // algorithm 2 of Dhariwal & Nichol: epsilon − √(1 − ᾱ)·gradient
    let device = Device::flex();
    let gradient: Tensor<4> = noise(SHAPE, 7, &device);
    let x_t: Tensor<4> = noise(SHAPE, 8, &device);
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
    for index in [100, 500, 900] {
        let step = schedule.step(index);
        let plain = Half.denoise(x_t.clone(), &step).epsilon(x_t.clone(), &step);
        let guided = Guided { inner: Half, guidance: Constant(gradient.clone()) };
        let shifted = guided.denoise(x_t.clone(), &step).epsilon(x_t.clone(), &step);
        let want = plain - gradient.clone() * (1.0 - step.alpha_bar).sqrt();
        assert_close(&format!("step {index}"), shifted, want, 1e-5);
    }
}

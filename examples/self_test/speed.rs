//! What the device computes in a second.

use std::time::Instant;

use burn::module::{Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{Device, Distribution, Tensor};
use unclip::unclip_nn::{Precision, is_cpu, ops};

use crate::operations;

/// Calls that do not count, and those of which the fastest does.
const CALLS: [usize; 2] = [3, 7];

/// Lines for a report: what, and how much of it.
pub(crate) fn lines(device: &Device, precision: Precision) -> Vec<(&'static str, String)> {
    vec![
        ("products", product(device, precision)),
        ("convolutions", convolution(device, precision)),
        ("reading and writing memory", copying()),
    ]
}

/// Seconds of the fastest call.
fn fastest(mut call: impl FnMut()) -> f64 {
    let [ignored, counted] = CALLS;
    (0..ignored).for_each(|_| call());
    let seconds = (0..counted).map(|_| {
        let start = Instant::now();
        call();
        start.elapsed().as_secs_f64()
    });
    seconds.fold(f64::INFINITY, f64::min)
}

/// Waits for a result without bringing it here.
fn finish<const D: usize>(result: &Tensor<D>) {
    // what cannot wait has computed at once
    result.device().sync().ok();
}

fn rate(operations: f64, seconds: f64) -> String {
    format!("{:.0} billion operations a second", operations / seconds / 1e9)
}

fn product(device: &Device, precision: Precision) -> String {
    // a GPU needs more of it to be busy
    let side = if is_cpu(device) { 1024 } else { 4096 };
    let normal = || {
        let values = Tensor::<2>::random([side, side], Distribution::Normal(0.0, 1.0), device);
        values.cast(precision.dtype())
    };
    let weight = Param::initialized(ParamId::new(), normal());
    let (layer, x) = (Linear { weight, bias: None }, normal());
    let seconds = fastest(|| finish(&ops::linear(&layer, x.clone())));
    rate(2.0 * (side as f64).powi(3), seconds)
}

fn convolution(device: &Device, precision: Precision) -> String {
    let [n, channels, side] = [4, 128, 64];
    let normal = |len: usize| {
        let values = Tensor::<1>::random([len], Distribution::Normal(0.0, 1.0), device);
        values.cast(precision.dtype())
    };
    let layer = operations::layer(
        normal(channels * channels * 9),
        normal(channels),
        [channels, channels, 3],
    );
    let x = normal(n * channels * side * side).reshape([n, channels, side, side]);
    let seconds = fastest(|| finish(&ops::conv(&layer, x.clone())));
    rate((2 * 9 * n * channels * channels * side * side) as f64, seconds)
}

/// Of this process's memory, by one thread.
fn copying() -> String {
    const VALUES: usize = 32 << 20;
    let (from, mut to) = (vec![1.0f32; VALUES], vec![0.0f32; VALUES]);
    let seconds = fastest(|| to.copy_from_slice(std::hint::black_box(&from)));
    std::hint::black_box(&to);
    format!("{:.1} GB a second", (2 * 4 * VALUES) as f64 / seconds / 1e9)
}

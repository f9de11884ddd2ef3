//! What the benches share: the device, random tensors, and waiting for a result.

use std::time::Duration;

use burn::tensor::{Device, Distribution, Tensor};
use divan::{Bencher, Divan};

/// The device that `UNCLIP_DEVICE` names; the CPU if it names none.
pub(crate) fn device() -> Device {
    let name = std::env::var("UNCLIP_DEVICE").unwrap_or("flex".into());
    unclip::device(&name).unwrap_or_else(|error| panic!("UNCLIP_DEVICE: {error}"))
}

/// Standard normal values.
pub(crate) fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device())
}

/// Waits until the device has made a tensor, by reading its first value.
pub(crate) fn wait<const D: usize>(x: Tensor<D>) -> f32 {
    x.flatten::<1>(0, D - 1).narrow(0, 0, 1).into_scalar()
}

/// Measures a function, once it has run: weights are made and memory is taken by the first call.
pub(crate) fn measure<R>(bencher: Bencher, mut function: impl FnMut() -> R) {
    function();
    bencher.bench_local(function);
}

/// Runs the benches of the program, half a second each; its arguments (`--help`) may say otherwise.
pub(crate) fn main() {
    let each = Duration::from_millis(500);
    Divan::default().max_time(each).sample_count(50).config_with_args().main();
}

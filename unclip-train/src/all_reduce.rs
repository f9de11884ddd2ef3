//! Gradients summed by the devices themselves: burn's collective, which NCCL carries out on CUDA.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::distributed::{ReduceOperation, all_reduce};
use burn::tensor::{Device, Tensor};
use unclip_core::InvalidSetting;
use unclip_nn::is_cpu;

use crate::Learned;

/// The sum of what all devices have learned, on each of them. Every device has to ask for it at the same time,
/// on a thread of its own: none goes on before the last one has come. If one of them fails before that, the others
/// wait for good: NCCL has no other answer, and the process has to be killed.
pub(crate) fn summed<M: Module>(model: &M, learned: Learned, devices: &[Device]) -> Learned {
    let Learned { loss, gradients } = learned;
    let loss = all_reduce(loss, ReduceOperation::Sum, devices.to_vec()).resolve();
    let mut visitor = Reduce { gradients, devices };
    model.visit(&mut visitor);
    Learned { loss, gradients: visitor.gradients }
}

struct Reduce<'a> {
    gradients: GradientsParams,
    devices: &'a [Device],
}

impl ModuleVisitor for Reduce<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // the same weights have a gradient on all devices, which a test of `parts` asks of every objective
        if let Some(own) = self.gradients.remove::<D>(param.id) {
            let sum = all_reduce(own, ReduceOperation::Sum, self.devices.to_vec()).resolve();
            self.gradients.register(param.id, sum);
        }
    }
}

/// Whether devices can sum by themselves, tried out with a number of each.
///
/// # Errors
/// Fewer than two devices, one that is there twice, the CPU, and devices whose sum fails.
pub(crate) fn check(devices: &[Device]) -> Result<(), InvalidSetting> {
    let is_twice = |at: usize| devices[..at].contains(&devices[at]);
    let are_several = devices.len() > 1 && !(0..devices.len()).any(is_twice);
    let found = match () {
        () if !are_several || devices.iter().any(is_cpu) => format!("true with {devices:?}"),
        () if !sums(devices) => format!("true, but summing a number over {devices:?} failed"),
        () => return Ok(()),
    };
    let expected =
        "several CUDA devices, each another, and NCCL's library; or run.all_reduce = false";
    Err(InvalidSetting::new("run.all_reduce", found, expected))
}

/// Whether ones add up to the number of devices on each of them.
fn sums(devices: &[Device]) -> bool {
    let sum_on = |device: &Device| {
        let one = Tensor::<1>::ones([1], device);
        all_reduce(one, ReduceOperation::Sum, devices.to_vec()).resolve().into_scalar::<f32>()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            devices.iter().map(|device| scope.spawn(move || sum_on(device))).collect();
        let sums: Vec<_> = threads.into_iter().map(|thread| thread.join().ok()).collect();
        sums.into_iter().all(|sum| sum == Some(devices.len() as f32))
    })
}

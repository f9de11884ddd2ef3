//! Training in 16 bits, whose weights stay in 32; and training in less memory.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use unclip_nn::{Precision, is_product};

/// A view of a network in training whose products work in a format. Gradients go through it to the weights
/// themselves, which keep their own.
pub(crate) fn viewed<M: Module>(network: &M, precision: Precision) -> M {
    match precision {
        Precision::F32 => network.clone(),
        _ => network.clone().map(&mut View { precision, containers: Vec::new() }),
    }
}

struct View {
    precision: Precision,
    containers: Vec<bool>,
}

impl ModuleMapper for View {
    fn enter_module(&mut self, _: &str, container: &str) {
        self.containers.push(is_product(container));
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.containers.last() {
            Some(true) => param.map(|weight| weight.cast(self.precision.dtype())),
            _ => param,
        }
    }
}

/// A network ready to be trained, on a device that computes what takes more memory than time again when it
/// goes back.
pub(crate) fn checkpointed<M: Module>(network: M) -> M {
    struct Moved;
    impl ModuleMapper for Moved {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let needs = param.is_require_grad();
            param.map(|weight| {
                let device: Device = weight.device().inner().autodiff().gradient_checkpointing();
                let moved = Tensor::from_data(weight.into_data(), &device);
                if needs { moved.require_grad() } else { moved }
            })
        }
    }
    network.train().map(&mut Moved)
}

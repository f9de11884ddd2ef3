//! A slow copy of the weights, which samples better than the weights themselves.

use std::any::Any;
use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

/// Moves `average` towards `model`: average·decay + model·(1 − decay), parameter by parameter.
///
/// Both are on plain devices, and have the same parameters in number and shape.
pub fn update_average<M: Module>(average: M, model: &M, decay: f64) -> M {
    let mut collector = Collector::default();
    model.visit(&mut collector);
    let mut order = Order::default();
    average.visit(&mut order);
    let targets = order.0.into_iter().zip(collector.0).collect();
    average.map(&mut Mixer { targets, decay })
}

/// Every parameter of a module, in the order of its fields.
#[derive(Default)]
struct Collector(Vec<Box<dyn Any>>);

impl ModuleVisitor for Collector {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(Box::new(param.val()));
    }
}

/// The names of a module's parameters, in the order of its fields.
#[derive(Default)]
struct Order(Vec<ParamId>);

impl ModuleVisitor for Order {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.id);
    }
}

struct Mixer {
    targets: HashMap<ParamId, Box<dyn Any>>,
    decay: f64,
}

impl ModuleMapper for Mixer {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let target = self.targets.remove(&param.id);
        match target.and_then(|target| target.downcast::<Tensor<D>>().ok()) {
            Some(target) => param.map(|p| p * self.decay + *target * (1.0 - self.decay)),
            None => param,
        }
    }
}

/// The decay to use at a step: small at first, so that the average forgets the fresh weights.
pub(crate) fn warmed_decay(decay: f64, step: u64) -> f64 {
    decay.min((1.0 + step as f64) / (10.0 + step as f64))
}

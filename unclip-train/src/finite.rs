//! Whether weights are numbers.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// Whether no weight is infinite or not a number.
pub(crate) fn all_finite<M: Module>(model: &M) -> bool {
    let mut sum = Zeros(None);
    model.visit(&mut sum);
    // of finite numbers, zero times each; of others, no number
    sum.0.is_none_or(|sum| sum.into_data().iter::<f32>().all(|sum| sum == 0.0))
}

struct Zeros(Option<Tensor<1>>);

impl ModuleVisitor for Zeros {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let zero = param.val().detach().mul_scalar(0.0).sum();
        self.0 = Some(match self.0.take() {
            Some(sum) => sum + zero,
            None => zero,
        });
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Device;

    use super::*;

    fn with(value: f32) -> Linear {
        let mut layer = LinearConfig::new(3, 2).init(&Device::flex());
        layer.weight = layer.weight.map(|weight| weight.slice_fill([1..2, 1..2], value));
        layer
    }

    #[test]
    fn one_weight_is_enough() {
        assert!(all_finite(&with(f32::MAX)));
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!all_finite(&with(value)), "{value}");
        }
    }
}

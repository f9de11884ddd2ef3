//! Rejects values that are not finite, naming the stage that produced them.

use burn::tensor::Tensor;

use crate::{Error, StageId};

/// Whether all values are finite numbers. Their largest would not tell: it passes over what is no number.
pub(crate) fn is_finite<const D: usize>(values: &Tensor<D>) -> bool {
    values.clone().abs().sum().into_scalar::<f32>().is_finite()
}

/// What a stage gave, if it is finite.
pub(crate) fn finite<const D: usize>(
    stage: StageId,
    values: Tensor<D>,
) -> Result<Tensor<D>, Error> {
    if is_finite(&values) { Ok(values) } else { Err(Error::NonFinite { stage, step: None }) }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn one_value_anywhere_is_enough() {
        let device = Device::flex();
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [0, 500, 999] {
                let values = Tensor::<1>::ones([1000], &device).slice_fill(at..at + 1, value);
                assert!(!is_finite(&values), "{value} at {at}");
            }
        }
        assert!(is_finite(&Tensor::<1>::full([1000], 1e30, &device)));
    }
}

//! Rejects values that are not finite, naming the stage that produced them.

use burn::tensor::Tensor;

use crate::{Error, StageId};

/// What a stage gave, if it is finite.
pub(crate) fn finite<const D: usize>(
    stage: StageId,
    values: Tensor<D>,
) -> Result<Tensor<D>, Error> {
    if values.clone().abs().max().into_scalar::<f32>().is_finite() {
        Ok(values)
    } else {
        Err(Error::NonFinite { stage })
    }
}

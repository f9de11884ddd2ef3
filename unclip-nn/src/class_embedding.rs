//! Classes as vectors.

use burn::nn::Embedding;
use burn::tensor::{Int, Tensor, TensorData};

/// The rows of a table for these classes: `[classes, width]`.
///
/// # Panics
/// If there is no such class.
pub fn embed_classes(table: &Embedding, classes: &[usize]) -> Tensor<2> {
    let (device, [known, _]) = (table.weight.device(), table.weight.dims());
    assert!(classes.iter().all(|class| *class < known), "classes below {known}");
    let ids: Vec<i64> = classes.iter().map(|&class| class as i64).collect();
    let ids = TensorData::new(ids, [1, classes.len()]);
    table.forward(Tensor::<2, Int>::from_data(ids, &device)).squeeze_dim::<2>(0)
}

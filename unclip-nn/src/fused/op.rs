//! What a kernel is to burn: a function of tensors with a known gradient.

use std::fmt::Debug;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Shape, TensorData};

type Value = FloatTensor<Flex>;

/// A kernel of `N` tensors.
pub(crate) trait Op<const N: usize>: Debug + Send + Sync + 'static {
    /// The result, and what the backward pass wants beside the inputs. Inputs are contiguous.
    fn forward(&self, inputs: [&[f32]; N], shapes: [&Shape; N]) -> (Vec<f32>, Vec<f32>);

    /// Gradients of the inputs, from that of the result.
    fn backward(
        &self,
        inputs: [&[f32]; N],
        shapes: [&Shape; N],
        saved: &[f32],
        gradient: &[f32],
    ) -> [Vec<f32>; N];

    /// Shape of the result.
    fn output_shape(&self, shapes: [&Shape; N]) -> Shape;
}

/// Runs the forward pass alone.
pub(super) fn run<const N: usize>(op: &dyn Op<N>, inputs: [&Value; N]) -> Value {
    run_saving(op, inputs.map(contiguous).each_ref()).0
}

/// Runs the forward pass on contiguous tensors and returns what the backward pass wants.
pub(super) fn run_saving<const N: usize>(op: &dyn Op<N>, inputs: [&Value; N]) -> (Value, Vec<f32>) {
    let shapes = inputs.map(|input| input.shape());
    let (output, saved) = op.forward(inputs.map(values), shapes.each_ref());
    (tensor(output, op.output_shape(shapes.each_ref())), saved)
}

/// A tensor whose values lie in row-major order from the start of its storage.
pub(super) fn contiguous(x: &Value) -> Value {
    match x.as_slice::<f32>() {
        Some(_) => x.clone(),
        None => x.to_contiguous(),
    }
}

/// The values of a contiguous tensor.
pub(super) fn values(x: &Value) -> &[f32] {
    let n = x.shape().num_elements();
    x.as_slice::<f32>().and_then(|values| values.get(..n)).expect("the tensor is contiguous f32")
}

/// A tensor of these values.
pub(super) fn tensor(values: Vec<f32>, shape: Shape) -> Value {
    Value::from_data(TensorData::new(values, shape))
}

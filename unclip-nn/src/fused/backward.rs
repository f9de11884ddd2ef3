//! Any [`Op`](super::Op) as a node of burn's autodiff graph.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata};
use burn::tensor::FloatDType;

use super::op::{contiguous, run_saving, tensor, values};
use super::{AnyOp, FusedBackend};

/// The backward step of an operation of `N` tensors.
#[derive(Debug)]
struct Step<const N: usize>;

/// What a forward pass leaves for its backward pass.
#[derive(Debug, Clone)]
struct Saved<const N: usize> {
    op: AnyOp<N>,
    inputs: [FloatTensor<Flex>; N],
    extra: Vec<f32>,
}

impl<const N: usize> Backward<Flex, N> for Step<N> {
    type State = Saved<N>;

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = contiguous(&gradients.consume::<Flex>(&ops.node));
        let Saved { op, inputs, extra } = ops.state;
        let shapes = inputs.each_ref().map(|input| input.shape());
        let inputs = inputs.each_ref().map(values);
        let of_inputs = op.backward(inputs, shapes.each_ref(), &extra, values(&gradient));
        for ((parent, gradient), shape) in ops.parents.into_iter().zip(of_inputs).zip(shapes) {
            if let Some(parent) = parent {
                gradients.register::<Flex>(parent.id, tensor(gradient, shape));
            }
        }
    }
}

/// Runs an operation and, if any of its inputs is tracked, registers its backward step.
fn track<C: CheckpointStrategy, const N: usize>(
    op: AnyOp<N>,
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = inputs.each_ref().map(|input| input.node());
    let inputs = inputs.map(|input| contiguous(&input.into_primitive()));
    let (output, extra) = run_saving(&*op, inputs.each_ref());
    match Step::<N>.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(Saved { op, inputs, extra }, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    }
}

impl<C: CheckpointStrategy> FusedBackend for Autodiff<Flex, C> {
    fn unary(op: AnyOp<1>, a: FloatTensor<Self>) -> FloatTensor<Self> {
        track::<C, 1>(op, [a])
    }

    fn ternary(
        op: AnyOp<3>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        track::<C, 3>(op, [a, b, c])
    }

    fn quinary(
        op: AnyOp<5>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        track::<C, 5>(op, [a, b, c, d, e])
    }

    fn widen(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_cast(x, FloatDType::F32)
    }
}

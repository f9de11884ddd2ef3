//! Any [`Op`] as a node of burn's autodiff graph.

use std::marker::PhantomData;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata};
use burn::tensor::FloatDType;

use super::op::{contiguous, tensor, values};
use super::{
    Attention, Conv1x1, Conv3x3, FusedBackend, GroupNorm, LayerNorm, Modulated, Op, Pointwise,
    Resample,
};

/// The backward step of an operation of `N` tensors.
#[derive(Debug)]
struct Step<O>(PhantomData<fn() -> O>);

/// What a forward pass leaves for its backward pass.
#[derive(Debug, Clone)]
struct Saved<O, const N: usize> {
    op: O,
    inputs: [FloatTensor<Flex>; N],
    extra: Vec<f32>,
}

impl<O: Op<N>, const N: usize> Backward<Flex, N> for Step<O> {
    type State = Saved<O, N>;

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
fn track<O: Op<N>, C: CheckpointStrategy, const N: usize>(
    op: O,
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = inputs.each_ref().map(|input| input.node());
    let inputs = inputs.map(|input| contiguous(&input.into_primitive()));
    let (output, extra) = op.run_saving(inputs.each_ref());
    match Step::<O>(PhantomData).prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(Saved { op, inputs, extra }, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    }
}

impl<C: CheckpointStrategy> FusedBackend for Autodiff<Flex, C> {
    fn pointwise(op: Pointwise, x: FloatTensor<Self>) -> FloatTensor<Self> {
        track::<_, C, _>(op, [x])
    }

    fn widen(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_cast(x, FloatDType::F32)
    }

    fn resample(op: Resample, x: FloatTensor<Self>) -> FloatTensor<Self> {
        track::<_, C, _>(op, [x])
    }

    fn conv3x3(
        op: Conv3x3,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        track::<_, C, _>(op, [x, weight, bias])
    }

    fn conv1x1(
        op: Conv1x1,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        track::<_, C, _>(op, [x, weight, bias])
    }

    fn attention(
        op: Attention,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        track::<_, C, _>(op, [q, k, v])
    }

    fn group_norm(
        op: GroupNorm,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        track::<_, C, _>(op, [x, gamma, beta])
    }

    fn modulated_group_norm(
        op: Modulated,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        track::<_, C, _>(op, [x, gamma, beta, scale, shift])
    }

    fn layer_norm(
        op: LayerNorm,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        track::<_, C, _>(op, [x, gamma, beta])
    }
}

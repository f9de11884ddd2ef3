//! The kernels of [`unclip_kernels`] as differentiable burn operations, on the `flex` backend.
//!
//! A kernel is an [`Op`]: values in, one value out, and what the backward pass wants to keep. This
//! module knows operations by their number of tensors alone, and registers any of them with burn;
//! which kernel belongs to which layer, and what happens where there is none, is the business of
//! [`ops`](crate::ops).

#[cfg(feature = "autodiff")]
mod backward;
mod op;

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, FloatDType, Tensor};
use half::{bf16, f16};

use crate::{is_cpu, precision};
pub(crate) use op::Op;

/// An operation of `N` tensors, whichever it is.
type AnyOp<const N: usize> = Arc<dyn Op<N>>;

/// Operations by number of tensors. `Dispatch` implements it for every device.
#[cfg_attr(feature = "autodiff", backend_extension(Flex, Autodiff))]
#[cfg_attr(not(feature = "autodiff"), backend_extension(Flex))]
pub(crate) trait FusedBackend: Backend {
    /// Of one tensor.
    fn unary(op: AnyOp<1>, a: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Of three.
    fn ternary(
        op: AnyOp<3>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Of five.
    fn quinary(
        op: AnyOp<5>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// 16-bit floats as f32.
    fn widen(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl FusedBackend for Flex {
    fn unary(op: AnyOp<1>, a: FloatTensor<Self>) -> FloatTensor<Self> {
        op::run(&*op, [&a])
    }

    fn ternary(
        op: AnyOp<3>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        op::run(&*op, [&a, &b, &c])
    }

    fn quinary(
        op: AnyOp<5>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        d: FloatTensor<Self>,
        e: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        op::run(&*op, [&a, &b, &c, &d, &e])
    }

    fn widen(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = if x.is_contiguous() { x } else { x.to_contiguous() };
        let n = x.shape().num_elements();
        let wide = if let Some(narrow) = x.as_slice::<f16>().and_then(|narrow| narrow.get(..n)) {
            precision::widen(narrow)
        } else if let Some(narrow) = x.as_slice::<bf16>().and_then(|narrow| narrow.get(..n)) {
            precision::widen(narrow)
        } else {
            return Self::float_cast(x, FloatDType::F32);
        };
        op::tensor(wide, x.shape())
    }
}

/// Whether a tensor's device and number format have kernels.
pub(crate) fn is_fused<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    let tracked = device.is_autodiff() && !cfg!(feature = "autodiff");
    x.dtype() == DType::F32 && !tracked && is_cpu(&device)
}

/// An operation of one tensor; `E` is the rank of its result.
pub(crate) fn unary<const D: usize, const E: usize>(op: impl Op<1>, a: Tensor<D>) -> Tensor<E> {
    Tensor::from_dispatch(<Dispatch as FusedBackend>::unary(Arc::new(op), a.into_dispatch()))
}

/// An operation of three tensors; the result has the rank of the first.
pub(crate) fn ternary<const A: usize, const B: usize, const C: usize>(
    op: impl Op<3>,
    a: Tensor<A>,
    b: Tensor<B>,
    c: Tensor<C>,
) -> Tensor<A> {
    Tensor::from_dispatch(<Dispatch as FusedBackend>::ternary(
        Arc::new(op),
        a.into_dispatch(),
        b.into_dispatch(),
        c.into_dispatch(),
    ))
}

/// An operation of a tensor, two vectors and two matrices; the result has the rank of the first.
pub(crate) fn quinary<const D: usize>(
    op: impl Op<5>,
    a: Tensor<D>,
    vectors: [Tensor<1>; 2],
    matrices: [Tensor<2>; 2],
) -> Tensor<D> {
    let [b, c] = vectors.map(Tensor::into_dispatch);
    let [d, e] = matrices.map(Tensor::into_dispatch);
    let op = Arc::new(op);
    Tensor::from_dispatch(<Dispatch as FusedBackend>::quinary(op, a.into_dispatch(), b, c, d, e))
}

/// A tensor of the CPU as f32.
pub(crate) fn widen<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F32 => x,
        _ => Tensor::from_dispatch(<Dispatch as FusedBackend>::widen(x.into_dispatch())),
    }
}

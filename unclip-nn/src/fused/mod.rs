//! The kernels of [`unclip_kernels`] as differentiable burn operations, on the `flex`
//! backend. Everywhere else, and for other number formats, the callers in [`ops`](crate::ops) use
//! burn's own operations, which are also the oracle in the tests.
//!
//! A kernel is an [`Op`]: values in, one value out, and what the backward pass wants to keep. One
//! generic wrapper registers any of them with burn.

#[cfg(feature = "autodiff")]
mod backward;
mod op;
mod products;
mod resample;

use std::sync::Arc;

use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Bool, DType, Device, FloatDType, Tensor};
use half::{bf16, f16};

use crate::precision;
pub(crate) use op::{Conv3x3, GroupNorm, LayerNorm, Modulated, Op, Pointwise};
pub(crate) use products::{Attention, Conv1x1, HiddenKeys};
pub(crate) use resample::Resample;

/// The operations, by number of tensors. `Dispatch` implements it for every device.
#[cfg_attr(feature = "autodiff", backend_extension(Flex, Autodiff))]
#[cfg_attr(not(feature = "autodiff"), backend_extension(Flex))]
pub(crate) trait FusedBackend: Backend {
    /// A function of each value.
    fn pointwise(op: Pointwise, x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// 16-bit floats as f32.
    fn widen(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// A picture of another size.
    fn resample(op: Resample, x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// A convolution of picture, weight and bias.
    fn conv3x3(
        op: Conv3x3,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// A 1 x 1 convolution of picture, weight and bias.
    fn conv1x1(
        op: Conv1x1,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Attention of queries, keys and values.
    fn attention(
        op: Attention,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// A group norm of picture, factor and offset.
    fn group_norm(
        op: GroupNorm,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// A group norm with scale and shift for each image.
    fn modulated_group_norm(
        op: Modulated,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// A layer norm of rows, factor and offset.
    fn layer_norm(
        op: LayerNorm,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

impl FusedBackend for Flex {
    fn pointwise(op: Pointwise, x: FloatTensor<Self>) -> FloatTensor<Self> {
        op.run([&x])
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

    fn resample(op: Resample, x: FloatTensor<Self>) -> FloatTensor<Self> {
        op.run([&x])
    }

    fn conv3x3(
        op: Conv3x3,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        op.run([&x, &weight, &bias])
    }

    fn conv1x1(
        op: Conv1x1,
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        op.run([&x, &weight, &bias])
    }

    fn attention(
        op: Attention,
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        op.run([&q, &k, &v])
    }

    fn group_norm(
        op: GroupNorm,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        op.run([&x, &gamma, &beta])
    }

    fn modulated_group_norm(
        op: Modulated,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        op.run([&x, &gamma, &beta, &scale, &shift])
    }

    fn layer_norm(
        op: LayerNorm,
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        op.run([&x, &gamma, &beta])
    }
}

/// Whether a tensor's device and number format have kernels.
pub(crate) fn is_fused<const D: usize>(x: &Tensor<D>) -> bool {
    let device = x.device();
    let tracked = device.is_autodiff() && !cfg!(feature = "autodiff");
    x.dtype() == DType::F32 && !tracked && device == Device::flex()
}

/// A function of each value, by a kernel.
pub(crate) fn pointwise<const D: usize>(op: Pointwise, x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as FusedBackend>::pointwise(op, x.into_dispatch()))
}

/// A tensor of the processor as f32.
pub(crate) fn widen<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.dtype() {
        DType::F32 => x,
        _ => Tensor::from_dispatch(<Dispatch as FusedBackend>::widen(x.into_dispatch())),
    }
}

/// A picture of another size, by a kernel.
pub(crate) fn resample(op: Resample, x: Tensor<4>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as FusedBackend>::resample(op, x.into_dispatch()))
}

/// A 3 x 3 convolution by a kernel.
pub(crate) fn conv3x3(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as FusedBackend>::conv3x3(
        Conv3x3,
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// A 1 x 1 convolution by a kernel.
pub(crate) fn conv1x1(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as FusedBackend>::conv1x1(
        Conv1x1,
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// Attention by a kernel; `hidden` is `[batch or 1, 1, seq_q or 1, seq_k]`.
pub(crate) fn attention(
    [q, k, v]: [Tensor<3>; 3],
    n_heads: usize,
    hidden: Option<Tensor<4, Bool>>,
) -> Tensor<3> {
    let hidden = hidden.map(|hidden| {
        let [batch, _, seq_q, _] = hidden.dims();
        Arc::new(HiddenKeys { mask: hidden.into_data().iter::<bool>().collect(), batch, seq_q })
    });
    Tensor::from_dispatch(<Dispatch as FusedBackend>::attention(
        Attention { n_heads, hidden },
        q.into_dispatch(),
        k.into_dispatch(),
        v.into_dispatch(),
    ))
}

/// A group norm by a kernel.
pub(crate) fn group_norm(
    op: GroupNorm,
    x: Tensor<4>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    modulation: Option<(Tensor<2>, Tensor<2>)>,
) -> Tensor<4> {
    let (x, gamma, beta) = (x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch());
    Tensor::from_dispatch(match modulation {
        None => <Dispatch as FusedBackend>::group_norm(op, x, gamma, beta),
        Some((scale, shift)) => <Dispatch as FusedBackend>::modulated_group_norm(
            Modulated(op),
            x,
            gamma,
            beta,
            scale.into_dispatch(),
            shift.into_dispatch(),
        ),
    })
}

/// A layer norm by a kernel.
pub(crate) fn layer_norm<const D: usize>(
    op: LayerNorm,
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Tensor<1>,
) -> Tensor<D> {
    Tensor::from_dispatch(<Dispatch as FusedBackend>::layer_norm(
        op,
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
    ))
}

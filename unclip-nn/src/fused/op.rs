//! Each kernel as a function of tensors with a known gradient.

use std::fmt::Debug;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Shape, TensorData};

use unclip_kernels::{
    self as kernels, Affine, ConvShape, GroupNormGrads, GroupShape, LayerNormGrads,
};

type Value = FloatTensor<Flex>;

/// A kernel of `N` tensors.
pub(crate) trait Op<const N: usize>: Clone + Debug + Send + 'static {
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

    /// Runs the forward pass alone.
    fn run(&self, inputs: [&Value; N]) -> Value {
        self.run_saving(inputs.map(contiguous).each_ref()).0
    }

    /// Runs the forward pass on contiguous tensors and returns what the backward pass wants.
    fn run_saving(&self, inputs: [&Value; N]) -> (Value, Vec<f32>) {
        let shapes = inputs.map(|input| input.shape());
        let (output, saved) = self.forward(inputs.map(values), shapes.each_ref());
        (tensor(output, self.output_shape(shapes.each_ref())), saved)
    }
}

/// A tensor whose values lie in row-major order from the start of its storage.
pub(crate) fn contiguous(x: &Value) -> Value {
    match x.as_slice::<f32>() {
        Some(_) => x.clone(),
        None => x.to_contiguous(),
    }
}

/// The values of a contiguous tensor.
pub(crate) fn values(x: &Value) -> &[f32] {
    let n = x.shape().num_elements();
    x.as_slice::<f32>().and_then(|values| values.get(..n)).expect("the tensor is contiguous f32")
}

/// A tensor of these values.
pub(crate) fn tensor(values: Vec<f32>, shape: Shape) -> Value {
    Value::from_data(TensorData::new(values, shape))
}

/// A function of each value.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pointwise {
    /// x·σ(x).
    Silu,
    /// Exact GELU.
    Gelu,
}

impl Op<1> for Pointwise {
    fn forward(&self, [x]: [&[f32]; 1], _: [&Shape; 1]) -> (Vec<f32>, Vec<f32>) {
        let mut y = vec![0.0; x.len()];
        match self {
            Self::Silu => kernels::silu(x, &mut y),
            Self::Gelu => kernels::gelu(x, &mut y),
        }
        (y, Vec::new())
    }

    fn backward(
        &self,
        [x]: [&[f32]; 1],
        _: [&Shape; 1],
        _: &[f32],
        gradient: &[f32],
    ) -> [Vec<f32>; 1] {
        let mut dx = vec![0.0; x.len()];
        match self {
            Self::Silu => kernels::silu_backward(x, gradient, &mut dx),
            Self::Gelu => kernels::gelu_backward(x, gradient, &mut dx),
        }
        [dx]
    }

    fn output_shape(&self, [x]: [&Shape; 1]) -> Shape {
        x.clone()
    }
}

/// A 3 x 3 convolution with stride 1 and padding 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conv3x3;

pub(super) fn conv_shape(x: &Shape, weight: &Shape) -> ConvShape {
    ConvShape { batch: x[0], c_in: x[1], c_out: weight[0], height: x[2], width: x[3] }
}

impl Op<3> for Conv3x3 {
    fn forward(&self, [x, weight, bias]: [&[f32]; 3], shapes: [&Shape; 3]) -> (Vec<f32>, Vec<f32>) {
        let shape = conv_shape(shapes[0], shapes[1]);
        let mut y = vec![0.0; shape.output_len()];
        kernels::conv3x3(shape, x, weight, Some(bias), &mut y);
        (y, Vec::new())
    }

    fn backward(
        &self,
        [x, weight, bias]: [&[f32]; 3],
        shapes: [&Shape; 3],
        _: &[f32],
        gradient: &[f32],
    ) -> [Vec<f32>; 3] {
        let shape = conv_shape(shapes[0], shapes[1]);
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; weight.len()]);
        let mut db = vec![0.0; bias.len()];
        kernels::conv3x3_backward_input(shape, gradient, weight, &mut dx);
        kernels::conv3x3_backward_weight(shape, x, gradient, &mut dw);
        kernels::conv_backward_bias(shape, gradient, &mut db);
        [dx, dw, db]
    }

    fn output_shape(&self, [x, weight, _]: [&Shape; 3]) -> Shape {
        Shape::new([x[0], weight[0], x[2], x[3]])
    }
}

/// A group norm, perhaps followed by SiLU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupNorm {
    pub(crate) groups: usize,
    pub(crate) eps: f32,
    pub(crate) silu: bool,
}

/// A group norm with a scale and shift between it and its SiLU.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Modulated(pub(crate) GroupNorm);

impl GroupNorm {
    fn shape(&self, x: &Shape) -> GroupShape {
        let pixels = x[2] * x[3];
        GroupShape { batch: x[0], channels: x[1], pixels, groups: self.groups }
    }

    /// Saves the means, then the reciprocal deviations.
    fn forward(&self, x: &[f32], shape: &Shape, affine: Affine<'_>) -> (Vec<f32>, Vec<f32>) {
        let shape = self.shape(shape);
        let statistics = shape.batch * shape.groups;
        let (mut y, mut saved) = (vec![0.0; x.len()], vec![0.0; 2 * statistics]);
        let (mean, rstd) = saved.split_at_mut(statistics);
        kernels::group_norm(shape, x, affine, self.eps, &mut y, mean, rstd);
        (y, saved)
    }

    fn backward(
        &self,
        x: &[f32],
        shape: &Shape,
        affine: Affine<'_>,
        saved: &[f32],
        gradient: &[f32],
    ) -> [Vec<f32>; 5] {
        let shape = self.shape(shape);
        let per_image = shape.batch * shape.channels;
        let mut dx = vec![0.0; x.len()];
        let [mut dgamma, mut dbeta] = [(); 2].map(|()| vec![0.0; shape.channels]);
        let [mut dscale, mut dshift] = [(); 2].map(|()| vec![0.0; per_image]);
        let grads = GroupNormGrads {
            dx: &mut dx,
            dgamma: &mut dgamma,
            dbeta: &mut dbeta,
            dmodulation: affine.modulation.map(|_| (dscale.as_mut_slice(), dshift.as_mut_slice())),
        };
        let saved = saved.split_at(shape.batch * shape.groups);
        kernels::group_norm_backward(shape, x, gradient, affine, saved, grads);
        [dx, dgamma, dbeta, dscale, dshift]
    }
}

impl Op<3> for GroupNorm {
    fn forward(&self, [x, gamma, beta]: [&[f32]; 3], shapes: [&Shape; 3]) -> (Vec<f32>, Vec<f32>) {
        let affine = Affine { gamma, beta, modulation: None, silu: self.silu };
        GroupNorm::forward(self, x, shapes[0], affine)
    }

    fn backward(
        &self,
        [x, gamma, beta]: [&[f32]; 3],
        shapes: [&Shape; 3],
        saved: &[f32],
        gradient: &[f32],
    ) -> [Vec<f32>; 3] {
        let affine = Affine { gamma, beta, modulation: None, silu: self.silu };
        let [dx, dgamma, dbeta, ..] =
            GroupNorm::backward(self, x, shapes[0], affine, saved, gradient);
        [dx, dgamma, dbeta]
    }

    fn output_shape(&self, [x, ..]: [&Shape; 3]) -> Shape {
        x.clone()
    }
}

impl Op<5> for Modulated {
    fn forward(
        &self,
        [x, gamma, beta, scale, shift]: [&[f32]; 5],
        shapes: [&Shape; 5],
    ) -> (Vec<f32>, Vec<f32>) {
        let modulation = Some((scale, shift));
        let affine = Affine { gamma, beta, modulation, silu: self.0.silu };
        self.0.forward(x, shapes[0], affine)
    }

    fn backward(
        &self,
        [x, gamma, beta, scale, shift]: [&[f32]; 5],
        shapes: [&Shape; 5],
        saved: &[f32],
        gradient: &[f32],
    ) -> [Vec<f32>; 5] {
        let modulation = Some((scale, shift));
        let affine = Affine { gamma, beta, modulation, silu: self.0.silu };
        self.0.backward(x, shapes[0], affine, saved, gradient)
    }

    fn output_shape(&self, [x, ..]: [&Shape; 5]) -> Shape {
        x.clone()
    }
}

/// A norm over the last dimension.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LayerNorm {
    pub(crate) eps: f32,
}

impl Op<3> for LayerNorm {
    fn forward(&self, [x, gamma, beta]: [&[f32]; 3], _: [&Shape; 3]) -> (Vec<f32>, Vec<f32>) {
        let rows = x.len() / gamma.len();
        let (mut y, mut saved) = (vec![0.0; x.len()], vec![0.0; 2 * rows]);
        let (mean, rstd) = saved.split_at_mut(rows);
        kernels::layer_norm(x, gamma, Some(beta), self.eps, &mut y, mean, rstd);
        (y, saved)
    }

    fn backward(
        &self,
        [x, gamma, beta]: [&[f32]; 3],
        _: [&Shape; 3],
        saved: &[f32],
        gradient: &[f32],
    ) -> [Vec<f32>; 3] {
        let mut dx = vec![0.0; x.len()];
        let [mut dgamma, mut dbeta] = [gamma, beta].map(|v| vec![0.0; v.len()]);
        let grads = LayerNormGrads { dx: &mut dx, dgamma: &mut dgamma, dbeta: Some(&mut dbeta) };
        let saved = saved.split_at(saved.len() / 2);
        kernels::layer_norm_backward(x, gradient, gamma, saved, grads);
        [dx, dgamma, dbeta]
    }

    fn output_shape(&self, [x, ..]: [&Shape; 3]) -> Shape {
        x.clone()
    }
}

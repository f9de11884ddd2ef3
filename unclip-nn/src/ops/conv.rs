//! Convolutions.

use burn::module::Param;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

use super::working;
#[cfg(feature = "flex")]
use crate::fused;

/// A convolution, in the number format of its weight.
///
/// # Shapes
/// - `x`: `[batch, channels_in, height, width]`
pub fn conv(layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let (true, Some(bias)) = (fused::is_fused(&x) && has_kernel(layer), &layer.bias) {
        return fused::ternary(kernel::Conv, x, working(&layer.weight), working(bias));
    }
    let own = layer.weight.val().dtype();
    let weight = working(&layer.weight);
    let x = x.cast(weight.dtype());
    match () {
        () if is_1x1(layer) => conv1x1(layer, x),
        () if weight.dtype() == own => layer.forward(x),
        // the same layer in the format in which it computes
        () => {
            let bias = layer.bias.as_ref().map(|bias| derived(bias, working(bias)));
            let weight = derived(&layer.weight, weight);
            Conv2d { weight, bias, ..layer.clone() }.forward(x)
        }
    }
}

/// A parameter's value with something done to it, in its place: gradients reach the parameter itself.
pub(crate) fn derived<const D: usize>(
    own: &Param<Tensor<D>>,
    value: Tensor<D>,
) -> Param<Tensor<D>> {
    Param::initialized(own.id, value)
}

fn is_1x1(layer: &Conv2d) -> bool {
    layer.kernel_size == [1, 1] && layer.stride == [1, 1]
}

#[cfg(feature = "flex")]
fn has_kernel(layer: &Conv2d) -> bool {
    use burn::nn::PaddingConfig2d::Explicit;
    let is_plain_3x3 = layer.kernel_size == [3, 3]
        && layer.stride == [1, 1]
        && layer.dilation == [1, 1]
        && layer.groups == 1
        && matches!(layer.padding, Explicit(1, 1, 1, 1));
    is_1x1(layer) || is_plain_3x3
}

/// A 1 x 1 convolution is a matrix product, and some GPU kernels for it are wrong (cubek#519).
fn conv1x1(layer: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let [batch, channels_in, height, width] = x.dims();
    let weight = working(&layer.weight);
    let channels_out = weight.dims()[0];
    let weight = weight.reshape([1, channels_out, channels_in]);
    let y = weight.matmul(x.reshape([batch, channels_in, height * width]));
    let y = match &layer.bias {
        Some(bias) => y + working(bias).reshape([1, channels_out, 1]),
        None => y,
    };
    y.reshape([batch, channels_out, height, width])
}

#[cfg(feature = "flex")]
mod kernel {
    use burn::tensor::Shape;
    use unclip_kernels::{self as kernels, ConvShape};

    use crate::fused::Op;

    /// Of picture, weight and bias, with stride 1: 1 x 1, or 3 x 3 with padding 1, as the weight's
    /// shape says.
    #[derive(Debug)]
    pub(super) struct Conv;

    fn shape(x: &Shape, weight: &Shape) -> ConvShape {
        ConvShape { batch: x[0], c_in: x[1], c_out: weight[0], height: x[2], width: x[3] }
    }

    impl Op<3> for Conv {
        fn forward(
            &self,
            [x, weight, bias]: [&[f32]; 3],
            shapes: [&Shape; 3],
        ) -> (Vec<f32>, Vec<f32>) {
            let shape = shape(shapes[0], shapes[1]);
            let mut y = vec![0.0; shape.output_len()];
            match shapes[1][2] {
                1 => kernels::conv1x1(shape, x, weight, Some(bias), &mut y),
                _ => kernels::conv3x3(shape, x, weight, Some(bias), &mut y),
            }
            (y, Vec::new())
        }

        fn backward(
            &self,
            [x, weight, bias]: [&[f32]; 3],
            shapes: [&Shape; 3],
            _: &[f32],
            gradient: &[f32],
        ) -> [Vec<f32>; 3] {
            let shape = shape(shapes[0], shapes[1]);
            let [mut dx, mut dw, mut db] = [x, weight, bias].map(|v| vec![0.0; v.len()]);
            if shapes[1][2] == 1 {
                kernels::conv1x1_backward_input(shape, gradient, weight, &mut dx);
                kernels::conv1x1_backward_weight(shape, x, gradient, &mut dw);
            } else {
                kernels::conv3x3_backward_input(shape, gradient, weight, &mut dx);
                kernels::conv3x3_backward_weight(shape, x, gradient, &mut dw);
            }
            kernels::conv_backward_bias(shape, gradient, &mut db);
            [dx, dw, db]
        }

        fn output_shape(&self, [x, weight, _]: [&Shape; 3]) -> Shape {
            Shape::new([x[0], weight[0], x[2], x[3]])
        }
    }
}

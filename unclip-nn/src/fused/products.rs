//! The kernels that are matrix products at heart.

use std::sync::Arc;

use burn::tensor::Shape;

use super::Op;
use super::op::conv_shape;
use unclip_kernels::{self as kernels, AttentionShape, Mask};

/// Multi-head attention of queries, keys and values, `[batch, seq, n_heads · d_head]` each.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) n_heads: usize,
    pub(crate) hidden: Option<Arc<HiddenKeys>>,
}

/// Where queries must not look, in host memory: `[batch or 1, seq_q or 1, seq_k]`.
#[derive(Debug)]
pub(crate) struct HiddenKeys {
    pub(crate) mask: Vec<bool>,
    pub(crate) batch: usize,
    pub(crate) seq_q: usize,
}

impl Attention {
    fn shape(&self, q: &Shape, k: &Shape) -> AttentionShape {
        AttentionShape {
            batch: q[0],
            heads: self.n_heads,
            seq_q: q[1],
            seq_k: k[1],
            d_head: q[2] / self.n_heads,
        }
    }

    fn mask(&self) -> Option<Mask<'_>> {
        self.hidden.as_ref().map(|hidden| Mask {
            hidden: &hidden.mask,
            batch: hidden.batch,
            seq_q: hidden.seq_q,
        })
    }
}

impl Op<3> for Attention {
    fn forward(&self, [q, k, v]: [&[f32]; 3], shapes: [&Shape; 3]) -> (Vec<f32>, Vec<f32>) {
        let mut y = vec![0.0; q.len()];
        kernels::attention(self.shape(shapes[0], shapes[1]), q, k, v, self.mask(), &mut y);
        (y, Vec::new())
    }

    fn backward(
        &self,
        inputs: [&[f32]; 3],
        shapes: [&Shape; 3],
        _: &[f32],
        gradient: &[f32],
    ) -> [Vec<f32>; 3] {
        let shape = self.shape(shapes[0], shapes[1]);
        let mut grads = inputs.map(|x| vec![0.0; x.len()]);
        let of_inputs = grads.each_mut().map(Vec::as_mut_slice);
        kernels::attention_backward(shape, inputs, self.mask(), gradient, of_inputs);
        grads
    }

    fn output_shape(&self, [q, ..]: [&Shape; 3]) -> Shape {
        q.clone()
    }
}

/// A 1 x 1 convolution with stride 1.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conv1x1;

impl Op<3> for Conv1x1 {
    fn forward(&self, [x, weight, bias]: [&[f32]; 3], shapes: [&Shape; 3]) -> (Vec<f32>, Vec<f32>) {
        let shape = conv_shape(shapes[0], shapes[1]);
        let mut y = vec![0.0; shape.output_len()];
        kernels::conv1x1(shape, x, weight, Some(bias), &mut y);
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
        let [mut dx, mut dw, mut db] = [x, weight, bias].map(|v| vec![0.0; v.len()]);
        kernels::conv1x1_backward_input(shape, gradient, weight, &mut dx);
        kernels::conv1x1_backward_weight(shape, x, gradient, &mut dw);
        kernels::conv_backward_bias(shape, gradient, &mut db);
        [dx, dw, db]
    }

    fn output_shape(&self, [x, weight, _]: [&Shape; 3]) -> Shape {
        Shape::new([x[0], weight[0], x[2], x[3]])
    }
}

//! Scaled dot-product attention.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Tensor};

#[cfg(feature = "flex")]
use crate::fused;

/// The score of a hidden key: no weight beside any other score, but still finite. Minus infinity
/// would give NaN for a query that sees nothing.
const HIDDEN: f32 = -1e30;

/// Scaled dot-product attention, softmax(q·kᵀ / √d)·v, for each head; the softmax is in f32. A
/// query from which all keys are hidden gets the mean of all values, as with the masks of published
/// models, which lower a hidden score by a large number.
///
/// # Shapes
/// - `q`: `[batch, seq_q, n_heads · d_head]`; `k`, `v`: `[batch, seq_k, n_heads · d_head]`
/// - `hidden`: `[batch or 1, 1, seq_q or 1, seq_k]`, true where a query must not look
/// - result: `[batch, seq_q, n_heads · d_head]`
pub fn attend(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    n_heads: usize,
    hidden: Option<Tensor<4, Bool>>,
) -> Tensor<3> {
    #[cfg(feature = "flex")]
    if fused::is_fused(&q) {
        return fused::ternary(kernel::Attention::new(n_heads, hidden), q, k, v);
    }
    let [batch, seq_q, width] = q.dims();
    let d_head = width / n_heads;
    let seq_k = k.dims()[1];
    let heads = |x: Tensor<3>, seq: usize| -> Tensor<4> {
        x.reshape([batch, seq, n_heads, d_head]).swap_dims(1, 2)
    };
    // the factor goes to the queries: scores without it can be too large for 16 bits
    let q = heads(q, seq_q) * (d_head as f64).powf(-0.5);
    let scores = q.matmul(heads(k, seq_k).transpose()).cast(DType::F32);
    let scores = match hidden {
        None => scores,
        Some(hidden) => {
            // expanded by hand: broadcast masks have been misread by GPU kernels (burn#4778)
            scores.mask_fill(hidden.expand([batch, n_heads, seq_q, seq_k]), HIDDEN)
        }
    };
    let weights = softmax(scores, 3).cast(v.dtype());
    weights.matmul(heads(v, seq_k)).swap_dims(1, 2).reshape([batch, seq_q, width])
}

#[cfg(feature = "flex")]
mod kernel {
    use burn::tensor::{Bool, Shape, Tensor};
    use unclip_kernels::{AttentionShape, Mask, attention, attention_backward};

    use crate::fused::Op;

    #[derive(Debug)]
    pub(super) struct Attention {
        n_heads: usize,
        hidden: Option<HiddenKeys>,
    }

    /// Where queries must not look, in host memory: `[batch or 1, seq_q or 1, seq_k]`.
    #[derive(Debug)]
    struct HiddenKeys {
        mask: Vec<bool>,
        batch: usize,
        seq_q: usize,
    }

    impl Attention {
        pub(super) fn new(n_heads: usize, hidden: Option<Tensor<4, Bool>>) -> Self {
            let hidden = hidden.map(|hidden| {
                let [batch, _, seq_q, _] = hidden.dims();
                HiddenKeys { mask: hidden.into_data().iter::<bool>().collect(), batch, seq_q }
            });
            Self { n_heads, hidden }
        }

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
            attention(self.shape(shapes[0], shapes[1]), q, k, v, self.mask(), &mut y);
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
            attention_backward(shape, inputs, self.mask(), gradient, of_inputs);
            grads
        }

        fn output_shape(&self, [q, ..]: [&Shape; 3]) -> Shape {
            q.clone()
        }
    }
}

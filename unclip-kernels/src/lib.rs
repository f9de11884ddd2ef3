//! Fast CPU kernels over plain `f32` slices, independent of any tensor library.
//!
//! All tensors are contiguous and row-major (`NCHW` for images). Every function writes into slices
//! that its caller provides, and panics if a length does not match the shape that it was told, so
//! that a wiring mistake never turns into wrong numbers.
//!
//! The instruction set (AVX-512, AVX2, NEON or none) is chosen at run time by [`pulp`]; threads
//! come from the current [`rayon`] pool. What a picture of a batch becomes does not depend on the
//! others: how work is cut follows from the shape of one picture alone.
//!
//! # Example
//! ```
//! use unclip_kernels::{ConvShape, conv3x3};
//!
//! // the mean of 3x3 pixels of a 4x4 picture of ones; beyond the border there is nothing
//! let shape = ConvShape { batch: 1, c_in: 1, c_out: 1, height: 4, width: 4 };
//! let (picture, weight, mut means) = ([1.0; 16], [1.0 / 9.0; 9], [0.0; 16]);
//! conv3x3(shape, &picture, &weight, None, &mut means);
//! assert!((means[5] - 1.0).abs() < 1e-6 && (means[0] - 4.0 / 9.0).abs() < 1e-6);
//! ```

#![allow(unreachable_pub, reason = "public within the crate; lib.rs decides what leaves it")]

mod activation;
mod attention;
mod attention_grad;
mod conv;
mod conv1x1;
mod conv1x1_grad;
mod conv_grad;
mod conv_pack;
mod conv_plan;
mod conv_shape;
mod conv_tile;
mod gemm;
mod layer_norm;
mod moments;
mod norm;
mod resample;
mod simd;
#[cfg(test)]
mod test_util;
mod winograd;
mod winograd_pack;
mod winograd_product;
mod winograd_sum;
mod winograd_tiles;
mod winograd_transform;

pub use activation::{gelu, gelu_backward, silu, silu_backward};
pub use attention::{AttentionShape, Mask, attention};
pub use attention_grad::attention_backward;
pub use conv::{conv3x3, conv3x3_backward_input};
pub use conv_grad::{conv_backward_bias, conv3x3_backward_weight};
pub use conv_shape::ConvShape;
pub use conv1x1::{conv1x1, conv1x1_backward_input};
pub use conv1x1_grad::conv1x1_backward_weight;
pub use layer_norm::{LayerNormGrads, layer_norm, layer_norm_backward};
pub use norm::{Affine, GroupNormGrads, GroupShape, group_norm, group_norm_backward};
pub use resample::{double, halve};

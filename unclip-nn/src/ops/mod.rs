//! The operations that dominate: by a kernel of `unclip-kernels` where there is one for the tensor's
//! device and number format, by burn's own operations everywhere else. A file for each, with the
//! choice, the kernel as a differentiable operation, and the composition that it is compared with
//! in the tests.

mod activation;
mod attention;
mod conv;
mod group_norm;
mod layer_norm;
mod linear;
mod resample;

pub use activation::{gelu, quick_gelu, silu};
pub use attention::attend;
pub use conv::conv;
pub use group_norm::{group_norm, group_norm_silu};
pub use layer_norm::layer_norm;
pub use linear::{linear, working};
pub use resample::{downsample, upsample};

//! The operations that dominate the running time. Each uses a kernel of `unclip-kernels` where
//! there is one for the tensor's device and number format, and burn's own operations everywhere
//! else. Each has a file with the choice, the kernel as a differentiable operation, and the
//! composition that the tests compare it with.

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
pub(crate) use conv::derived;
pub use group_norm::{group_norm, group_norm_silu};
pub use layer_norm::layer_norm;
pub use linear::{linear, working};
pub use resample::{downsample, upsample};

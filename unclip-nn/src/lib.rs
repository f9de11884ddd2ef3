//! Layers of unCLIP's networks, and their weights on disk. Nothing here knows about noise.
//!
//! CLIP's towers and the prior are stacks of [`TransformerBlock`]s; the decoder and the upsamplers
//! are one [`UNet`] skeleton. Sizes come from configurations that are validated once, when they
//! are read; a forward pass cannot fail, but panics on shapes that contradict its documentation,
//! as burn does.
//!
//! # Example
//! ```
//! use burn::tensor::{Device, Tensor};
//! use unclip_nn::{AttentionKind, ResampleKind, UNetConfig};
//!
//! let device = Device::flex();
//! let config = UNetConfig {
//!     image_size: 8,
//!     in_channels: 3,
//!     out_channels: 3,
//!     block_out_channels: vec![8, 16],
//!     num_res_blocks: 1,
//!     attention_resolutions: vec![],
//!     d_head: 8,
//!     d_context: None,
//!     norm_groups: 4,
//!     scale_shift: false,
//!     coordinates: false,
//!     patch_size: 1,
//!     d_time: None,
//!     n_heads: None,
//!     d_sinusoid: None,
//!     attention: AttentionKind::Added,
//!     resampling: ResampleKind::Residual,
//!     norm_eps: 1e-5,
//! };
//! config.validate()?;
//! let unet = config.init(&device);
//! let emb = unet.embed_time(Tensor::from_floats([500.0], &device));
//! let output = unet.forward(Tensor::zeros([1, 3, 8, 16], &device), emb, &[]);
//! assert_eq!(output.dims(), [1, 3, 8, 16]);
//! # Ok::<(), unclip_core::InvalidSetting>(())
//! ```

mod any_unet;
mod attention;
mod attention_block;
pub mod check;
pub mod checkpoint;
mod class_embedding;
#[cfg(feature = "flex")]
#[cfg_attr(not(feature = "autodiff"), allow(dead_code, reason = "gradients need a graph"))]
mod fused;
mod gain_norm;
mod laion;
mod layer_norm;
mod learned_padding;
mod null_attention;
pub mod ops;
mod patches;
mod precision;
mod res_block;
mod spatial_transformer;
mod timestep;
mod transformer;
mod unet;
mod whitening;

pub use any_unet::{AnyUNet, AnyUNetConfig};
pub use attention::{Attention, KeysValues, causal_mask};
pub use attention_block::{AttentionBlock, AttentionBlockConfig, Context, SeenContext};
pub use class_embedding::embed_classes;
pub use gain_norm::GainNorm;
pub use laion::{LaionContext, LaionRelease, LaionUNet, LaionUNetConfig, LevelAttention};
pub use layer_norm::LayerNorm;
pub use learned_padding::with_learned_padding;
pub use null_attention::{Comparison, NullAttention, NullAttentionConfig, Projected};
pub use ops::{attend, downsample, upsample};
pub use precision::{Placement, Precision, is_cpu, is_product};
pub use res_block::{BLOCK_TENSORS, ResBlock, ResBlockConfig, Resample};
pub use spatial_transformer::SpatialTransformer;
pub use timestep::{TimestepEmbedding, sine_first_embedding, timestep_embedding};
pub use transformer::{Activation, KvCache, Transformer, TransformerBlock, TransformerConfig};
pub use unet::{
    AttentionKind, DownBlock, Level, MiddleBlock, ResampleKind, Resampler, UNet, UNetAttention,
    UNetConfig, UNetEncoder, UpBlock,
};
pub use whitening::Whitening;

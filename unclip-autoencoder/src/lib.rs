//! Autoencoders of latent diffusion: pictures to latents that are eight times smaller, and back.
//!
//! A decoder of latents samples what an [`Autoencoder`] then turns into a picture. There are two
//! kinds: that of Stable Diffusion, whose latents are distributions ([`Latents::Kl`]; Rombach et al.
//! 2022), and that of Kandinsky, whose latents can be rounded to entries of a codebook and tell
//! every norm of the decoder what lies where ([`Latents::Codes`]; MoVQ, Zheng et al. 2022).
//!
//! # Example
//! ```
//! use burn::tensor::{Device, Tensor};
//! use unclip_autoencoder::{AutoencoderConfig, Latents};
//!
//! let config = AutoencoderConfig {
//!     image_size: 16,
//!     latent_channels: 4,
//!     block_out_channels: vec![8, 16],
//!     num_res_blocks: 1,
//!     norm_groups: 4,
//!     attention: false,
//!     scaling_factor: 0.18215,
//!     latents: Latents::Kl,
//! };
//! config.validate()?;
//! let autoencoder = config.init(&Device::flex());
//! let pictures = Tensor::zeros([1, 3, 16, 32], &Device::flex());
//! let latents = autoencoder.encode(pictures).mean;
//! assert_eq!(latents.dims(), [1, 4, 8, 16]);
//! assert_eq!(autoencoder.decode(latents).dims(), [1, 3, 16, 32]);
//! # Ok::<(), unclip_core::InvalidSetting>(())
//! ```

mod autoencoder;
mod blocks;
mod codebook;
mod config;
mod norm;
mod paths;
mod tiles;

pub use autoencoder::{Autoencoder, Encoded};
pub use codebook::Codebook;
pub use config::{AutoencoderConfig, Latents};
pub use tiles::Tiling;

//! Names of the files of diffusers' layout.

/// The file by which the layout is recognized.
pub(super) const INDEX: &str = "model_index.json";
/// Weights of diffusers' own networks.
pub(super) const NETWORK: &str = "diffusion_pytorch_model";
/// Weights of transformers' networks.
pub(super) const MODEL: &str = "model";

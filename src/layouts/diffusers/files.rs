//! Names of the files of diffusers' layout.

/// The file by which the layout is recognized.
pub(in crate::layouts) const INDEX: &str = "model_index.json";
/// Weights of diffusers' own networks.
pub(in crate::layouts) const NETWORK: &str = "diffusion_pytorch_model";
/// Weights of transformers' networks.
pub(in crate::layouts) const MODEL: &str = "model";

//! Sizes of the diffusion prior.

use serde::{Deserialize, Serialize};
use unclip_core::{DiffusionConfig, InvalidSetting};
use unclip_nn::{TransformerConfig, check};

/// Sizes of a [`DiffusionPrior`](crate::DiffusionPrior), and how it denoises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionPriorConfig {
    /// Width of CLIP's space.
    pub d_embedding: usize,
    /// Width of the text tower's token states.
    pub d_text: usize,
    /// Number of text tokens; the sequence has four more.
    pub context_length: usize,
    /// The transformer.
    pub transformer: TransformerConfig,
    /// Whether embeddings are whitened along their principal components. Published priors whiten
    /// each coordinate separately.
    #[serde(default)]
    pub principal_components: bool,
    /// How it denoises. The paper's prior predicts x_0.
    pub diffusion: DiffusionConfig,
}

impl DiffusionPriorConfig {
    /// Tokens besides the text's: pooled text, timestep, noised embedding, query.
    pub const EXTRA_TOKENS: usize = 4;

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        check::size("d_embedding", self.d_embedding)?;
        check::size("d_text", self.d_text)?;
        check::size("context_length", self.context_length)?;
        self.transformer.validate().map_err(|error| error.within("transformer"))?;
        if self.diffusion.variance.is_learned() {
            let expected = "fixed_small or fixed_large: the prior gives no variance";
            let found = format!("{:?}", self.diffusion.variance);
            return Err(InvalidSetting::new("diffusion.variance", found, expected));
        }
        self.diffusion.validate().map_err(|error| error.within("diffusion"))
    }
}

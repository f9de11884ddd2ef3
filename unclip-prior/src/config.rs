//! Sizes of both priors.

use serde::{Deserialize, Serialize};
use unclip_core::{DiffusionConfig, InvalidSetting, check_guidance_scale};
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

/// Sizes of an [`ArPrior`](crate::ArPrior), and how it draws.
///
/// The paper codes 319 of 1,024 components in 1,024 buckets each, with less than 1 % of the
/// variance lost; how finely it codes the similarity is not known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArPriorConfig {
    /// Width of CLIP's space.
    pub d_embedding: usize,
    /// Width of the text tower's token states.
    pub d_text: usize,
    /// Number of text tokens; the sequence has one more for the pooled text, one for the
    /// similarity, and one for each code but the last.
    pub context_length: usize,
    /// Principal components of an embedding that are coded, the loudest first; the others are taken
    /// for the mean.
    pub n_codes: usize,
    /// Buckets of each component.
    pub n_buckets: usize,
    /// Buckets of the similarity of picture and caption, an even number.
    pub n_similarities: usize,
    /// The transformer.
    pub transformer: TransformerConfig,
    /// Guidance scale, if a user gives none.
    pub guidance_scale: f64,
}

impl ArPriorConfig {
    /// Tokens before the first code: the text's, pooled text, similarity.
    pub(crate) fn prefix(&self) -> usize {
        self.context_length + 2
    }

    /// Tokens in all; the last code is never read.
    pub(crate) fn seq(&self) -> usize {
        self.prefix() + self.n_codes - 1
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        check::size("d_embedding", self.d_embedding)?;
        check::size("d_text", self.d_text)?;
        check::size("context_length", self.context_length)?;
        if !(1..=self.d_embedding).contains(&self.n_codes) {
            let expected = format!("1 to {}, which is d_embedding", self.d_embedding);
            return Err(InvalidSetting::new("n_codes", self.n_codes, expected));
        }
        check::size("n_buckets", self.n_buckets)?;
        check::size("n_similarities", self.n_similarities)?;
        check::multiple("n_similarities", self.n_similarities, "its halves", 2)?;
        self.transformer.validate().map_err(|error| error.within("transformer"))?;
        check_guidance_scale("guidance_scale", self.guidance_scale)
    }
}

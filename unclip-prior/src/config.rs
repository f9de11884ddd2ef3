//! Sizes of both priors.

use serde::{Deserialize, Serialize};
use unclip_core::{DiffusionConfig, InvalidSetting, check_guidance_scale};
use unclip_nn::{Activation, LaionRelease, TransformerConfig, check};

/// Sizes of a [`DiffusionPrior`](crate::DiffusionPrior), and how it denoises.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionPriorConfig {
    /// Width of CLIP's space.
    pub d_embedding: usize,
    /// Width of the text tower's token states.
    pub d_text: usize,
    /// Number of text tokens; the sequence has four more, or what `laion` says.
    pub context_length: usize,
    /// The transformer.
    pub transformer: TransformerConfig,
    /// Whether embeddings are whitened along their principal components. Published priors whiten
    /// each coordinate separately.
    #[serde(default)]
    pub principal_components: bool,
    /// What it has otherwise, if it is one of DALLE2-pytorch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub laion: Option<LaionPriorConfig>,
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
        self.check_transformer()?;
        if self.diffusion.variance.is_learned() {
            let expected = "fixed_small or fixed_large: the prior gives no variance";
            let found = format!("{:?}", self.diffusion.variance);
            return Err(InvalidSetting::new("diffusion.variance", found, expected));
        }
        self.diffusion.validate().map_err(|error| error.within("diffusion"))
    }

    /// Whether it has learned what stands for no caption, so that a negative one has no effect.
    pub fn has_null_caption(&self) -> bool {
        self.laion.is_some()
    }

    /// Whether it can be led away from no caption. Priors of DALLE2-pytorch that have never missed one cannot.
    pub fn can_be_guided(&self) -> bool {
        self.laion.as_ref().is_none_or(|it| !it.unguided)
    }

    fn check_transformer(&self) -> Result<(), InvalidSetting> {
        let gated = self.transformer.activation == Activation::Swiglu;
        if gated != self.laion.is_some() {
            let found = format!("{:?}", self.transformer.activation);
            let expected = "swiglu of a prior of DALLE2-pytorch, and no other";
            return Err(InvalidSetting::new("transformer.activation", found, expected));
        }
        let Some(laion) = &self.laion else {
            return self.transformer.validate().map_err(|error| error.within("transformer"));
        };
        laion.validate(self)?;
        self.transformer.validate_sizes().map_err(|error| error.within("transformer"))
    }
}

/// What a prior of DALLE2-pytorch has beside what every prior has. Its transformer's blocks are
/// others, with a gate (`swiglu`), and its embeddings are as wide as its tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaionPriorConfig {
    /// Of which releases of DALLE2-pytorch it is.
    #[serde(default, skip_serializing_if = "LaionRelease::is_late")]
    pub release: LaionRelease,
    /// Whether it cannot be guided: it has never missed a caption in training. Those of the earlier releases
    /// cannot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unguided: bool,
    /// Width of a head.
    pub d_head: usize,
    /// Positions of the caption in the sequence; a caption that is shorter is filled up by learned
    /// tokens, what is longer is cut off.
    pub text_positions: usize,
    /// Whether it reads the caption's tokens. Otherwise learned ones stand there for all captions.
    pub reads_tokens: bool,
    /// Tokens made from the caption's embedding.
    pub text_tokens: usize,
    /// Tokens made from the timestep.
    pub time_tokens: usize,
    /// Tokens made from the noised embedding.
    pub image_tokens: usize,
    /// Whether there is a learned vector for each timestep, instead of a network on sinusoids.
    pub time_table: bool,
    /// Whether queries and keys are rotated by their position (Su et al. 2021).
    pub rotary: bool,
    /// Whether tokens are normalized before the blocks.
    pub norm_in: bool,
    /// Whether the answer is normalized.
    pub norm_out: bool,
    /// Whether the hidden layers are normalized (NormFormer, Shleifer et al. 2021).
    pub normformer: bool,
    /// Whether the answer is projected once more.
    pub projected: bool,
    /// What embeddings of length 1 are multiplied by to be sampled; √d_embedding in published ones.
    pub scale: f64,
}

impl LaionPriorConfig {
    /// Checks the sizes, together with those that every prior has.
    fn validate(&self, of: &DiffusionPriorConfig) -> Result<(), InvalidSetting> {
        let sizes = [
            ("laion.d_head", self.d_head),
            ("laion.text_positions", self.text_positions),
            ("laion.text_tokens", self.text_tokens),
            ("laion.time_tokens", self.time_tokens),
            ("laion.image_tokens", self.image_tokens),
        ];
        for (field, size) in sizes {
            check::size(field, size)?;
        }
        if self.rotary {
            check::multiple("laion.d_head", self.d_head, "the pairs that are rotated", 2)?;
        }
        InvalidSetting::check_range("laion.scale", self.scale, 1e-6, 1e6)?;
        let width = of.transformer.d_model;
        check::multiple("transformer.d_model", width, "the halves of the sinusoids", 2)?;
        if width < 4 {
            return Err(InvalidSetting::new("transformer.d_model", width, "at least 4"));
        }
        check::equal("d_embedding", of.d_embedding, width)?;
        check::equal("d_text", of.d_text, width)?;
        if !of.can_be_guided() && of.diffusion.guidance_scale != 1.0 {
            let expected = "1: this prior was not trained for guidance";
            let found = of.diffusion.guidance_scale;
            return Err(InvalidSetting::new("diffusion.guidance_scale", found, expected));
        }
        if of.principal_components {
            let expected = "false: a prior of DALLE2-pytorch does not whiten";
            return Err(InvalidSetting::new("principal_components", true, expected));
        }
        Ok(())
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

//! The diffusion prior: a causal transformer that reads an image embedding off its last token.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use unclip_core::{
    Branched, DiffusionConfig, ImageEmbedding, InvalidSetting, Network, Stage, TextEmbedding,
};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::{TransformerConfig, Whitening};

use crate::DiffusionPriorConfig;
use crate::karlo::KarloPrior;
use crate::laion::LaionPrior;

/// Predicts the clean image embedding from a noised one and its caption.
#[derive(Module, Debug)]
pub enum DiffusionPrior {
    /// The paper's, which samples whitened embeddings (Karlo, Kandinsky).
    Karlo(KarloPrior),
    /// That of DALLE2-pytorch, which samples embeddings of length 1 times a scale.
    Laion(LaionPrior),
}

impl DiffusionPriorConfig {
    /// The network, with fresh weights and statistics that leave embeddings as they are.
    pub fn init(&self, device: &Device) -> DiffusionPrior {
        match &self.laion {
            None => DiffusionPrior::Karlo(KarloPrior::new(self, device)),
            Some(own) => DiffusionPrior::Laion(LaionPrior::new(self, own, device)),
        }
    }
}

/// Names of the tensors in files, where they are not those of the fields.
const NAMES: KeyMap = KeyMap::new(&[
    ("Karlo.", ""),
    ("Laion.", ""),
    ("clip.", "clip_"),
    ("transformer_blocks.layers.", "transformer_blocks."),
    (".attn.", ".attn1."),
    (".to_out.", ".to_out.0."),
    (".norm2.", ".norm3."),
    (".c_fc.", ".ff.net.0.proj."),
    (".c_proj.", ".ff.net.2."),
]);

impl StageConfig for DiffusionPriorConfig {
    const STAGE: &'static str = "prior";
    const KEYS: KeyMap = NAMES;
    type Network = DiffusionPrior;

    fn validate(&self) -> Result<(), InvalidSetting> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        self.transformer.layers().within("transformer")
    }

    fn init(&self, device: &Device) -> DiffusionPrior {
        self.init(device)
    }
}

impl Stage<2> for DiffusionPriorConfig {
    type Network = DiffusionPrior;
    type Condition = TextEmbedding;
    type Null = TextEmbedding;
    type Output = ImageEmbedding;

    fn diffusion(&self) -> &DiffusionConfig {
        &self.diffusion
    }

    fn sample_shape(&self, text: &TextEmbedding) -> [usize; 2] {
        [text.batch(), self.d_embedding]
    }

    /// Of each layer, what it keeps of the caption, and of one what it works on.
    fn row_bytes(&self, _: [usize; 2]) -> usize {
        const BLOCK: usize = 12;
        let TransformerConfig { d_model, n_layers, .. } = self.transformer;
        let tokens = self.context_length + Self::EXTRA_TOKENS;
        tokens * d_model * (2 * n_layers + BLOCK) * size_of::<f32>()
    }

    fn bind(&self, prior: &DiffusionPrior, text: &TextEmbedding) -> Box<dyn Network<2>> {
        prior.bind(text)
    }

    fn bind_pair(
        &self,
        prior: &DiffusionPrior,
        text: &TextEmbedding,
        null: &TextEmbedding,
    ) -> Branched<Box<dyn Network<2>>> {
        assert_eq!(text.batch(), null.batch(), "one null caption for each given one");
        let network: Box<dyn Network<2>> = match prior {
            DiffusionPrior::Karlo(prior) => {
                Box::new(prior.bind(&TextEmbedding::cat(vec![text.clone(), null.clone()])))
            }
            // what stands for no caption is learned
            DiffusionPrior::Laion(prior) => Box::new(prior.bind(text, true)),
        };
        Branched::new(network, 2)
    }

    fn output(&self, prior: &DiffusionPrior, whitened: Tensor<2>) -> ImageEmbedding {
        prior.restore(whitened)
    }

    fn sample_of(&self, prior: &DiffusionPrior, image: &ImageEmbedding) -> Tensor<2> {
        prior.whiten(image)
    }

    fn preview(&self, _: &Tensor<2>) -> Option<Tensor<4>> {
        None
    }
}

impl DiffusionPrior {
    /// Fixes the captions. Their tokens come first in the sequence, and under the causal mask they see
    /// nothing of what changes from step to step: all blocks read them here, once for all steps.
    pub fn bind(&self, text: &TextEmbedding) -> Box<dyn Network<2>> {
        match self {
            Self::Karlo(prior) => Box::new(prior.bind(text)),
            Self::Laion(prior) => Box::new(prior.bind(text, false)),
        }
    }

    /// Image embeddings as CLIP makes them, from those that are sampled: `[batch, d_embedding]`.
    pub fn restore(&self, sampled: Tensor<2>) -> ImageEmbedding {
        match self {
            Self::Karlo(prior) => prior.restore(sampled),
            Self::Laion(prior) => prior.restore(sampled),
        }
    }

    /// Image embeddings as they are sampled: with mean 0 and variance 1 in each direction, or of
    /// length 1 times a scale.
    pub fn whiten(&self, embedding: &ImageEmbedding) -> Tensor<2> {
        match self {
            Self::Karlo(prior) => prior.whiten(embedding),
            Self::Laion(prior) => prior.whiten(embedding),
        }
    }

    /// Image embeddings with nothing but their first `k` principal components, if the prior whitens
    /// along them (the paper's probing, section 3.4): `[batch, d_embedding]`.
    ///
    /// # Panics
    /// Of a prior that does not whiten.
    pub fn keep_components(&self, embedding: &ImageEmbedding, k: usize) -> ImageEmbedding {
        self.karlo().keep_components(embedding, k)
    }

    /// How many principal components, the loudest first, hold this share of the variance.
    ///
    /// # Panics
    /// Of a prior that does not whiten.
    pub fn components_holding(&self, share: f64) -> usize {
        self.karlo().components_holding(share)
    }

    /// The same prior for another CLIP, whose embeddings this whitens. It needs a basis if the
    /// configuration says `principal_components`, and none otherwise.
    ///
    /// # Panics
    /// Of a prior that does not whiten.
    #[must_use]
    pub fn with_whitening(self, clip: Whitening) -> Self {
        match self {
            Self::Karlo(prior) => Self::Karlo(prior.with_whitening(clip)),
            Self::Laion(_) => panic!("a prior that whitens"),
        }
    }

    fn karlo(&self) -> &KarloPrior {
        match self {
            Self::Karlo(prior) => prior,
            Self::Laion(_) => panic!("a prior that whitens"),
        }
    }
}

//! The diffusion prior: a causal transformer that reads an image embedding off its last token.
//!
//! Field names are those of published (diffusers) checkpoints.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Bool, DType, Device, Tensor};
use unclip_core::{
    Branched, DiffusionConfig, ImageEmbedding, InvalidSetting, Network, Stage, TextEmbedding,
};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::ops::linear;
use unclip_nn::{KvCache, LayerNorm, TimestepEmbedding, Transformer, Whitening};

use crate::DiffusionPriorConfig;
use crate::sequence::hidden;

/// Predicts the clean, whitened image embedding from a noised one and its caption.
///
/// The sequence is \[text tokens, pooled text, timestep, noised embedding, learned query\], with
/// learned positions, under a causal mask that also hides the padding of the text; the answer is
/// read at the query (paper, section 2.2; Karlo).
#[derive(Module, Debug)]
pub struct DiffusionPrior {
    positional_embedding: Param<Tensor<3>>,
    prd_embedding: Param<Tensor<3>>,
    clip: Whitening,
    time_embedding: TimestepEmbedding,
    proj_in: Linear,
    embedding_proj: Linear,
    encoder_hidden_states_proj: Linear,
    transformer_blocks: Transformer,
    norm_out: LayerNorm,
    proj_to_clip_embeddings: Linear,
}

impl DiffusionPriorConfig {
    /// The network, with fresh weights and statistics that leave embeddings as they are.
    pub fn init(&self, device: &Device) -> DiffusionPrior {
        let d_model = self.transformer.d_model;
        let seq = self.context_length + Self::EXTRA_TOKENS;
        let small = Initializer::Normal { mean: 0.0, std: 0.02 };
        let into = |d_in: usize| LinearConfig::new(d_in, d_model).init(device);
        DiffusionPrior {
            positional_embedding: small.init([1, seq, d_model], device),
            prd_embedding: small.init([1, 1, d_model], device),
            clip: Whitening::identity(self.d_embedding, self.principal_components, device),
            time_embedding: TimestepEmbedding::new(d_model, d_model, device),
            proj_in: into(self.d_embedding),
            embedding_proj: into(self.d_embedding),
            encoder_hidden_states_proj: into(self.d_text),
            transformer_blocks: self.transformer.init(device),
            norm_out: self.transformer.norm(device),
            proj_to_clip_embeddings: LinearConfig::new(d_model, self.d_embedding).init(device),
        }
    }
}

/// Names of the tensors in files, where they are not those of the fields.
const NAMES: KeyMap = KeyMap::new(&[
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

    fn bind(&self, prior: &DiffusionPrior, text: &TextEmbedding) -> Box<dyn Network<2>> {
        Box::new(prior.bind(text))
    }

    fn bind_pair(
        &self,
        prior: &DiffusionPrior,
        text: &TextEmbedding,
        null: &TextEmbedding,
    ) -> Branched<Box<dyn Network<2>>> {
        assert_eq!(text.batch(), null.batch(), "one null caption for each given one");
        let both = TextEmbedding::cat(vec![text.clone(), null.clone()]);
        Branched::new(self.bind(prior, &both), 2)
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
    /// Fixes the caption. Its tokens come first in the sequence, and under the causal mask they see
    /// nothing of what changes from step to step: all blocks read them here, once for all steps.
    pub fn bind(&self, text: &TextEmbedding) -> impl Network<2> + use<> {
        let tokens = linear(&self.encoder_hidden_states_proj, text.tokens.clone());
        let pooled = linear(&self.embedding_proj, text.pooled.clone()).unsqueeze_dim(1);
        let caption = Tensor::cat(vec![tokens, pooled], 1);
        let first = caption.dims()[1];
        let caption = self.positions(caption, 0);
        let hidden = hidden(&text.mask, self.positional_embedding.dims()[1]);
        let before = hidden.clone().narrow(2, 0, first).narrow(3, 0, first);
        let cache = self.transformer_blocks.prefill(caption, Some(before));
        let later = hidden.dims()[2] - first;
        let hidden = hidden.narrow(2, first, later);
        let prior = self.clone();
        move |x_t: Tensor<2>, timesteps: Tensor<1>| {
            prior.predict(&cache, hidden.clone(), x_t, timesteps)
        }
    }

    /// Image embeddings as CLIP makes them, from whitened ones: `[batch, d_embedding]`.
    pub fn restore(&self, whitened: Tensor<2>) -> ImageEmbedding {
        ImageEmbedding(self.clip.inverse(whitened))
    }

    /// Image embeddings with mean 0 and variance 1 in each direction, as the network reads them.
    pub fn whiten(&self, embedding: &ImageEmbedding) -> Tensor<2> {
        self.clip.forward(embedding.0.clone())
    }

    /// Image embeddings with nothing but their first `k` principal components, if the prior whitens
    /// along them (the paper's probing, section 3.4): `[batch, d_embedding]`.
    pub fn keep_components(&self, embedding: &ImageEmbedding, k: usize) -> ImageEmbedding {
        ImageEmbedding(self.clip.keep(embedding.0.clone(), k))
    }

    /// How many principal components, the loudest first, hold this share of the variance.
    pub fn components_holding(&self, share: f64) -> usize {
        self.clip.coordinates_holding(share)
    }

    /// The same prior for another CLIP, whose embeddings this whitens. It needs a basis if the
    /// configuration says `principal_components`, and none otherwise.
    pub fn with_whitening(self, clip: Whitening) -> Self {
        Self { clip, ..self }
    }

    /// The answer of the query, last of the three tokens that follow the caption.
    fn predict(
        &self,
        caption: &KvCache,
        hidden: Tensor<4, Bool>,
        x_t: Tensor<2>,
        timesteps: Tensor<1>,
    ) -> Tensor<2> {
        let [batch, _, later, seq] = hidden.dims();
        let d_model = self.prd_embedding.dims()[2];
        let time = self.time_embedding.forward(timesteps).unsqueeze_dim(1);
        let noised: Tensor<3> = linear(&self.proj_in, x_t).unsqueeze_dim(1);
        let query = self.prd_embedding.val().cast(noised.dtype()).expand([batch, 1, d_model]);
        let x = self.positions(Tensor::cat(vec![time, noised, query], 1), seq - later);
        let x = self.transformer_blocks.forward_cached(caption, x, Some(hidden));
        let answer = x.narrow(1, later - 1, 1).reshape([batch, d_model]);
        linear(&self.proj_to_clip_embeddings, self.norm_out.forward(answer)).cast(DType::F32)
    }

    /// Tokens with their positions, of which the first is `first`.
    fn positions(&self, x: Tensor<3>, first: usize) -> Tensor<3> {
        let positions = self.positional_embedding.val().narrow(1, first, x.dims()[1]);
        positions.cast(x.dtype()) + x
    }
}

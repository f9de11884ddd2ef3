//! The diffusion prior of the paper, as Karlo lays it out. Field names are those of published (diffusers)
//! checkpoints.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Bool, DType, Device, Tensor};
use unclip_core::{ImageEmbedding, Network, TextEmbedding};
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
pub struct KarloPrior {
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

impl KarloPrior {
    /// The network, with fresh weights and statistics that leave embeddings as they are.
    pub(crate) fn new(config: &DiffusionPriorConfig, device: &Device) -> Self {
        let d_model = config.transformer.d_model;
        let seq = config.context_length + DiffusionPriorConfig::EXTRA_TOKENS;
        let small = Initializer::Normal { mean: 0.0, std: 0.02 };
        let into = |d_in: usize| LinearConfig::new(d_in, d_model).init(device);
        Self {
            positional_embedding: small.init([1, seq, d_model], device),
            prd_embedding: small.init([1, 1, d_model], device),
            clip: Whitening::identity(config.d_embedding, config.principal_components, device),
            time_embedding: TimestepEmbedding::new(d_model, d_model, device),
            proj_in: into(config.d_embedding),
            embedding_proj: into(config.d_embedding),
            encoder_hidden_states_proj: into(config.d_text),
            transformer_blocks: config.transformer.init(device),
            norm_out: config.transformer.norm(device),
            proj_to_clip_embeddings: LinearConfig::new(d_model, config.d_embedding).init(device),
        }
    }

    /// Fixes the caption. Its tokens come first in the sequence, and under the causal mask they see
    /// nothing of what changes from step to step: all blocks read them here, once for all steps.
    pub(crate) fn bind(&self, text: &TextEmbedding) -> impl Network<2> + use<> {
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
    pub(crate) fn restore(&self, whitened: Tensor<2>) -> ImageEmbedding {
        ImageEmbedding(self.clip.inverse(whitened))
    }

    /// Image embeddings with mean 0 and variance 1 in each direction, as the network reads them.
    pub(crate) fn whiten(&self, embedding: &ImageEmbedding) -> Tensor<2> {
        self.clip.forward(embedding.0.clone())
    }

    /// Image embeddings with nothing but their first `k` principal components, if the prior whitens
    /// along them (the paper's probing, section 3.4): `[batch, d_embedding]`.
    pub(crate) fn keep_components(&self, embedding: &ImageEmbedding, k: usize) -> ImageEmbedding {
        ImageEmbedding(self.clip.keep(embedding.0.clone(), k))
    }

    /// How many principal components, the loudest first, hold this share of the variance.
    pub(crate) fn components_holding(&self, share: f64) -> usize {
        self.clip.coordinates_holding(share)
    }

    /// The same prior for another CLIP, whose embeddings this whitens. It needs a basis if the
    /// configuration says `principal_components`, and none otherwise.
    pub(crate) fn with_whitening(self, clip: Whitening) -> Self {
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

//! The autoregressive prior: a causal transformer that writes an image embedding code by code.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{DType, Device, Int, Tensor};
use unclip_core::{ImageEmbedding, InvalidSetting, TextEmbedding};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::ops::linear;
use unclip_nn::{LayerNorm, Transformer};

use crate::sequence::hidden;
use crate::{ArPriorConfig, Codebook};

/// Predicts the codes of an image embedding one after the other, each from the caption and the
/// codes before it (paper, section 2.2).
///
/// The sequence is \[text tokens, pooled text, similarity, codes\], with learned positions, under a
/// causal mask that also hides the padding of the text; each code is read at the token before it.
/// The similarity of picture and caption is a condition: drawing asks for one from the upper half
/// ([`BoundArPrior::draw`](crate::BoundArPrior::draw)). Where it is unknown, a token of its own
/// stands for it.
#[derive(Module, Debug)]
pub struct ArPrior {
    pub(crate) codebook: Codebook,
    pub(crate) positional_embedding: Param<Tensor<3>>,
    pub(crate) similarity_embedding: Param<Tensor<2>>,
    pub(crate) code_embedding: Param<Tensor<2>>,
    pub(crate) text_tokens_proj: Linear,
    pub(crate) text_embedding_proj: Linear,
    pub(crate) transformer: Transformer,
    pub(crate) norm_out: LayerNorm,
    pub(crate) proj_to_buckets: Linear,
}

impl ArPriorConfig {
    /// The network, with fresh weights and a codebook without statistics.
    pub fn init(&self, device: &Device) -> ArPrior {
        let d_model = self.transformer.d_model;
        let small = Initializer::Normal { mean: 0.0, std: 0.02 };
        let into = |d_in: usize| LinearConfig::new(d_in, d_model).init(device);
        ArPrior {
            codebook: Codebook::identity(self, device),
            positional_embedding: small.init([1, self.seq(), d_model], device),
            similarity_embedding: small.init([self.n_similarities + 1, d_model], device),
            code_embedding: small.init([self.n_buckets, d_model], device),
            text_tokens_proj: into(self.d_text),
            text_embedding_proj: into(self.d_embedding),
            transformer: self.transformer.init(device),
            norm_out: self.transformer.norm(device),
            proj_to_buckets: LinearConfig::new(d_model, self.n_buckets).init(device),
        }
    }
}

impl StageConfig for ArPriorConfig {
    const STAGE: &'static str = "ar_prior";
    const KEYS: KeyMap = KeyMap::NONE;
    type Network = ArPrior;

    fn validate(&self) -> Result<(), InvalidSetting> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        self.transformer.layers().within("transformer")
    }

    fn init(&self, device: &Device) -> ArPrior {
        self.init(device)
    }
}

impl ArPrior {
    /// How it codes embeddings.
    pub fn codebook(&self) -> &Codebook {
        &self.codebook
    }

    /// The same prior with another codebook, which should be that of the CLIP that it works with.
    #[must_use]
    pub fn with_codebook(self, codebook: Codebook) -> Self {
        Self { codebook, ..self }
    }

    /// The training loss: the cross-entropy of every code, given those before it, in nats,
    /// `[batch, n_codes]`.
    ///
    /// # Shapes
    /// - `image`: one row for each caption
    /// - `unknown`: `[batch]`, 1 where the similarity is not told, else 0
    pub fn loss(
        &self,
        text: &TextEmbedding,
        image: &ImageEmbedding,
        unknown: Tensor<1, Int>,
    ) -> Tensor<2> {
        let codes = self.codebook.encode(image);
        let [batch, n_codes] = codes.dims();
        let known = unknown.clone() * -1 + 1;
        let similarity = self.codebook.similarity(image, text) * known + unknown * self.unknown();
        let first = self.caption(text);
        let prefix = first.dims()[1] + 1;
        let read = codes.clone().narrow(1, 0, n_codes - 1);
        let tokens = match n_codes {
            1 => vec![first, self.similarity_token(similarity)],
            _ => vec![first, self.similarity_token(similarity), self.code_tokens(read)],
        };
        let x = self.positions(Tensor::cat(tokens, 1), 0);
        let hidden = hidden(&text.mask, x.dims()[1]);
        let x = self.transformer.forward(x, Some(hidden)).narrow(1, prefix - 1, n_codes);
        let log_odds = log_softmax(self.logits(x), 2);
        let chosen = log_odds.gather(2, codes.reshape([batch, n_codes, 1]));
        chosen.reshape([batch, n_codes]) * -1.0
    }

    /// The token that stands for a similarity that nobody told.
    pub(crate) fn unknown(&self) -> i32 {
        self.similarity_embedding.dims()[0] as i32 - 1
    }

    /// The caption's tokens, without positions: `[batch, context_length + 1, d_model]`.
    pub(crate) fn caption(&self, text: &TextEmbedding) -> Tensor<3> {
        let tokens = linear(&self.text_tokens_proj, text.tokens.clone());
        let pooled = linear(&self.text_embedding_proj, text.pooled.clone()).unsqueeze_dim(1);
        Tensor::cat(vec![tokens, pooled], 1)
    }

    /// `[batch]` to `[batch, 1, d_model]`.
    pub(crate) fn similarity_token(&self, similarity: Tensor<1, Int>) -> Tensor<3> {
        self.similarity_embedding.val().select(0, similarity).unsqueeze_dim(1)
    }

    /// `[batch, n]` to `[batch, n, d_model]`.
    pub(crate) fn code_tokens(&self, codes: Tensor<2, Int>) -> Tensor<3> {
        let [batch, n] = codes.dims();
        let tokens = self.code_embedding.val().select(0, codes.reshape([batch * n]));
        let d_model = tokens.dims()[1];
        tokens.reshape([batch, n, d_model])
    }

    /// Tokens with their positions, of which the first is `first`.
    pub(crate) fn positions(&self, x: Tensor<3>, first: usize) -> Tensor<3> {
        let positions = self.positional_embedding.val().narrow(1, first, x.dims()[1]);
        positions.cast(x.dtype()) + x
    }

    /// Scores of the buckets of the code that follows each token: `[batch, n, n_buckets]`.
    pub(crate) fn logits(&self, x: Tensor<3>) -> Tensor<3> {
        linear(&self.proj_to_buckets, self.norm_out.forward(x)).cast(DType::F32)
    }
}

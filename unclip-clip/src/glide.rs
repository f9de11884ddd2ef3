//! The text tower of GLIDE, which is trained with its U-Net.
//!
//! Source: *GLIDE* (Nichol et al. 2021), section 2, and its code.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Bool, DType, Device, Int, Tensor};
use unclip_core::TextEmbedding;
use unclip_nn::ops::linear;
use unclip_nn::{LayerNorm, Transformer};

use crate::{TextEncoderConfig, Tokens};

/// A transformer over a caption's tokens in which every position sees every other; positions of
/// padding have an embedding of their own, and the state of the last, projected, is the caption's.
#[derive(Module, Debug)]
pub struct GlideText {
    token_embedding: Embedding,
    positional_embedding: Param<Tensor<2>>,
    padding_embedding: Param<Tensor<2>>,
    transformer: Transformer,
    final_ln: LayerNorm,
    transformer_proj: Linear,
}

impl GlideText {
    pub(crate) fn new(config: &TextEncoderConfig, device: &Device) -> Self {
        let d_model = config.transformer.d_model;
        let initializer = Initializer::Normal { mean: 0.0, std: 0.02 };
        let table = || initializer.init([config.context_length, d_model], device);
        let tokens = EmbeddingConfig::new(config.vocab_size, d_model);
        Self {
            token_embedding: tokens.with_initializer(initializer.clone()).init(device),
            positional_embedding: table(),
            padding_embedding: table(),
            transformer: config.transformer.init(device),
            final_ln: config.transformer.norm(device),
            transformer_proj: LinearConfig::new(d_model, config.d_embedding).init(device),
        }
    }

    /// Embeds a batch of captions.
    pub(crate) fn forward(&self, tokens: &Tokens, device: &Device) -> TextEmbedding {
        let [batch, seq] = [tokens.batch(), tokens.context_length()];
        let ids = Tensor::<2, Int>::from_data(tokens.ids_data(), device);
        let mask = Tensor::<2, Bool>::from_data(tokens.mask_data(), device);
        let x = self.token_embedding.forward(ids);
        let (d_model, shape) = (x.dims()[2], x.dims());
        let rows = |table: &Param<Tensor<2>>| table.val().unsqueeze::<3>().expand(shape);
        let is_padding = mask.clone().bool_not().unsqueeze_dim::<3>(2).expand(shape);
        let x = x + rows(&self.positional_embedding);
        let x = x.mask_where(is_padding, rows(&self.padding_embedding));
        let x = self.transformer.forward(x, None);
        let states = self.final_ln.forward(x).cast(DType::F32);
        let last = states.clone().narrow(1, seq - 1, 1).reshape([batch, d_model]);
        let pooled = linear(&self.transformer_proj, last).cast(DType::F32);
        TextEmbedding { pooled, tokens: states, mask }
    }
}

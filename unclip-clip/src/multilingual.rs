//! M-CLIP's text tower: XLM-RoBERTa, the mean of whose states is projected into CLIP's space.
//!
//! Sources: *Cross-lingual and Multilingual CLIP* (Carlsson et al. 2022); the tower is that of
//! *Unsupervised Cross-lingual Representation Learning at Scale* (Conneau et al. 2020). Field names
//! are those of Hugging Face's checkpoints.

use burn::module::{Initializer, Module};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use unclip_core::TextEmbedding;
use unclip_nn::checkpoint::KeyMap;
use unclip_nn::ops::linear;
use unclip_nn::{Activation, Attention, LayerNorm};

use crate::{TextEncoderConfig, Tokens};

/// Names of tensors in files, where they are not those of the fields.
pub(crate) const NAMES: KeyMap = KeyMap::new(&[
    ("Clip.", ""),
    ("Glide.", ""),
    ("Multilingual.linear", "LinearTransformation"),
    ("Multilingual.", ""),
    (".attention.to_out.", ".attention.output.dense."),
    (".attention.to_q.", ".attention.self.query."),
    (".attention.to_k.", ".attention.self.key."),
    (".attention.to_v.", ".attention.self.value."),
    (".attention_norm.", ".attention.output.LayerNorm."),
    (".intermediate.", ".intermediate.dense."),
    (".output_norm.", ".output.LayerNorm."),
    (".output_proj.", ".output.dense."),
    (".embeddings.norm.", ".embeddings.LayerNorm."),
]);

/// Rows of the table of token types: captions have one type.
const TOKEN_TYPES: usize = 1;

#[derive(Module, Debug)]
struct Embeddings {
    word_embeddings: Embedding,
    token_type_embeddings: Embedding,
    position_embeddings: Embedding,
    norm: LayerNorm,
}

/// norm(x + attention(x)), then norm(x + mlp(x)).
#[derive(Module, Debug)]
struct Block {
    attention: Attention,
    attention_norm: LayerNorm,
    intermediate: Linear,
    output_proj: Linear,
    output_norm: LayerNorm,
    #[module(skip)]
    activation: Activation,
}

impl Block {
    fn forward(&self, x: Tensor<3>, hidden: Tensor<4, Bool>) -> Tensor<3> {
        let seen = self.attention.keys_values(x.clone());
        let h = self.attention.forward(x.clone(), seen, Some(hidden));
        let x = self.attention_norm.forward(x.cast(h.dtype()) + h);
        let h = self.activation.forward(linear(&self.intermediate, x.clone()));
        self.output_norm.forward(x + linear(&self.output_proj, h))
    }
}

#[derive(Module, Debug)]
struct Encoder {
    layer: Vec<Block>,
}

/// Of no use here; a file that is written back has it.
#[derive(Module, Debug)]
struct Pooler {
    dense: Linear,
}

#[derive(Module, Debug)]
struct XlmRoberta {
    embeddings: Embeddings,
    encoder: Encoder,
    pooler: Pooler,
}

/// A transformer whose tokens see each other both ways; the mean of their states, projected, is the
/// caption's embedding.
#[derive(Module, Debug)]
pub struct MultilingualText {
    transformer: XlmRoberta,
    linear: Linear,
    padding: u32,
}

impl MultilingualText {
    /// A tower with fresh weights, a position table of so many rows, and the padding token of this
    /// number.
    pub(crate) fn new(
        config: &TextEncoderConfig,
        (positions, padding): (usize, u32),
        device: &Device,
    ) -> Self {
        let sizes = &config.transformer;
        let d_model = sizes.d_model;
        let dense = |d_in, d_out| LinearConfig::new(d_in, d_out).init(device);
        let table = |n| {
            let initializer = Initializer::Normal { mean: 0.0, std: 0.02 };
            EmbeddingConfig::new(n, d_model).with_initializer(initializer).init(device)
        };
        let block = |_| Block {
            attention: Attention::new(d_model, sizes.n_heads, device),
            attention_norm: sizes.norm(device),
            intermediate: dense(d_model, sizes.d_hidden),
            output_proj: dense(sizes.d_hidden, d_model),
            output_norm: sizes.norm(device),
            activation: sizes.activation,
        };
        Self {
            transformer: XlmRoberta {
                embeddings: Embeddings {
                    word_embeddings: table(config.vocab_size),
                    token_type_embeddings: table(TOKEN_TYPES),
                    position_embeddings: table(positions),
                    norm: sizes.norm(device),
                },
                encoder: Encoder { layer: (0..sizes.n_layers).map(block).collect() },
                pooler: Pooler { dense: dense(d_model, d_model) },
            },
            linear: dense(d_model, config.d_embedding),
            padding,
        }
    }

    /// Embeds a batch of captions. Nothing sees padding, but padding has states too.
    pub(crate) fn forward(&self, tokens: &Tokens, device: &Device) -> TextEmbedding {
        let [batch, seq] = [tokens.batch(), tokens.context_length()];
        let embeddings = &self.transformer.embeddings;
        let ids = Tensor::<2, Int>::from_data(tokens.ids_data(), device);
        let positions = Tensor::<2, Int>::from_data(self.positions(tokens), device);
        let types = Tensor::<2, Int>::zeros([batch, seq], device);
        let x = embeddings.word_embeddings.forward(ids)
            + embeddings.token_type_embeddings.forward(types)
            + embeddings.position_embeddings.forward(positions);
        let x = embeddings.norm.forward(x);
        let mask = Tensor::<2, Bool>::from_data(tokens.mask_data(), device);
        let hidden = mask.clone().bool_not().reshape([batch, 1, 1, seq]);
        let blocks = &self.transformer.encoder.layer;
        let x = blocks.iter().fold(x, |x, block| block.forward(x, hidden.clone()));
        let states = x.cast(DType::F32);
        let counted = mask.clone().float().cast(DType::F32).unsqueeze_dim::<3>(2);
        let sum = (states.clone() * counted.clone()).sum_dim(1);
        let mean = (sum / counted.sum_dim(1)).squeeze_dim::<2>(1);
        let pooled = linear(&self.linear, mean).cast(DType::F32);
        TextEmbedding { pooled, tokens: states, mask }
    }

    /// Rows of the position table, `[batch, seq]`: tokens are counted from the row after the padding
    /// token's number, and that is the row of padding, also of what a caption spells out.
    fn positions(&self, tokens: &Tokens) -> TensorData {
        let row = |row: usize| {
            let mut position = i64::from(self.padding);
            tokens.ids(row).iter().map(move |&id| {
                if id == self.padding {
                    i64::from(self.padding)
                } else {
                    position += 1;
                    position
                }
            })
        };
        let positions: Vec<i64> = (0..tokens.batch()).flat_map(row).collect();
        TensorData::new(positions, [tokens.batch(), tokens.context_length()])
    }
}

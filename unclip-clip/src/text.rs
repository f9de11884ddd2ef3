//! Text towers: CLIP's own, and the choice between it, M-CLIP's and GLIDE's. Field names are those of
//! Hugging Face's checkpoints.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use unclip_core::{InvalidSetting, TextEmbedding, normalize};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::ops::linear;
use unclip_nn::{LayerNorm, Transformer, causal_mask};

use crate::config::TOWERS;
use crate::glide::GlideText;
use crate::multilingual::{MultilingualText, NAMES as MULTILINGUAL};
use crate::{TextEncoderConfig, TextTower, Tokens};

#[derive(Module, Debug)]
struct TextEmbeddings {
    token_embedding: Embedding,
    position_embedding: Embedding,
}

#[derive(Module, Debug)]
struct TextModel {
    embeddings: TextEmbeddings,
    encoder: Transformer,
    final_layer_norm: LayerNorm,
}

/// A tower that reads captions.
#[derive(Module, Debug)]
pub enum TextEncoder {
    /// CLIP's.
    Clip(ClipText),
    /// M-CLIP's.
    Multilingual(MultilingualText),
    /// GLIDE's.
    Glide(GlideText),
}

/// A causal transformer over a caption's tokens; the state of the end mark, projected, is the
/// caption's embedding (Radford et al. 2021). A tower without projection only gives states.
#[derive(Module, Debug)]
pub struct ClipText {
    text_model: TextModel,
    text_projection: Option<Linear>,
    unit_length: bool,
}

impl StageConfig for TextEncoderConfig {
    const STAGE: &'static str = "text_encoder";
    const KEYS: KeyMap = MULTILINGUAL.then(TOWERS);
    type Network = TextEncoder;

    fn validate(&self) -> Result<(), InvalidSetting> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        self.transformer.layers().within("transformer")
    }

    fn init(&self, device: &Device) -> TextEncoder {
        self.init(device)
    }
}

impl TextEncoderConfig {
    /// The tower, with fresh weights.
    pub fn init(&self, device: &Device) -> TextEncoder {
        match self.tower {
            TextTower::Clip => TextEncoder::Clip(ClipText::new(self, device)),
            TextTower::Glide => TextEncoder::Glide(GlideText::new(self, device)),
            TextTower::Multilingual { positions, padding } => {
                let sizes = (positions, padding);
                TextEncoder::Multilingual(MultilingualText::new(self, sizes, device))
            }
        }
    }
}

impl TextEncoder {
    /// Embeds a batch of captions.
    ///
    /// # Panics
    /// If a row of `tokens` is longer than the tower's context.
    pub fn forward(&self, tokens: &Tokens, device: &Device) -> TextEmbedding {
        match self {
            Self::Clip(tower) => tower.forward(tokens, device),
            Self::Multilingual(tower) => tower.forward(tokens, device),
            Self::Glide(tower) => tower.forward(tokens, device),
        }
    }
}

impl ClipText {
    fn new(config: &TextEncoderConfig, device: &Device) -> Self {
        let d_model = config.transformer.d_model;
        let embedding = |n: usize| {
            // the default, a standard normal, drowns the other paths of a small tower
            let initializer = burn::module::Initializer::Normal { mean: 0.0, std: 0.02 };
            EmbeddingConfig::new(n, d_model).with_initializer(initializer).init(device)
        };
        Self {
            text_model: TextModel {
                embeddings: TextEmbeddings {
                    token_embedding: embedding(config.vocab_size),
                    position_embedding: embedding(config.context_length),
                },
                encoder: config.transformer.init(device),
                final_layer_norm: config.transformer.norm(device),
            },
            text_projection: config.projected.then(|| {
                LinearConfig::new(d_model, config.d_embedding).with_bias(false).init(device)
            }),
            unit_length: config.unit_length,
        }
    }

    /// Embeds a batch of captions. Padding is not hidden from the tower: it follows the end mark,
    /// and the tower does not look ahead.
    fn forward(&self, tokens: &Tokens, device: &Device) -> TextEmbedding {
        let [batch, seq] = [tokens.batch(), tokens.context_length()];
        let ids = Tensor::<2, Int>::from_data(tokens.ids_data(), device);
        let positions = Tensor::<1, Int>::arange(0..seq as i64, device).unsqueeze::<2>();
        let embeddings = &self.text_model.embeddings;
        let x = embeddings.token_embedding.forward(ids)
            + embeddings.position_embedding.forward(positions);
        let x = self.text_model.encoder.forward(x, Some(causal_mask(seq, device)));
        let states = self.text_model.final_layer_norm.forward(x).cast(DType::F32);
        let width = states.dims()[2];
        let ends: Vec<i64> =
            tokens.end_positions().enumerate().map(|(row, end)| (row * seq + end) as i64).collect();
        let ends = Tensor::<1, Int>::from_data(TensorData::new(ends, [batch]), device);
        let end_states = states.clone().reshape([batch * seq, width]).select(0, ends);
        let pooled = match &self.text_projection {
            Some(projection) => linear(projection, end_states).cast(DType::F32),
            None => end_states,
        };
        TextEmbedding {
            pooled: if self.unit_length { normalize(pooled) } else { pooled },
            tokens: states,
            mask: Tensor::<2, Bool>::from_data(tokens.mask_data(), device),
        }
    }
}

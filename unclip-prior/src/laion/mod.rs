//! The prior of DALLE2-pytorch, by which LAION's models draw embeddings.

mod time;
mod transformer;

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use unclip_core::{ImageEmbedding, Network, TextEmbedding};
use unclip_nn::ops::linear;
use unclip_nn::{LaionRelease, with_learned_padding};

use crate::{DiffusionPriorConfig, LaionPriorConfig};
use time::TimeTokens;
use transformer::{Cache, CosineTransformer};

/// Predicts the clean image embedding, of the length `scale`, from a noised one and its caption.
///
/// The sequence is \[text tokens, pooled text, timestep, noised embedding, learned query\] under a
/// causal mask; the answer is read at the query. What stands for padding is learned, and in the later
/// releases what stands for no caption and for no embedding too: guidance leads away from all of these
/// at once, the noised embedding among them.
///
/// Source: DALLE2-pytorch 1.0.3 and 1.15.6.
#[derive(Module, Debug)]
pub struct LaionPrior {
    to_text_embeds: Option<Linear>,
    to_image_embeds: Option<Linear>,
    to_time_embeds: TimeTokens,
    learned_query: Param<Tensor<1>>,
    null_text_encodings: Param<Tensor<3>>,
    nothing: Option<Nothing>,
    causal_transformer: CosineTransformer,
    scale: f64,
    reads_tokens: bool,
}

/// What stands for no caption beside its tokens, and for no noised embedding.
#[derive(Module, Debug)]
struct Nothing {
    null_text_embeds: Param<Tensor<3>>,
    null_image_embed: Param<Tensor<2>>,
}

impl LaionPrior {
    pub(crate) fn new(
        config: &DiffusionPriorConfig,
        own: &LaionPriorConfig,
        device: &Device,
    ) -> Self {
        let width = config.d_embedding;
        let normal = Initializer::Normal { mean: 0.0, std: 1.0 };
        let several = |n: usize| (n > 1).then(|| LinearConfig::new(width, n * width).init(device));
        Self {
            to_text_embeds: several(own.text_tokens),
            to_image_embeds: several(own.image_tokens),
            to_time_embeds: TimeTokens::new(config, own, device),
            learned_query: normal.init([width], device),
            null_text_encodings: normal.init([1, own.text_positions, width], device),
            nothing: (own.release == LaionRelease::V1_15).then(|| Nothing {
                null_text_embeds: normal.init([1, own.text_tokens, width], device),
                null_image_embed: normal.init([1, width], device),
            }),
            causal_transformer: CosineTransformer::new(&config.transformer, own, device),
            scale: own.scale,
            reads_tokens: own.reads_tokens,
        }
    }

    /// Fixes the captions, followed by as many rows that have none if there is guidance. Captions come
    /// first in the sequence and see nothing of what follows: all blocks read them here, once for all
    /// steps.
    ///
    /// # Panics
    /// With guidance, of a prior that knows none.
    pub(crate) fn bind(&self, text: &TextEmbedding, with_null: bool) -> impl Network<2> + use<> {
        let caption = self.caption(text);
        let nothing =
            with_null.then(|| self.nothing.as_ref().expect("a prior that knows guidance"));
        let caption = match nothing {
            Some(nothing) => {
                let parts = [&self.null_text_encodings, &nothing.null_text_embeds];
                let null = parts.map(|part| part.val().cast(DType::F32)).to_vec();
                Tensor::cat(vec![caption.clone(), Tensor::cat(null, 1).expand(caption.dims())], 0)
            }
            None => caption,
        };
        let cache = self.causal_transformer.prefill(caption);
        let (prior, nulls) = (self.clone(), if with_null { text.batch() } else { 0 });
        move |x_t: Tensor<2>, timesteps: Tensor<1>| prior.predict(&cache, nulls, x_t, timesteps)
    }

    /// Image embeddings as CLIP makes them, from those that are sampled.
    pub(crate) fn restore(&self, sampled: Tensor<2>) -> ImageEmbedding {
        ImageEmbedding(sampled / self.scale)
    }

    /// The inverse of [`restore`](Self::restore).
    pub(crate) fn whiten(&self, embedding: &ImageEmbedding) -> Tensor<2> {
        embedding.0.clone() * self.scale
    }

    /// A caption's tokens with what stands for its padding, then its embedding.
    fn caption(&self, text: &TextEmbedding) -> Tensor<3> {
        let tokens = self.filled(text);
        let pooled = as_tokens(self.to_text_embeds.as_ref(), text.pooled.clone());
        Tensor::cat(vec![tokens, pooled.cast(DType::F32)], 1)
    }

    /// Tokens of captions, learned ones where there is padding: `[batch, text_positions, width]`.
    fn filled(&self, text: &TextEmbedding) -> Tensor<3> {
        let null = self.null_text_encodings.val().cast(DType::F32);
        let [_, positions, width] = null.dims();
        if self.reads_tokens {
            return with_learned_padding(null, text.tokens.clone(), &text.mask);
        }
        null.expand([text.batch(), positions, width])
    }

    /// The answer of the query, last of the tokens that follow the caption. The last `nulls` rows have
    /// no noised embedding.
    fn predict(
        &self,
        caption: &Cache,
        nulls: usize,
        x_t: Tensor<2>,
        timesteps: Tensor<1>,
    ) -> Tensor<2> {
        let [batch, width] = x_t.dims();
        let time = self.to_time_embeds.forward(timesteps).cast(DType::F32);
        let noised = as_tokens(self.to_image_embeds.as_ref(), x_t.narrow(0, 0, batch - nulls));
        let noised = noised.cast(DType::F32);
        let n = noised.dims()[1];
        let noised = match self.nothing.as_ref().filter(|_| nulls > 0) {
            Some(nothing) => {
                let null = nothing.null_image_embed.val().cast(DType::F32).reshape([1, 1, width]);
                Tensor::cat(vec![noised, null.expand([nulls, n, width])], 0)
            }
            None => noised,
        };
        let query = self.learned_query.val().cast(DType::F32).reshape([1, 1, width]);
        let query = query.expand([batch, 1, width]);
        let x = Tensor::cat(vec![time, noised, query], 1);
        self.causal_transformer.answer(caption, x).cast(DType::F32)
    }
}

/// An embedding as tokens, `[batch, n, width]`.
fn as_tokens(several: Option<&Linear>, x: Tensor<2>) -> Tensor<3> {
    let [batch, width] = x.dims();
    let x = match several {
        Some(layer) => linear(layer, x),
        None => x,
    };
    let n = x.dims()[1] / width;
    x.reshape([batch, n, width])
}

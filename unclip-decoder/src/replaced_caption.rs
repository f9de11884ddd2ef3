//! A condition of an image embedding and a caption, for each of which something learned can stand
//! (DALLE2-pytorch).

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use unclip_core::{ImageEmbedding, TextEmbedding};
use unclip_nn::ops::{gelu, linear};
use unclip_nn::{Context, with_learned_padding};

use crate::DecoderConfig;
use crate::condition::{Bound, Condition};

/// The condition of a decoder whose U-Net reads the image embedding as an addition to the timestep
/// embedding and as context tokens, and the caption in its middle alone. There are learned vectors for
/// no picture, for no caption, and for each position of a caption's padding.
#[derive(Module, Debug)]
pub struct ReplacedCaption {
    to_image_hiddens: Linear,
    image_to_tokens: Linear,
    null_image_hiddens: Param<Tensor<2>>,
    null_image_embed: Param<Tensor<3>>,
    text: Option<CaptionTokens>,
}

/// Tokens of captions, and what stands for them.
#[derive(Module, Debug)]
struct CaptionTokens {
    text_to_cond: Linear,
    null_text_embed: Param<Tensor<3>>,
}

impl ReplacedCaption {
    pub(crate) fn new(config: &DecoderConfig, positions: usize, device: &Device) -> Self {
        let (d_time, n) = (config.unet.d_embedding(), config.image_tokens);
        let d_context = config.unet.d_context().unwrap_or(1);
        let projection = |d_in, d_out| LinearConfig::new(d_in, d_out).init(device);
        let normal = Initializer::Normal { mean: 0.0, std: 1.0 };
        let text = |d_text| CaptionTokens {
            text_to_cond: projection(d_text, d_context),
            null_text_embed: normal.init([1, positions, d_context], device),
        };
        Self {
            to_image_hiddens: projection(config.d_embedding, d_time),
            image_to_tokens: projection(config.d_embedding, n * d_context),
            null_image_hiddens: normal.init([1, d_time], device),
            null_image_embed: normal.init([1, n, d_context], device),
            text: config.d_text.map(text),
        }
    }

    /// Projects a condition.
    ///
    /// # Panics
    /// Without an image embedding, or a caption if captions are read.
    pub(crate) fn forward(&self, condition: &Condition) -> Bound {
        let text = self.text.as_ref().map(|_| condition.text());
        self.read(Some(condition.image()), text, condition.rows)
    }

    /// Projects what there is, and takes what was learned where there is nothing.
    pub(crate) fn read(
        &self,
        image: Option<&ImageEmbedding>,
        text: Option<&TextEmbedding>,
        rows: usize,
    ) -> Bound {
        let null = self.null_image_embed.val().cast(DType::F32);
        let [_, n, width] = null.dims();
        let (emb, tokens) = match image {
            Some(image) => {
                let emb = gelu(linear(&self.to_image_hiddens, image.0.clone()));
                let tokens = linear(&self.image_to_tokens, image.0.clone());
                (emb, tokens.reshape([rows, n, width]).cast(DType::F32))
            }
            None => {
                let emb = self.null_image_hiddens.val();
                let d_time = emb.dims()[1];
                (emb.expand([rows, d_time]), null.expand([rows, n, width]))
            }
        };
        Bound {
            emb: Some(emb.cast(DType::F32)),
            context: Some(Context { tokens, mask: None }),
            middle: self.text.as_ref().map(|own| own.forward(text, rows)),
            layout: None,
        }
    }
}

impl CaptionTokens {
    /// Tokens of captions with what stands for their padding: `[rows, positions, d_context]`.
    fn forward(&self, text: Option<&TextEmbedding>, rows: usize) -> Tensor<3> {
        let null = self.null_text_embed.val().cast(DType::F32);
        let [_, positions, width] = null.dims();
        let Some(text) = text else { return null.expand([rows, positions, width]) };
        let tokens = linear(&self.text_to_cond, text.tokens.clone()).cast(DType::F32);
        with_learned_padding(null, tokens, &text.mask)
    }
}

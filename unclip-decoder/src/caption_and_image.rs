//! A condition of an image embedding and a caption, as an addition to the timestep embedding and as
//! context tokens.

use burn::module::{Initializer, Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Bool, DType, Device, Tensor};
use unclip_core::ImageEmbedding;
use unclip_nn::ops::{linear, silu};
use unclip_nn::{Context, LayerNorm, Whitening, upsample};

use crate::condition::{Bound, Condition};
use crate::{DecoderConfig, LayoutConfig};

/// The condition of a decoder that reads captions (paper, section 2.1; Karlo).
#[derive(Module, Debug)]
pub struct CaptionAndImage {
    whitening: Option<Whitening>,
    null_image: Param<Tensor<1>>,
    pooled_text_proj: Linear,
    image_proj: Linear,
    image_tokens_proj: Linear,
    text_tokens_proj: Linear,
    text_tokens_norm: LayerNorm,
    layout: Option<Layout>,
    image_tokens: usize,
}

/// Both embeddings as a coarse picture ([`LayoutConfig`](crate::LayoutConfig)).
#[derive(Module, Debug)]
struct Layout {
    from_image: Linear,
    from_text: Linear,
    to_pixels: Linear,
    side: usize,
    doublings: usize,
}

impl Layout {
    fn new(config: LayoutConfig, d_embedding: usize, image_size: usize, device: &Device) -> Self {
        let LayoutConfig { side, channels, d_hidden } = config;
        let from_clip = || LinearConfig::new(d_embedding, d_hidden).init(device);
        Self {
            from_image: from_clip(),
            from_text: from_clip(),
            to_pixels: LinearConfig::new(d_hidden, channels * side * side).init(device),
            side,
            doublings: (image_size / side).ilog2() as usize,
        }
    }

    /// From embeddings, `[batch, d_embedding]` each, to the size of the picture.
    fn forward(&self, image: Tensor<2>, text: Tensor<2>) -> Tensor<4> {
        let hidden = linear(&self.from_image, image) + linear(&self.from_text, text);
        let values = linear(&self.to_pixels, silu(hidden));
        let [batch, width] = values.dims();
        let channels = width / (self.side * self.side);
        let coarse = values.cast(DType::F32).reshape([batch, channels, self.side, self.side]);
        (0..self.doublings).fold(coarse, |picture, _| upsample(picture))
    }
}

impl CaptionAndImage {
    pub(crate) fn new(config: &DecoderConfig, d_text: usize, device: &Device) -> Self {
        let d_time = config.unet.d_embedding();
        let d_context = config.unet.d_context().unwrap_or(1);
        let from_clip = |d_out| LinearConfig::new(config.d_embedding, d_out).init(device);
        let whitening = || Whitening::identity(config.d_embedding, true, device);
        Self {
            whitening: config.whitened.then(whitening),
            null_image: Initializer::Normal { mean: 0.0, std: 0.02 }
                .init([config.d_embedding], device),
            pooled_text_proj: from_clip(d_time),
            image_proj: from_clip(d_time),
            image_tokens_proj: from_clip(d_context * config.image_tokens),
            text_tokens_proj: LinearConfig::new(d_text, d_context).init(device),
            text_tokens_norm: LayerNorm::new(d_context, LayerNorm::EPSILON, device),
            layout: config.layout.map(|layout| {
                Layout::new(layout, config.d_embedding, config.unet.image_size(), device)
            }),
            image_tokens: config.image_tokens,
        }
    }

    /// The same conditioner for a CLIP whose embeddings this whitens. The null image starts as
    /// their mean, which is zero once whitened.
    pub(crate) fn with_whitening(self, whitening: Whitening) -> Self {
        let mean = whitening.mean().squeeze_dim(0);
        Self { null_image: Param::from_tensor(mean), whitening: Some(whitening), ..self }
    }

    /// Embeddings in the form that everything here reads: `[batch, d_embedding]`.
    pub(crate) fn whitened(&self, image: &ImageEmbedding) -> Tensor<2> {
        match &self.whitening {
            Some(whitening) => whitening.forward(image.0.clone()),
            None => image.0.clone(),
        }
    }

    /// The learned embedding that stands for no image, for a batch: `[batch, d_embedding]`.
    pub(crate) fn null_image(&self, batch: usize) -> ImageEmbedding {
        let null = self.null_image.val();
        let width = null.dims()[0];
        ImageEmbedding(null.unsqueeze::<2>().expand([batch, width]))
    }

    /// Projects a condition. Nothing here depends on the timestep.
    pub(crate) fn forward(&self, condition: &Condition) -> Bound {
        let image = self.whitened(condition.image());
        let text = condition.text();
        let batch = image.dims()[0];
        let emb = linear(&self.pooled_text_proj, text.pooled.clone())
            + linear(&self.image_proj, image.clone());
        let layout = self.layout.as_ref();
        let layout = layout.map(|layout| layout.forward(image.clone(), text.pooled.clone()));
        let image_tokens = linear(&self.image_tokens_proj, image);
        let width = image_tokens.dims()[1] / self.image_tokens;
        // in the flat vector the token's number varies fastest
        let image_tokens = image_tokens.reshape([batch, width, self.image_tokens]).swap_dims(1, 2);
        let text_tokens = linear(&self.text_tokens_proj, text.tokens.clone());
        let text_tokens = self.text_tokens_norm.forward(text_tokens);
        let context = Context {
            tokens: Tensor::cat(vec![image_tokens, text_tokens], 1),
            mask: Some(self.with_image_tokens(&text.mask)),
        };
        Bound { emb: Some(emb), layout, context: Some(context), ..Bound::default() }
    }

    /// The caption's mask, preceded by the image tokens, which are always there.
    fn with_image_tokens(&self, mask: &Tensor<2, Bool>) -> Tensor<2, Bool> {
        let batch = mask.dims()[0];
        let image = Tensor::ones([batch, self.image_tokens], &mask.device());
        Tensor::cat(vec![image, mask.clone().int()], 1).equal_elem(1)
    }
}

//! What the stages of a run passed to each other.

use std::path::Path;

use burn::tensor::Tensor;
use unclip_core::{ImageEmbedding, TextEmbedding};
use unclip_nn::checkpoint::save_tensors;

use crate::{Error, StageId};

/// What the stages of a run passed to each other, for comparison with another implementation or for
/// continuing from the middle.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The pictures as the image encoder saw them, if there were any: `[batch, 3, side, side]`.
    pub pixels: Option<Tensor<4>>,
    /// The image encoder's embeddings of them: `[batch, d_embedding]`.
    pub image: Option<ImageEmbedding>,
    /// The captions' embedding, one row for each picture.
    pub text: Option<TextEmbedding>,
    /// The captions' embedding for the prior, of a model whose decoder has a text tower of its own.
    pub prior_text: Option<TextEmbedding>,
    /// The prior's image embeddings.
    pub prior: Option<ImageEmbedding>,
    /// What guidance of a decoder without captions led away from: embeddings, one row for each
    /// picture.
    pub negative: Option<ImageEmbedding>,
    /// The decoder's latents, if it samples such: `[batch, channels, height, width]`.
    pub latent: Option<Tensor<4>>,
    /// The decoder's pictures, `[batch, 3, height, width]` in [−1, 1].
    pub decoder: Option<Tensor<4>>,
    /// The captions' embedding for upsamplers that read them, with the upsampler's place.
    pub upsampler_texts: Vec<(usize, TextEmbedding)>,
    /// Each upsampler's pictures.
    pub upsamplers: Vec<Tensor<4>>,
}

impl Trace {
    /// Writes whatever is present as safetensors, in f32: `image_encoder.pixels`,
    /// `image_encoder.embedding`, `text_encoder.pooled`, `text_encoder.tokens`, `text_encoder.mask`
    /// (1 for tokens, 0 for padding), the same of `prior_text_encoder` and
    /// `upsampler_text_encoder.0`, `prior.embedding`, `prior.negative_embedding`, `decoder.latent`,
    /// `decoder.image`, `upsampler.0.image`, `upsampler.1.image` and so on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let mut tensors = Vec::new();
        let mut add = |stage: StageId, what: &str, (shape, values)| {
            tensors.push((format!("{stage}.{what}"), shape, values));
        };
        if let Some(pixels) = &self.pixels {
            add(StageId::ImageEncoder, "pixels", values(pixels));
        }
        if let Some(image) = &self.image {
            add(StageId::ImageEncoder, "embedding", values(&image.0));
        }
        let own = self.text.iter().map(|it| (StageId::TextEncoder, it));
        let of_prior = self.prior_text.iter().map(|it| (StageId::PriorTextEncoder, it));
        let of_upsamplers = self.upsampler_texts.iter();
        let of_upsamplers = of_upsamplers.map(|(n, it)| (StageId::UpsamplerTextEncoder(*n), it));
        for (stage, text) in own.chain(of_prior).chain(of_upsamplers) {
            add(stage, "pooled", values(&text.pooled));
            add(stage, "tokens", values(&text.tokens));
            add(stage, "mask", values(&text.mask.clone().float()));
        }
        if let Some(image) = &self.prior {
            add(StageId::Prior, "embedding", values(&image.0));
        }
        if let Some(image) = &self.negative {
            add(StageId::Prior, "negative_embedding", values(&image.0));
        }
        if let Some(latent) = &self.latent {
            add(StageId::Decoder, "latent", values(latent));
        }
        if let Some(picture) = &self.decoder {
            add(StageId::Decoder, "image", values(picture));
        }
        for (place, picture) in self.upsamplers.iter().enumerate() {
            add(StageId::Upsampler(place), "image", values(picture));
        }
        Ok(save_tensors(path.as_ref(), &tensors, &[])?)
    }
}

fn values<const D: usize>(tensor: &Tensor<D>) -> (Vec<usize>, Vec<f32>) {
    (tensor.dims().to_vec(), tensor.to_data().iter::<f32>().collect())
}

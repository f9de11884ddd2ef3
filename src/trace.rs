//! What went between the stages of a run.

use std::path::Path;

use burn::tensor::Tensor;
use unclip_core::{ImageEmbedding, TextEmbedding};
use unclip_nn::checkpoint::save_tensors;

use crate::recorded::trace_name;
use crate::{Error, Stage};

/// What the stages of a run gave to each other. To compare it with another implementation's, or to
/// go on from the middle.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The pictures as the image encoder saw them, if there were any: `[batch, 3, side, side]`.
    pub pixels: Option<Tensor<4>>,
    /// What the image encoder made of them: `[batch, d_embedding]`.
    pub image: Option<ImageEmbedding>,
    /// The captions' embedding, one row for each picture.
    pub text: Option<TextEmbedding>,
    /// The prior's answer.
    pub prior: Option<ImageEmbedding>,
    /// The decoder's pictures, `[batch, 3, height, width]` in [−1, 1].
    pub decoder: Option<Tensor<4>>,
    /// Each upsampler's.
    pub upsample: Vec<Tensor<4>>,
}

impl Trace {
    /// Writes what there is as safetensors, in f32: `image.pixels`, `image.embedding`,
    /// `text.pooled`, `text.tokens`, `text.mask` (1 for tokens, 0 for padding),
    /// `prior.image_embedding`, `decoder.image`, `upsample.image`, `upsample.1.image` and so on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let mut tensors = Vec::new();
        let mut add = |name: &str, (shape, values)| tensors.push((name.to_string(), shape, values));
        if let Some(pixels) = &self.pixels {
            add("image.pixels", values(pixels));
        }
        if let Some(image) = &self.image {
            add("image.embedding", values(&image.0));
        }
        if let Some(text) = &self.text {
            add("text.pooled", values(&text.pooled));
            add("text.tokens", values(&text.tokens));
            add("text.mask", values(&text.mask.clone().float()));
        }
        if let Some(image) = &self.prior {
            add("prior.image_embedding", values(&image.0));
        }
        if let Some(picture) = &self.decoder {
            add("decoder.image", values(picture));
        }
        for (place, picture) in self.upsample.iter().enumerate() {
            let name = format!("{}.image", trace_name(Stage::Upsampler(place)));
            add(&name, values(picture));
        }
        Ok(save_tensors(path, &tensors)?)
    }
}

fn values<const D: usize>(tensor: &Tensor<D>) -> (Vec<usize>, Vec<f32>) {
    (tensor.dims().to_vec(), tensor.to_data().iter::<f32>().collect())
}

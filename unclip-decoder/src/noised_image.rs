//! A condition of an image embedding with noise, and a caption (Stable unCLIP).

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use unclip_core::{ImageEmbedding, TextEmbedding};
use unclip_nn::ops::{linear, silu};
use unclip_nn::{Context, timestep_embedding};

use crate::condition::{Bound, Condition, Null};
use crate::{Augmentation, DecoderConfig};

/// The condition of a decoder that was trained on embeddings with noise and told how much: both as an
/// addition to the timestep embedding. The tokens of its context are the caption's alone, read by a
/// text tower of the decoder's own; padding counts.
#[derive(Module, Debug)]
pub struct NoisedImage {
    mean: Param<Tensor<2>>,
    std: Param<Tensor<2>>,
    linear_1: Linear,
    linear_2: Linear,
    /// √ᾱ and √(1 − ᾱ) at each level of noise.
    #[module(skip)]
    levels: Vec<[f64; 2]>,
}

impl NoisedImage {
    pub(crate) fn new(config: &DecoderConfig, noise: Augmentation, device: &Device) -> Self {
        let (d_embedding, d_time) = (config.d_embedding, config.unet.d_embedding());
        let schedule = noise.schedule().expect("a configuration is validated when it is read");
        let level = |alpha_bar: &f64| [alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()];
        Self {
            mean: Param::from_tensor(Tensor::zeros([1, d_embedding], device)),
            std: Param::from_tensor(Tensor::ones([1, d_embedding], device)),
            linear_1: LinearConfig::new(2 * d_embedding, d_time).init(device),
            linear_2: LinearConfig::new(d_time, d_time).init(device),
            levels: schedule.alpha_bars().iter().map(level).collect(),
        }
    }

    /// Projects a condition.
    ///
    /// # Panics
    /// If there is no such level of noise.
    pub(crate) fn forward(&self, condition: &Condition) -> Bound {
        let read = self.with_noise(condition.image(), condition);
        self.bound(read, condition.text())
    }

    /// The null condition: zeros in the place of embedding and level, or a picture's own.
    pub(crate) fn forward_null(&self, given: &Condition, null: &Null) -> Bound {
        let read = match &null.image {
            Some(image) => self.with_noise(image, given),
            None => self.with_noise(given.image(), given).zeros_like(),
        };
        self.bound(read, null.text.as_ref().expect("a negative caption"))
    }

    /// An embedding with its noise, followed by how much that is: `[batch, 2 · d_embedding]`.
    fn with_noise(&self, image: &ImageEmbedding, condition: &Condition) -> Tensor<2> {
        let (level, noise) = match &condition.image_noise {
            Some(it) => (it.level, it.noise.clone()),
            None => (0, image.0.zeros_like()),
        };
        let [signal, strength] = self.levels[level];
        let (mean, std) = (self.mean.val(), self.std.val());
        let white = (image.0.clone() - mean.clone()) / std.clone();
        let noised = (white * signal + noise * strength) * std + mean;
        let [batch, width] = noised.dims();
        let level = Tensor::full([batch], level as f64, &noised.device());
        Tensor::cat(vec![noised, timestep_embedding(level, width)], 1)
    }

    fn bound(&self, read: Tensor<2>, text: &TextEmbedding) -> Bound {
        let emb = linear(&self.linear_2, silu(linear(&self.linear_1, read)));
        let context = Context { tokens: text.tokens.clone(), mask: None };
        Bound { emb: Some(emb), context: Some(context), ..Bound::default() }
    }
}

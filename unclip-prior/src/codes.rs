//! Image embeddings as codes: their principal components, each in one of some buckets.

use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};
use unclip_core::{ImageEmbedding, TextEmbedding, normalize};
use unclip_nn::Whitening;

use crate::ArPriorConfig;

/// Turns image embeddings into codes and back, and similarities into buckets; all of it is fixed.
///
/// The paper (section 2.2) sorts the principal components by their variance and puts each of the
/// first into buckets; it does not say where those end. Here a component's buckets are equally wide
/// from the least to the largest value that it was seen to take, and the buckets of similarities
/// are those into which equally many pairs fall.
///
/// Tensors in files: `low` and `high`, `[1, n_codes]`, of whitened components; `edges`,
/// `[1, n_similarities - 1]`; `clip`, see [`Whitening`].
#[derive(Module, Debug)]
pub struct Codebook {
    clip: Whitening,
    low: Param<Tensor<2>>,
    high: Param<Tensor<2>>,
    edges: Param<Tensor<2>>,
    n_buckets: usize,
}

impl Codebook {
    /// A codebook without statistics: components are taken as they are, and range over ±4.
    pub(crate) fn identity(config: &ArPriorConfig, device: &Device) -> Self {
        let ArPriorConfig { d_embedding, n_codes, n_buckets, n_similarities, .. } = *config;
        let row = |value: f32| fixed(Tensor::full([1, n_codes], value, device));
        let edge = |k: usize| 2.0 * k as f32 / n_similarities as f32 - 1.0;
        let edges: Vec<f32> = (1..n_similarities).map(edge).collect();
        Self {
            clip: Whitening::identity(d_embedding, true, device),
            low: row(-4.0),
            high: row(4.0),
            edges: fixed(Tensor::<1>::from_floats(&edges[..], device).unsqueeze()),
            n_buckets,
        }
    }

    /// The codebook of some pairs of pictures and captions.
    ///
    /// # Shapes
    /// - `clip`: with a basis, the loudest direction first
    /// - `image`: many rows, of which the least and the largest component are taken
    /// - `text`: a row for each row of `image`
    #[must_use]
    pub fn of(self, clip: Whitening, image: &ImageEmbedding, text: &TextEmbedding) -> Self {
        let [n_codes, n_edges] = [self.low.dims()[1], self.edges.dims()[1]];
        let components = clip.forward(image.0.clone()).narrow(1, 0, n_codes);
        let similarities = similarities(image, text).into_data();
        let mut sorted: Vec<f32> = similarities.iter::<f32>().collect();
        sorted.sort_by(f32::total_cmp);
        let edge = |k: usize| sorted[k * sorted.len() / (n_edges + 1)];
        let edges: Vec<f32> = (1..=n_edges).map(edge).collect();
        let device = image.0.device();
        Self {
            clip,
            low: fixed(components.clone().min_dim(0)),
            high: fixed(components.max_dim(0)),
            edges: fixed(Tensor::<1>::from_floats(&edges[..], &device).unsqueeze()),
            ..self
        }
    }

    /// The codes of image embeddings: `[batch, n_codes]`. A component beyond the range is in the
    /// first or the last bucket.
    pub fn encode(&self, image: &ImageEmbedding) -> Tensor<2, Int> {
        let n_codes = self.low.dims()[1];
        let components = self.clip.forward(image.0.clone()).narrow(1, 0, n_codes);
        // of a component that is always the same there is one bucket
        let width = (self.high.val() - self.low.val()).clamp_min(1e-12);
        let share = (components - self.low.val()) / width;
        let last = (self.n_buckets - 1) as f64;
        (share * self.n_buckets as f64).floor().clamp(0.0, last).int()
    }

    /// The image embeddings in the middle of their buckets: `[batch, d_embedding]`.
    ///
    /// # Shapes
    /// - `codes`: `[batch, n]`, the first `n` of them; other components get their mean
    pub fn decode(&self, codes: Tensor<2, Int>) -> ImageEmbedding {
        let [batch, n] = codes.dims();
        let share = (codes.float() + 0.5) / self.n_buckets as f64;
        let [low, high] = [&self.low, &self.high].map(|edge| edge.val().narrow(1, 0, n));
        let known = share * (high - low.clone()) + low;
        let width = self.clip.mean().dims()[1];
        let unknown = Tensor::zeros([batch, width - n], &known.device());
        ImageEmbedding(self.clip.inverse(Tensor::cat(vec![known, unknown], 1)))
    }

    /// The bucket of each pair's similarity, `[batch]`, from 0 for the least.
    pub fn similarity(&self, image: &ImageEmbedding, text: &TextEmbedding) -> Tensor<1, Int> {
        let [batch, n] = [image.batch(), self.edges.dims()[1]];
        let similarity = similarities(image, text).expand([batch, n]);
        let edges = self.edges.val().expand([batch, n]);
        similarity.greater_equal(edges).int().sum_dim(1).reshape([batch])
    }
}

/// Cosines of pictures and captions, `[batch, 1]`.
fn similarities(image: &ImageEmbedding, text: &TextEmbedding) -> Tensor<2> {
    (normalize(image.0.clone()) * normalize(text.pooled.clone())).sum_dim(1)
}

/// A parameter that takes no gradients.
fn fixed(value: Tensor<2>) -> Param<Tensor<2>> {
    Param::from_tensor(value).set_require_grad(false)
}

//! Latents rounded to the entries of a codebook.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Int, Tensor};

/// The entries that latents can be rounded to.
#[derive(Module, Debug)]
pub struct Codebook {
    embedding: Entries,
}

/// Named as in published checkpoints.
#[derive(Module, Debug)]
struct Entries {
    weight: Param<Tensor<2>>,
}

/// Places that are compared with the whole codebook at once.
const CHUNK: usize = 256;

impl Codebook {
    pub(crate) fn new(n_codes: usize, d_code: usize, device: &Device) -> Self {
        let bound = 1.0 / n_codes as f64;
        let weight =
            Initializer::Uniform { min: -bound, max: bound }.init([n_codes, d_code], device);
        Self { embedding: Entries { weight } }
    }

    /// The number of the entry closest to the latent at each place.
    ///
    /// # Shapes
    /// - `latents`: `[batch, d_code, height, width]`
    /// - result: `[batch, height, width]`
    pub fn codes(&self, latents: Tensor<4>) -> Tensor<3, Int> {
        let [batch, d_code, height, width] = latents.dims();
        let entries = self.embedding.weight.val();
        let entries = entries.cast(latents.dtype()).transpose();
        let squares = (entries.clone() * entries.clone()).sum_dim(0);
        let places = latents.permute([0, 2, 3, 1]).reshape([batch * height * width, d_code]);
        let nearest = |first: usize| {
            let rows = places.clone().narrow(0, first, CHUNK.min(places.dims()[0] - first));
            // the square of the place is the same for all entries
            (squares.clone() - rows.matmul(entries.clone()) * 2.0).argmin(1)
        };
        let all = (0..places.dims()[0]).step_by(CHUNK).map(nearest).collect();
        Tensor::cat(all, 0).reshape([batch, height, width])
    }

    /// The entries of these numbers.
    ///
    /// # Shapes
    /// - `codes`: `[batch, height, width]`
    /// - result: `[batch, d_code, height, width]`
    pub fn entries(&self, codes: Tensor<3, Int>) -> Tensor<4> {
        let [batch, height, width] = codes.dims();
        let table = self.embedding.weight.val();
        let d_code = table.dims()[1];
        let entries = table.select(0, codes.reshape([batch * height * width]));
        entries.reshape([batch, height, width, d_code]).permute([0, 3, 1, 2])
    }
}

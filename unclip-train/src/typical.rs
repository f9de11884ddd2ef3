//! What CLIP says of typical pictures: statistics for the stages that read its embeddings, a name for
//! its space, and the length of its embeddings.

use std::hash::{DefaultHasher, Hasher};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use unclip_core::{ImageEmbedding, TextEmbedding};
use unclip_shapes::{Sample, ShapesWorld};

use crate::data::mixed_batch;
use crate::objective::FrozenClip;

/// Samples over which statistics of embeddings are taken.
const STATISTICS_SAMPLES: usize = 4096;

/// Embeddings of clean pictures of the kinds that the other stages see in training:
/// `[samples, d_embedding]`.
pub(crate) fn typical_embeddings(clip: &FrozenClip) -> Tensor<2> {
    let embed = |samples: Vec<Sample>| clip.embed_samples(&samples).0;
    Tensor::cat(typical_samples().map(embed).collect(), 0)
}

/// The same, and the embeddings of the captions.
pub(crate) fn typical_pairs(clip: &FrozenClip) -> (ImageEmbedding, TextEmbedding) {
    let embed = |samples: Vec<Sample>| {
        let captions: Vec<&str> = samples.iter().map(|sample| sample.caption.as_str()).collect();
        let text = clip.embed_captions(&clip.tokenizer.encode(&captions));
        (clip.embed_samples(&samples), text)
    };
    let (images, texts) = typical_samples().map(embed).unzip();
    (ImageEmbedding::cat(images), TextEmbedding::cat(texts))
}

fn typical_samples() -> impl Iterator<Item = Vec<Sample>> {
    const CHUNK: usize = 256;
    let world = ShapesWorld::new(0);
    let chunks = 0..(STATISTICS_SAMPLES / CHUNK) as u64;
    chunks.map(move |chunk| mixed_batch(&world, chunk, CHUNK))
}

/// A name for CLIP's space that changes whenever CLIP does: a hash of what it says of a picture.
pub(crate) fn fingerprint(clip: &FrozenClip) -> String {
    let sample = ShapesWorld::new(0).sample(0);
    let mut hasher = DefaultHasher::new();
    let embedding = clip.embed_samples(std::slice::from_ref(&sample)).0;
    embedding.into_data().iter::<f32>().for_each(|v| hasher.write_u32(v.to_bits()));
    format!("shapes-{:016x}", hasher.finish())
}

/// A tower whose projection into CLIP's space is multiplied.
pub(crate) fn with_longer_embeddings<M: Module>(tower: M, factor: f64) -> M {
    tower.map(&mut ScaleProjection { factor, path: Vec::new() })
}

/// Multiplies the projection into CLIP's space.
struct ScaleProjection {
    factor: f64,
    path: Vec<String>,
}

impl ModuleMapper for ScaleProjection {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let is_projection = self.path.iter().any(|name| name.ends_with("_projection"));
        if is_projection { param.map(|weight| weight * self.factor) } else { param }
    }
}

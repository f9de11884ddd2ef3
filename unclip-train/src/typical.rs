//! What CLIP says of typical pictures: statistics for the stages that read its embeddings, a name for
//! its space, and the length of its embeddings.

use std::hash::{DefaultHasher, Hasher};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;
use unclip_core::{ImageEmbedding, InvalidSetting, TextEmbedding};
use unclip_shapes::ShapesWorld;

use crate::TrainError;
use crate::objective::FrozenClip;
use crate::shown::{Data, Items, Shown};

/// The least variance of embeddings, as a share of their mean square.
const LEAST_SPREAD: f64 = 1e-9;

/// Items that are embedded at once.
const CHUNK: usize = 256;

/// Embeddings of clean pictures of the kinds that the other stages see in training:
/// `[items, d_embedding]`.
pub(crate) fn typical_embeddings(
    clip: &FrozenClip,
    data: &dyn Data,
) -> Result<Tensor<2>, TrainError> {
    let mut all = Vec::new();
    each_chunk(clip, data, |items| all.push(clip.embed_items(items).0))?;
    let all: Tensor<2> = Tensor::cat(all, 0);
    let mean = |x: Tensor<2>| x.mean().into_scalar::<f64>();
    let centered = all.clone() - all.clone().mean_dim(0);
    let (spread, size) = (mean(centered.clone() * centered), mean(all.clone() * all.clone()));
    if spread > LEAST_SPREAD * size {
        return Ok(all);
    }
    let expected = "pictures that differ: there is nothing to learn from one alone";
    Err(InvalidSetting::new("data", "pictures that all look the same to CLIP", expected).into())
}

/// The same, and the embeddings of the captions.
pub(crate) fn typical_pairs(
    clip: &FrozenClip,
    data: &dyn Data,
) -> Result<(ImageEmbedding, TextEmbedding), TrainError> {
    let (mut images, mut texts) = (Vec::new(), Vec::new());
    each_chunk(clip, data, |items| {
        let captions: Vec<&str> = items.iter().map(|item| item.caption()).collect();
        texts.push(clip.embed_captions(&clip.tokenizer.encode(&captions)));
        images.push(clip.embed_items(items));
    })?;
    Ok((ImageEmbedding::cat(images), TextEmbedding::cat(texts)))
}

fn each_chunk(
    clip: &FrozenClip,
    data: &dyn Data,
    mut each: impl FnMut(&Items),
) -> Result<(), TrainError> {
    for chunk in 0.. {
        let items = data.typical(chunk, CHUNK, clip.side())?;
        if items.is_empty() {
            break;
        }
        each(&items);
    }
    Ok(())
}

/// A name for CLIP's space that changes whenever CLIP does: a hash of what it says of a picture, whatever
/// it was trained on.
pub(crate) fn fingerprint(clip: &FrozenClip) -> String {
    let sample: Box<dyn Shown> = Box::new(ShapesWorld::new(0).sample(0));
    let mut hasher = DefaultHasher::new();
    let embedding = clip.embed_items(&vec![sample]).0;
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

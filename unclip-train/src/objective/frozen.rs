//! A trained CLIP, which the other stages learn from.

use burn::tensor::{Device, Tensor, TensorData};
use unclip_clip::{ImageEncoder, ImageEncoderConfig, TextEncoder, Tokenizer, Tokens, standardize};
use unclip_core::{ImageEmbedding, TextEmbedding};
use unclip_shapes::{Region, Scene, ShapesWorld};

use crate::ClipScore;
use crate::data::{scenes, whole_pictures};
use crate::shown::Items;

/// A trained CLIP, which the other stages learn from.
#[derive(Debug, Clone)]
pub struct FrozenClip {
    /// Reads the captions.
    pub tokenizer: Tokenizer,
    /// The text tower.
    pub text: TextEncoder,
    /// The image tower.
    pub image: ImageEncoder,
    /// How the image tower wants its pictures.
    pub image_config: ImageEncoderConfig,
    /// Where both towers are.
    pub device: Device,
}

impl FrozenClip {
    /// Side of the pictures that its image tower reads.
    pub fn side(&self) -> u32 {
        self.image_config.image_size as u32
    }

    /// Embeddings of captions.
    pub fn embed_captions(&self, tokens: &Tokens) -> TextEmbedding {
        self.text.forward(tokens, &self.device)
    }

    /// Embeddings of pictures, `[batch, 3, height, width]` in [−1, 1].
    pub fn embed_images(&self, images: TensorData) -> ImageEmbedding {
        let images: Tensor<4> = Tensor::from_data(images, &self.device);
        self.image.forward(standardize(&self.image_config, images))
    }

    /// Embeddings of the pictures of items.
    pub fn embed_items(&self, items: &Items) -> ImageEmbedding {
        self.embed_images(whole_pictures(items, self.side()))
    }

    /// What this CLIP sees, by `n` scenes for each question.
    pub fn score(&self, world: &ShapesWorld, n: usize) -> ClipScore {
        let whole = Region::whole(self.side());
        let embed = |shown: &[Scene], captions: &[String]| {
            let parts: Vec<_> = shown.iter().map(|scene| (scene, whole)).collect();
            let text = self.embed_captions(&self.tokenizer.encode(captions));
            Ok::<_, std::convert::Infallible>((self.embed_images(scenes(&parts)), text))
        };
        let Ok(score) = ClipScore::measure(world, n, embed);
        score
    }
}

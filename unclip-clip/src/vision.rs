//! CLIP's image tower. Field names are those of Hugging Face's checkpoints, misspelling included.

use burn::module::{Initializer, Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::{DType, Device, Tensor};
use unclip_core::{ImageEmbedding, InvalidSetting, normalize};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::ops::{linear, working};
use unclip_nn::{LayerNorm, Transformer};

use crate::ImageEncoderConfig;
use crate::config::NAMES;

#[derive(Module, Debug)]
struct VisionEmbeddings {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
}

#[derive(Module, Debug)]
struct VisionModel {
    embeddings: VisionEmbeddings,
    pre_layrnorm: LayerNorm,
    encoder: Transformer,
    post_layernorm: LayerNorm,
}

/// A vision transformer over the patches of a square picture; the state of the class token,
/// projected, is the picture's embedding (Radford et al. 2021).
#[derive(Module, Debug)]
pub struct ImageEncoder {
    vision_model: VisionModel,
    visual_projection: Linear,
    unit_length: bool,
}

impl StageConfig for ImageEncoderConfig {
    const STAGE: &'static str = "image_encoder";
    const KEYS: KeyMap = NAMES;
    type Network = ImageEncoder;

    fn validate(&self) -> Result<(), InvalidSetting> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        self.transformer.layers().within("transformer")
    }

    fn init(&self, device: &Device) -> ImageEncoder {
        self.init(device)
    }
}

impl ImageEncoderConfig {
    /// The tower, with fresh weights.
    pub fn init(&self, device: &Device) -> ImageEncoder {
        let d_model = self.transformer.d_model;
        let initializer = Initializer::Normal { mean: 0.0, std: 0.02 };
        ImageEncoder {
            vision_model: VisionModel {
                embeddings: VisionEmbeddings {
                    class_embedding: initializer.init([d_model], device),
                    patch_embedding: Conv2dConfig::new([3, d_model], [self.patch_size; 2])
                        .with_stride([self.patch_size; 2])
                        .with_bias(false)
                        .init(device),
                    position_embedding: EmbeddingConfig::new(self.tokens(), d_model)
                        .with_initializer(initializer)
                        .init(device),
                },
                pre_layrnorm: self.transformer.norm(device),
                encoder: self.transformer.init(device),
                post_layernorm: self.transformer.norm(device),
            },
            visual_projection: LinearConfig::new(d_model, self.d_embedding)
                .with_bias(false)
                .init(device),
            unit_length: self.unit_length,
        }
    }
}

impl ImageEncoder {
    /// Embeds a batch of pictures that [`preprocess`](crate::preprocess) has prepared.
    ///
    /// # Shapes
    /// - `pixels`: `[batch, 3, image_size, image_size]`, normalized
    pub fn forward(&self, pixels: Tensor<4>) -> ImageEmbedding {
        self.forward_told(pixels, None)
    }

    /// As [`forward`](Self::forward), with something that is added to the class token: what the
    /// tower is told of each picture, `[batch, d_model]`.
    pub(crate) fn forward_told(
        &self,
        pixels: Tensor<4>,
        told: Option<Tensor<2>>,
    ) -> ImageEmbedding {
        let model = &self.vision_model;
        let x = model.embed(pixels, told);
        let x = model.encoder.forward(model.pre_layrnorm.forward(x), None);
        let [batch, _, width] = x.dims();
        let class = x.narrow(1, 0, 1).reshape([batch, width]);
        let class = model.post_layernorm.forward(class);
        let embedding = linear(&self.visual_projection, class).cast(DType::F32);
        ImageEmbedding(if self.unit_length { normalize(embedding) } else { embedding })
    }
}

impl VisionModel {
    /// The class token, then the patches row by row, each with its position.
    fn embed(&self, pixels: Tensor<4>, told: Option<Tensor<2>>) -> Tensor<3> {
        let batch = pixels.dims()[0];
        let patches = patchify(pixels, &self.embeddings.patch_embedding);
        let width = patches.dims()[2];
        let class = self.embeddings.class_embedding.val().cast(patches.dtype());
        let class = class.reshape([1, 1, width]).expand([batch, 1, width]);
        let class = match told {
            Some(told) => class + told.unsqueeze_dim(1).cast(patches.dtype()),
            None => class,
        };
        let tokens = Tensor::cat(vec![class, patches], 1);
        let positions = self.embeddings.position_embedding.weight.val().cast(tokens.dtype());
        tokens + positions.unsqueeze::<3>()
    }
}

/// The patch convolution as one matrix product, which is what it is: its stride is its kernel.
fn patchify(pixels: Tensor<4>, layer: &Conv2d) -> Tensor<3> {
    let [batch, channels, height, width] = pixels.dims();
    let [d_model, _, patch, _] = layer.weight.dims();
    let [rows, columns] = [height / patch, width / patch];
    let patches = pixels
        .reshape([batch, channels, rows, patch, columns, patch])
        .permute([0, 2, 4, 1, 3, 5])
        .reshape([batch, rows * columns, channels * patch * patch]);
    let weight = working(&layer.weight).reshape([d_model, channels * patch * patch]).transpose();
    burn::tensor::module::linear(patches.cast(weight.dtype()), weight, None)
}

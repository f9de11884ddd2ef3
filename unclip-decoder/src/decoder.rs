//! The decoder: a U-Net under a condition.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use unclip_core::{ImageEmbedding, Network, Paired, TextEmbedding};
use unclip_nn::{UNet, Whitening};

use crate::{Bound, Condition, Conditioner, DecoderConfig};

/// Predicts a small picture from a noised one, its image embedding and its caption.
#[derive(Module, Debug)]
pub struct Decoder {
    text_proj: Conditioner,
    unet: UNet,
}

impl DecoderConfig {
    /// The decoder, with fresh weights.
    pub fn init(&self, device: &Device) -> Decoder {
        Decoder::new(Conditioner::new(self, device), self.unet.init(device))
    }
}

impl Decoder {
    /// Puts together parts that were loaded one by one.
    pub fn new(conditioner: Conditioner, unet: UNet) -> Self {
        Self { text_proj: conditioner, unet }
    }

    /// The same decoder for another CLIP, whose embeddings are whitened like this. Its
    /// configuration says `whitened`, and the whitening has a basis.
    pub fn with_whitening(self, whitening: Whitening) -> Self {
        Self { text_proj: self.text_proj.with_whitening(whitening), ..self }
    }

    /// Fixes a condition. All its projections are computed here, once for all steps.
    pub fn bind(&self, condition: &Condition) -> impl Network<4> + use<> {
        let Bound { emb, context, layout } = self.text_proj.forward(condition);
        let contexts = self.unet.read(&context);
        let unet = self.unet.clone();
        move |x_t: Tensor<4>, timesteps: Tensor<1>| {
            let x = match &layout {
                Some(layout) => Tensor::cat(vec![x_t, layout.clone()], 1),
                None => x_t,
            };
            unet.forward(x, unet.embed_time(timesteps) + emb.clone(), &contexts)
        }
    }

    /// Fixes the conditions of a guided call: the B given ones, then B times no image with the
    /// null caption.
    ///
    /// # Panics
    /// If the two batches differ in size.
    pub fn bind_pair(
        &self,
        given: &Condition,
        null: &TextEmbedding,
    ) -> Paired<impl Network<4> + use<>> {
        assert_eq!(given.text.batch(), null.batch(), "one null caption for each given one");
        let no_image = self.text_proj.null_image(null.batch());
        Paired(self.bind(&Condition {
            image: ImageEmbedding(Tensor::cat(vec![given.image.0.clone(), no_image.0], 0)),
            text: TextEmbedding::cat(vec![given.text.clone(), null.clone()]),
        }))
    }

    /// Replaces the image embedding by the learned null where `keep` is 0: condition dropout.
    ///
    /// # Shapes
    /// - `image`: `[batch, d_embedding]`
    /// - `keep`: `[batch, 1]`, 0 or 1
    pub fn drop_images(&self, image: &ImageEmbedding, keep: Tensor<2>) -> ImageEmbedding {
        let null = self.text_proj.null_image(image.0.dims()[0]);
        ImageEmbedding(null.0.clone() + (image.0.clone() - null.0) * keep)
    }
}

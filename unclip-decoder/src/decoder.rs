//! The decoder: a U-Net under a condition.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{Branched, DiffusionConfig, ImageEmbedding, InvalidSetting, Network, Stage};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::{UNet, Whitening};

use crate::{Bound, Condition, Conditioner, DecoderConfig, Null};

/// Predicts a small picture, or a latent, from a noised one, its image embedding and its caption.
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

/// Names of the conditioner's tensors in files. Those of the U-Net are those of the fields.
const NAMES: KeyMap = KeyMap::new(&[
    ("CaptionAndImage.null_image", "learned_classifier_free_guidance_embeddings"),
    ("CaptionAndImage.pooled_text_proj", "embedding_proj"),
    ("CaptionAndImage.text_tokens_proj", "encoder_hidden_states_proj"),
    ("CaptionAndImage.text_tokens_norm", "text_encoder_hidden_states_norm"),
    ("CaptionAndImage.image_tokens_proj", "clip_extra_context_tokens_proj"),
    ("CaptionAndImage.image_proj", "clip_image_embeddings_project_to_time_embeddings"),
    ("CaptionAndImage.", ""),
    // there, these are parts of the U-Net
    ("text_proj.ImageAlone.image_", "unet.add_embedding.image_"),
    ("text_proj.ImageAlone.tokens_proj", "unet.encoder_hid_proj.image_embeds"),
    ("text_proj.ImageAlone.tokens_norm", "unet.encoder_hid_proj.norm"),
]);

impl StageConfig for DecoderConfig {
    const STAGE: &'static str = "decoder";
    const KEYS: KeyMap = NAMES;
    type Network = Decoder;

    fn validate(&self) -> Result<(), InvalidSetting> {
        self.validate()
    }

    fn layers(&self) -> Layers {
        self.unet.layers().within("unet")
    }

    fn init(&self, device: &Device) -> Decoder {
        self.init(device)
    }
}

impl Stage<4> for DecoderConfig {
    type Network = Decoder;
    type Condition = Condition;
    type Null = Null;
    type Output = Tensor<4>;

    fn diffusion(&self) -> &DiffusionConfig {
        &self.diffusion
    }

    fn sample_shape(&self, condition: &Condition) -> [usize; 4] {
        let side = self.unet.image_size;
        [condition.image.batch(), self.channels, side, side]
    }

    fn bind(&self, decoder: &Decoder, condition: &Condition) -> Box<dyn Network<4>> {
        Box::new(decoder.bind(condition))
    }

    fn bind_pair(
        &self,
        decoder: &Decoder,
        given: &Condition,
        null: &Null,
    ) -> Branched<Box<dyn Network<4>>> {
        let both = Condition::cat(&[given, &decoder.null(given.image.batch(), null)]);
        Branched::new(self.bind(decoder, &both), 2)
    }

    /// Between the given condition and the null one: its picture with the null caption.
    fn bind_three(
        &self,
        decoder: &Decoder,
        given: &Condition,
        null: &Null,
    ) -> Branched<Box<dyn Network<4>>> {
        let none = decoder.null(given.image.batch(), null);
        let picture = Condition { image: given.image.clone(), text: none.text.clone() };
        let all = Condition::cat(&[given, &picture, &none]);
        Branched::new(self.bind(decoder, &all), 3)
    }

    fn output(&self, _: &Decoder, x_0: Tensor<4>) -> Tensor<4> {
        x_0
    }

    fn sample_of(&self, _: &Decoder, picture: &Tensor<4>) -> Tensor<4> {
        picture.clone()
    }

    fn preview(&self, x_0: &Tensor<4>) -> Option<Tensor<4>> {
        // the channels of latents are others, or say something else
        (self.channels == PICTURE_CHANNELS).then(|| x_0.clone())
    }
}

impl Decoder {
    /// Assembles parts that were loaded separately.
    pub fn new(conditioner: Conditioner, unet: UNet) -> Self {
        Self { text_proj: conditioner, unet }
    }

    /// The same decoder for another CLIP, whose embeddings this whitens. The configuration must say
    /// `whitened`, and the whitening needs a basis.
    pub fn with_whitening(self, whitening: Whitening) -> Self {
        Self { text_proj: self.text_proj.with_whitening(whitening), ..self }
    }

    /// Image embeddings as the decoder's layers read them: `[batch, d_embedding]`.
    pub fn whitened(&self, image: &ImageEmbedding) -> Tensor<2> {
        self.text_proj.whitened(image)
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

    /// The null condition of guidance, for a batch.
    ///
    /// # Panics
    /// If there is not one null caption, and one null image if there is any, for each row; without a
    /// null image, if the decoder has learned none.
    pub fn null(&self, batch: usize, null: &Null) -> Condition {
        let learned = || self.text_proj.null_image(batch);
        let image = null.image.clone().or_else(learned).expect("what guidance leads away from");
        let rows = [null.text.batch(), image.batch()];
        assert_eq!(rows, [batch; 2], "one null condition for each given one");
        Condition { image, text: null.text.clone() }
    }

    /// Replaces the image embedding by the learned null where `keep` is 0: condition dropout.
    ///
    /// # Shapes
    /// - `image`: `[batch, d_embedding]`
    /// - `keep`: `[batch, 1]`, 0 or 1
    ///
    /// # Panics
    /// If the decoder has learned no null image.
    pub fn drop_images(&self, image: &ImageEmbedding, keep: Tensor<2>) -> ImageEmbedding {
        let null = self.text_proj.null_image(image.0.dims()[0]).expect("a learned null image");
        ImageEmbedding(null.0.clone() + (image.0.clone() - null.0) * keep)
    }
}

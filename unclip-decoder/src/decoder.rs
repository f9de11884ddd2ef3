//! The decoder: a U-Net under a condition.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{Branched, DiffusionConfig, ImageEmbedding, InvalidSetting, Network, Stage};
use unclip_nn::checkpoint::{KeyMap, Layers, StageConfig};
use unclip_nn::{AnyUNet, LaionContext, UNet, Whitening};

use crate::{Bound, Condition, Conditioner, DecoderConfig, Null};

/// Predicts a small picture, or a latent, from a noised one, its image embedding and its caption.
#[derive(Module, Debug)]
pub struct Decoder {
    text_proj: Conditioner,
    unet: AnyUNet,
}

impl DecoderConfig {
    /// The decoder, with fresh weights.
    pub fn init(&self, device: &Device) -> Decoder {
        Decoder::new(Conditioner::new(self, device), self.unet.init(device))
    }
}

/// Names of the conditioner's tensors in files. Those of the U-Net are those of the fields.
const NAMES: KeyMap = KeyMap::new(&[
    ("unet.Adm.", "unet."),
    ("unet.Laion.", "unet."),
    ("text_proj.ReplacedCaption.", "unet."),
    ("CaptionAndImage.null_image", "learned_classifier_free_guidance_embeddings"),
    ("CaptionAndImage.pooled_text_proj", "embedding_proj"),
    ("CaptionAndImage.text_tokens_proj", "encoder_hidden_states_proj"),
    ("CaptionAndImage.text_tokens_norm", "text_encoder_hidden_states_norm"),
    ("CaptionAndImage.image_tokens_proj", "clip_extra_context_tokens_proj"),
    ("CaptionAndImage.image_proj", "clip_image_embeddings_project_to_time_embeddings"),
    ("CaptionAndImage.", ""),
    ("text_proj.NoisedImage.mean", "image_normalizer.mean"),
    ("text_proj.NoisedImage.std", "image_normalizer.std"),
    ("text_proj.NoisedImage.", "unet.class_embedding."),
    // there, these are parts of the U-Net
    ("text_proj.ClassAlone.", "unet."),
    ("text_proj.WholeCaption.pooled_", "unet.add_embedding.text_"),
    ("text_proj.WholeCaption.image_proj", "unet.add_embedding.image_proj"),
    ("text_proj.WholeCaption.image_tokens_proj", "unet.encoder_hid_proj.image_embeds"),
    ("text_proj.WholeCaption.text_tokens_proj", "unet.encoder_hid_proj.text_proj"),
    ("text_proj.ImageAlone.image_", "unet.add_embedding.image_"),
    ("text_proj.ImageAlone.tokens_proj", "unet.encoder_hid_proj.image_embeds"),
    ("text_proj.ImageAlone.tokens_norm", "unet.encoder_hid_proj.norm"),
    // every second number there is an activation's
    ("text_proj.ImageAlone.hint.convs.7.", "unet.add_embedding.input_hint_block.14."),
    ("text_proj.ImageAlone.hint.convs.6.", "unet.add_embedding.input_hint_block.12."),
    ("text_proj.ImageAlone.hint.convs.5.", "unet.add_embedding.input_hint_block.10."),
    ("text_proj.ImageAlone.hint.convs.4.", "unet.add_embedding.input_hint_block.8."),
    ("text_proj.ImageAlone.hint.convs.3.", "unet.add_embedding.input_hint_block.6."),
    ("text_proj.ImageAlone.hint.convs.2.", "unet.add_embedding.input_hint_block.4."),
    ("text_proj.ImageAlone.hint.convs.1.", "unet.add_embedding.input_hint_block.2."),
    ("text_proj.ImageAlone.hint.convs.0.", "unet.add_embedding.input_hint_block.0."),
]);

impl StageConfig for DecoderConfig {
    const STAGE: &'static str = "decoder";
    const KEYS: KeyMap = NAMES.then(AnyUNet::NAMES);
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
        let [height, width] = condition.sides.unwrap_or([self.unet.image_size(); 2]);
        [condition.rows, self.channels, height, width]
    }

    fn row_bytes(&self, [_, _, height, width]: [usize; 4]) -> usize {
        self.unet.row_bytes([height, width])
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
        Branched::new(Box::new(decoder.bind_with_null(given, null)), 2)
    }

    /// Between the given condition and the null one: its picture with the null caption.
    fn bind_three(
        &self,
        decoder: &Decoder,
        given: &Condition,
        null: &Null,
    ) -> Branched<Box<dyn Network<4>>> {
        let conditioner = &decoder.text_proj;
        let all = vec![
            conditioner.forward(given),
            conditioner.forward_picture(given, null),
            conditioner.forward_null(given, null),
        ];
        Branched::new(decoder.bind_read(Bound::cat(all)), 3)
    }

    /// A decoder of captions alone draws around what is kept; those of Kandinsky draw it as well.
    fn known(&self, condition: &Condition) -> Option<(Tensor<4>, Tensor<4>)> {
        let control = condition.control.as_ref().filter(|_| !self.reads_images())?;
        let mask = control.clone().narrow(1, self.channels, 1);
        Some((control.clone().narrow(1, 0, self.channels), mask))
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
    pub fn new(conditioner: Conditioner, unet: impl Into<AnyUNet>) -> Self {
        Self { text_proj: conditioner, unet: unet.into() }
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
        self.bind_read(self.text_proj.forward(condition))
    }

    /// The same of twice as many rows: those of the condition, then as many null ones.
    ///
    /// # Panics
    /// See [`Conditioner::forward_null`].
    pub fn bind_with_null(&self, given: &Condition, null: &Null) -> impl Network<4> + use<> {
        let conditioner = &self.text_proj;
        let both = vec![conditioner.forward(given), conditioner.forward_null(given, null)];
        self.bind_read(Bound::cat(both))
    }

    /// The same, of a condition that was read already.
    fn bind_read(&self, read: Bound) -> Box<dyn Network<4>> {
        match &self.unet {
            AnyUNet::Adm(unet) => Box::new(bind_adm(unet.clone(), read)),
            AnyUNet::Laion(unet) => {
                let (unet, Bound { emb, context, middle, .. }) = (unet.clone(), read);
                let tokens = context.map(|context| context.tokens);
                let read = LaionContext { emb, tokens, middle };
                Box::new(move |x_t: Tensor<4>, timesteps: Tensor<1>| {
                    unet.forward(x_t, timesteps, &read)
                })
            }
        }
    }

    /// The learned embedding that stands for no image, for a batch; `None` if there is no such thing.
    pub fn null_image(&self, batch: usize) -> Option<ImageEmbedding> {
        self.text_proj.null_image(batch)
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

/// A U-Net of ADM's family under a condition that was read already.
fn bind_adm(unet: UNet, read: Bound) -> impl Network<4> {
    let Bound { emb, context, layout, .. } = read;
    let contexts = context.map_or(Vec::new(), |context| unet.read(&context));
    move |x_t: Tensor<4>, timesteps: Tensor<1>| {
        let x = match &layout {
            Some(layout) => Tensor::cat(vec![x_t, layout.clone()], 1),
            None => x_t,
        };
        let time = unet.embed_time(timesteps);
        let emb = match &emb {
            Some(emb) => time.clone() + emb.clone().cast(time.dtype()),
            None => time,
        };
        unet.forward(x, emb, &contexts)
    }
}

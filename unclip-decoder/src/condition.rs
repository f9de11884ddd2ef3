//! What a decoder is conditioned on, and what it becomes.

use burn::tensor::{Bool, Tensor};
use unclip_core::{ImageEmbedding, NarrowRows, TextEmbedding};
use unclip_nn::Context;

/// What the user gives: what there is of an image embedding, a caption and a class for each picture.
/// A decoder ignores what it does not read.
#[derive(Debug, Clone)]
pub struct Condition {
    /// Number of pictures.
    pub rows: usize,
    /// What the picture shows, `[batch, d_embedding]`.
    pub image: Option<ImageEmbedding>,
    /// The caption, which the picture follows where the embedding leaves things open.
    pub text: Option<TextEmbedding>,
    /// Number of the class of things of which it shows one, for each picture (ADM).
    pub classes: Option<Vec<usize>>,
    /// What it is told of every pixel, of a decoder with a [`Control`](crate::Control): what is
    /// kept, 0 elsewhere, and a channel of 1 where it is kept, `[batch, channels + 1, height,
    /// width]`; or the hint, `[batch or 1, 3, 8 height, 8 width]` in [0, 1]. A decoder without ignores it.
    pub control: Option<Tensor<4>>,
    /// The noise of the image embedding, of a decoder with an
    /// [`Augmentation`](crate::Augmentation); level 0 and no noise if absent. A decoder without
    /// ignores it.
    pub image_noise: Option<ImageNoise>,
    /// Height and width of the sample; those of the configuration if absent.
    pub sides: Option<[usize; 2]>,
}

impl Condition {
    /// An image embedding and a caption, without control.
    ///
    /// # Panics
    /// If there is not one caption for each embedding.
    pub fn new(image: ImageEmbedding, text: TextEmbedding) -> Self {
        assert_eq!(image.batch(), text.batch(), "a caption for each embedding");
        Self { image: Some(image), ..Self::of_caption(text) }
    }

    /// An image embedding alone.
    pub fn of_image(image: ImageEmbedding) -> Self {
        Self { image: Some(image.clone()), ..Self::nothing(image.batch()) }
    }

    /// A caption alone.
    pub fn of_caption(text: TextEmbedding) -> Self {
        Self { text: Some(text.clone()), ..Self::nothing(text.batch()) }
    }

    /// A class for each picture.
    pub fn of_classes(classes: Vec<usize>) -> Self {
        Self { classes: Some(classes.clone()), ..Self::nothing(classes.len()) }
    }

    /// Nothing, for so many pictures.
    pub fn nothing(rows: usize) -> Self {
        let (control, image_noise, sides) = (None, None, None);
        Self { rows, image: None, text: None, classes: None, control, image_noise, sides }
    }

    /// The image embedding.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn image(&self) -> &ImageEmbedding {
        self.image.as_ref().expect("an image embedding, which this decoder reads")
    }

    /// The caption.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn text(&self) -> &TextEmbedding {
        self.text.as_ref().expect("a caption, which this decoder reads")
    }

    /// The same of every pixel, with another embedding and caption.
    #[must_use]
    pub(crate) fn with(&self, image: Option<ImageEmbedding>, text: Option<TextEmbedding>) -> Self {
        Self { image, text, ..self.clone() }
    }
}

impl NarrowRows for Condition {
    fn narrow(&self, start: usize, len: usize) -> Self {
        let noise = self.image_noise.as_ref().map(|it| ImageNoise {
            level: it.level,
            noise: it.noise.clone().narrow(0, start, len),
        });
        // one hint may be all rows'
        let control = self.control.as_ref().map(|control| match control.dims()[0] {
            1 => control.clone(),
            _ => control.clone().narrow(0, start, len),
        });
        Self {
            rows: len,
            image: self.image.as_ref().map(|image| image.narrow(start, len)),
            text: self.text.as_ref().map(|text| text.narrow(start, len)),
            classes: self.classes.as_ref().map(|all| all[start..start + len].to_vec()),
            control,
            image_noise: noise,
            sides: self.sides,
        }
    }
}

/// Noise of image embeddings.
#[derive(Debug, Clone)]
pub struct ImageNoise {
    /// Its level.
    pub level: usize,
    /// Standard normal noise, `[batch, d_embedding]`.
    pub noise: Tensor<2>,
}

/// What guidance leads away from.
#[derive(Debug, Clone)]
pub struct Null {
    /// The negative captions, one for each picture, of a decoder that reads captions.
    pub text: Option<TextEmbedding>,
    /// What the picture should not look like, one for each picture; the learned embedding that
    /// stands for no picture if absent. Decoders without such need it
    /// ([`DecoderConfig::needs_null_image`](crate::DecoderConfig::needs_null_image)).
    pub image: Option<ImageEmbedding>,
}

impl NarrowRows for Null {
    fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            text: self.text.as_ref().map(|text| text.narrow(start, len)),
            image: self.image.as_ref().map(|image| image.narrow(start, len)),
        }
    }
}

impl From<TextEmbedding> for Null {
    fn from(text: TextEmbedding) -> Self {
        Self { text: Some(text), image: None }
    }
}

/// A condition in the U-Net's terms.
#[derive(Debug, Clone, Default)]
pub struct Bound {
    /// Addition to the timestep embedding, `[batch, d_embedding of the U-Net]`, if there is any.
    pub emb: Option<Tensor<2>>,
    /// Image tokens, then text tokens, if there are any.
    pub context: Option<Context>,
    /// Tokens that the middle of the U-Net reads beside these, `[batch, seq, d_context]`, if there are
    /// such.
    pub middle: Option<Tensor<3>>,
    /// Channels that are concatenated to x_t, `[batch, channels, height, width]`, if there is a
    /// layout or a control.
    pub layout: Option<Tensor<4>>,
}

impl Bound {
    /// Concatenates several batches.
    ///
    /// # Panics
    /// If some have a part that others lack.
    #[must_use]
    pub fn cat(parts: Vec<Self>) -> Self {
        let (mut embs, mut tokens, mut masks, mut layouts) = (vec![], vec![], vec![], vec![]);
        let mut middles = vec![];
        let n = parts.len();
        for part in parts {
            embs.extend(part.emb);
            layouts.extend(part.layout);
            middles.extend(part.middle);
            if let Some(context) = part.context {
                tokens.push(context.tokens);
                masks.extend(context.mask);
            }
        }
        for (found, what) in [
            (embs.len(), "an addition"),
            (tokens.len(), "context"),
            (masks.len(), "a mask"),
            (layouts.len(), "a layout"),
            (middles.len(), "tokens of the middle"),
        ] {
            assert!([0, n].contains(&found), "all with {what}, or none");
        }
        let joined = |masks: Vec<Tensor<2, Bool>>| {
            let masks = masks.into_iter().map(|mask| mask.int()).collect();
            Tensor::cat(masks, 0).equal_elem(1)
        };
        let mask = (!masks.is_empty()).then(|| joined(masks));
        let context = |tokens| Context { tokens: Tensor::cat(tokens, 0), mask };
        Self {
            emb: (!embs.is_empty()).then(|| Tensor::cat(embs, 0)),
            context: (!tokens.is_empty()).then(|| context(tokens)),
            middle: (!middles.is_empty()).then(|| Tensor::cat(middles, 0)),
            layout: (!layouts.is_empty()).then(|| Tensor::cat(layouts, 0)),
        }
    }
}

//! What a decoder is conditioned on, and what it becomes.

use burn::tensor::{Bool, Tensor};
use unclip_core::{ImageEmbedding, TextEmbedding};
use unclip_nn::Context;

/// What the user gives: one image embedding and one caption for each picture.
#[derive(Debug, Clone)]
pub struct Condition {
    /// What the picture shows, `[batch, d_embedding]`; absent for a decoder that reads captions
    /// alone, which ignores it.
    pub image: Option<ImageEmbedding>,
    /// The caption, which the picture follows where the embedding leaves things open. A decoder that
    /// reads no captions ignores it.
    pub text: TextEmbedding,
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
    /// A condition without control.
    pub fn new(image: ImageEmbedding, text: TextEmbedding) -> Self {
        Self { image: Some(image), ..Self::of_caption(text) }
    }

    /// A condition for a decoder that reads captions alone.
    pub fn of_caption(text: TextEmbedding) -> Self {
        Self { image: None, text, control: None, image_noise: None, sides: None }
    }

    /// Number of pictures.
    pub fn batch(&self) -> usize {
        self.text.batch()
    }

    /// The image embedding.
    ///
    /// # Panics
    /// If there is none.
    pub(crate) fn image(&self) -> &ImageEmbedding {
        self.image.as_ref().expect("an image embedding, which this decoder reads")
    }

    /// The same of every pixel, with another embedding and caption.
    #[must_use]
    pub(crate) fn with(&self, image: Option<ImageEmbedding>, text: TextEmbedding) -> Self {
        Self { image, text, ..self.clone() }
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
    /// The negative captions, one for each picture.
    pub text: TextEmbedding,
    /// What the picture should not look like, one for each picture; the learned embedding that
    /// stands for no picture if absent. Decoders without such need it
    /// ([`DecoderConfig::needs_null_image`](crate::DecoderConfig::needs_null_image)).
    pub image: Option<ImageEmbedding>,
}

impl From<TextEmbedding> for Null {
    fn from(text: TextEmbedding) -> Self {
        Self { text, image: None }
    }
}

/// A condition in the U-Net's terms.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Addition to the timestep embedding, `[batch, d_embedding of the U-Net]`.
    pub emb: Tensor<2>,
    /// Image tokens, then text tokens.
    pub context: Context,
    /// Channels that are concatenated to x_t, `[batch, channels, height, width]`, if there is a
    /// layout or a control.
    pub layout: Option<Tensor<4>>,
}

impl Bound {
    /// Concatenates several batches.
    ///
    /// # Panics
    /// If some have a layout or a mask and others none.
    #[must_use]
    pub fn cat(parts: Vec<Self>) -> Self {
        let (mut emb, mut tokens, mut masks, mut layouts) = (vec![], vec![], vec![], vec![]);
        let n = parts.len();
        for part in parts {
            emb.push(part.emb);
            tokens.push(part.context.tokens);
            masks.extend(part.context.mask);
            layouts.extend(part.layout);
        }
        assert!([0, n].contains(&masks.len()), "all with a mask, or none");
        assert!([0, n].contains(&layouts.len()), "all with a layout, or none");
        let joined = |masks: Vec<Tensor<2, Bool>>| {
            let masks = masks.into_iter().map(|mask| mask.int()).collect();
            Tensor::cat(masks, 0).equal_elem(1)
        };
        Self {
            emb: Tensor::cat(emb, 0),
            context: Context {
                tokens: Tensor::cat(tokens, 0),
                mask: (!masks.is_empty()).then(|| joined(masks)),
            },
            layout: (!layouts.is_empty()).then(|| Tensor::cat(layouts, 0)),
        }
    }
}

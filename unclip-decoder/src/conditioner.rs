//! How a condition is read: there are decoders with and without captions.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use unclip_core::{ImageEmbedding, TextEmbedding};
use unclip_nn::Whitening;

use crate::caption_alone::CaptionAlone;
use crate::caption_and_image::CaptionAndImage;
use crate::class_alone::ClassAlone;
use crate::image_alone::ImageAlone;
use crate::noised_image::NoisedImage;
use crate::replaced_caption::ReplacedCaption;
use crate::whole_caption::WholeCaption;
use crate::{Bound, CaptionKind, Condition, DecoderConfig, Null};

/// Turns a [`Condition`] into a [`Bound`].
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a whole network")]
pub enum Conditioner {
    /// Of a decoder that reads captions.
    CaptionAndImage(CaptionAndImage),
    /// Of one that does not.
    ImageAlone(ImageAlone),
    /// Of one that reads captions, and embeddings with noise.
    NoisedImage(NoisedImage),
    /// Of one that reads captions with their padding.
    WholeCaption(WholeCaption),
    /// Of one that reads nothing else.
    CaptionAlone(CaptionAlone),
    /// Of one that reads classes, or nothing at all.
    ClassAlone(ClassAlone),
    /// Of one that has learned what stands for none of what it reads.
    ReplacedCaption(ReplacedCaption),
}

impl Conditioner {
    /// A conditioner with fresh weights.
    pub fn new(config: &DecoderConfig, device: &Device) -> Self {
        let d_text = config.d_text.unwrap_or(1);
        match (config.captions, config.augmentation) {
            (_, Some(noise)) => Self::NoisedImage(NoisedImage::new(config, noise, device)),
            (CaptionKind::Masked, None) if config.reads_captions() => {
                Self::CaptionAndImage(CaptionAndImage::new(config, d_text, device))
            }
            (CaptionKind::Masked, None) => Self::ImageAlone(ImageAlone::new(config, device)),
            (CaptionKind::Whole, None) => {
                Self::WholeCaption(WholeCaption::new(config, d_text, device))
            }
            (CaptionKind::Alone, None) => Self::CaptionAlone(CaptionAlone::default()),
            (CaptionKind::Classes(n), None) => {
                Self::ClassAlone(ClassAlone::new(n, config.unet.d_embedding(), device))
            }
            (CaptionKind::Replaced { positions }, None) => {
                Self::ReplacedCaption(ReplacedCaption::new(config, positions, device))
            }
        }
    }

    /// The same conditioner for a CLIP whose embeddings this whitens. The null image starts as
    /// their mean, which is zero once whitened.
    ///
    /// # Panics
    /// Of a decoder that does not whiten.
    #[must_use]
    pub fn with_whitening(self, whitening: Whitening) -> Self {
        match self {
            Self::CaptionAndImage(both) => Self::CaptionAndImage(both.with_whitening(whitening)),
            _ => panic!("a decoder that whitens"),
        }
    }

    /// Embeddings in the form that everything here reads: `[batch, d_embedding]`.
    pub fn whitened(&self, image: &ImageEmbedding) -> Tensor<2> {
        match self {
            Self::CaptionAndImage(both) => both.whitened(image),
            _ => image.0.clone(),
        }
    }

    /// The learned embedding that stands for no image, for a batch: `[batch, d_embedding]`. `None`
    /// if there is no such thing: what guidance leads away from is then given.
    pub fn null_image(&self, batch: usize) -> Option<ImageEmbedding> {
        match self {
            Self::CaptionAndImage(both) => Some(both.null_image(batch)),
            _ => None,
        }
    }

    /// Projects a condition. Nothing here depends on the timestep.
    pub fn forward(&self, condition: &Condition) -> Bound {
        match self {
            Self::CaptionAndImage(both) => both.forward(condition),
            Self::ImageAlone(alone) => alone.forward(condition),
            Self::NoisedImage(noised) => noised.forward(condition),
            Self::WholeCaption(whole) => whole.forward(condition),
            Self::CaptionAlone(alone) => alone.forward(condition),
            Self::ClassAlone(alone) => alone.forward(condition),
            Self::ReplacedCaption(replaced) => replaced.forward(condition),
        }
    }

    /// Projects a condition without its caption: between the given one and the null one.
    pub(crate) fn forward_picture(&self, given: &Condition, null: &Null) -> Bound {
        match self {
            Self::ReplacedCaption(replaced) => {
                replaced.read(given.image.as_ref(), None, given.rows)
            }
            _ => self.forward(&given.with(given.image.clone(), null.text.clone())),
        }
    }

    /// Projects the null condition of guidance beside a given one: what is told of every pixel is the
    /// same.
    ///
    /// # Panics
    /// If there is not one null caption, and one null image if there is any, for each row; without a
    /// null image, if the decoder has learned none and needs one.
    pub fn forward_null(&self, given: &Condition, null: &Null) -> Bound {
        let rows = given.rows;
        let captions = null.text.as_ref().map_or(rows, TextEmbedding::batch);
        let images = null.image.as_ref().map_or(rows, ImageEmbedding::batch);
        assert_eq!([captions, images], [rows; 2], "one null condition for each given one");
        if let Self::NoisedImage(noised) = self {
            return noised.forward_null(given, null);
        }
        if let Self::ReplacedCaption(replaced) = self {
            return replaced.read(null.image.as_ref(), None, rows);
        }
        let image = null.image.clone().or_else(|| self.null_image(rows));
        // one that needs it and has none says so
        self.forward(&given.with(image, null.text.clone()))
    }
}

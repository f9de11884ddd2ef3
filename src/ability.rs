//! What a model can do, as a value.

use std::fmt;

use unclip_decoder::Control;

use crate::Bundle;

/// Something that models of this family do, though not every one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Ability {
    /// Pictures of captions.
    TextToImage,
    /// Pictures of things of a class; a caption names it.
    ClassToImage,
    /// Pictures of the one kind of things that the model knows, for the empty caption.
    Unconditional,
    /// Pictures of pictures, and whatever begins with one: inversion, interpolation, mixtures.
    ImageVariation,
    /// A caption that the decoder reads beside a picture.
    CaptionBesidePicture,
    /// How well pictures and captions go together, by CLIP.
    Similarity,
    /// Parts of a picture drawn anew by a decoder that was trained for it. Others do it by resampling.
    TrainedInpainting,
    /// Pictures that follow another one, such as a depth map; they need one.
    Hint,
    /// Noise in image embeddings, at a level.
    NoiseLevel,
    /// Pictures of other sizes than the model's own.
    OtherSizes,
    /// Pictures of the first components of an embedding.
    Probing,
    /// Guidance by the model's own CLIP, with the feature `autodiff`.
    ClipGuidance,
    /// Guidance by the model's own classifier, with the feature `autodiff`.
    ClassifierGuidance,
}

impl Ability {
    /// Every ability.
    pub const ALL: [Self; 13] = [
        Self::TextToImage,
        Self::ClassToImage,
        Self::Unconditional,
        Self::ImageVariation,
        Self::CaptionBesidePicture,
        Self::Similarity,
        Self::TrainedInpainting,
        Self::Hint,
        Self::NoiseLevel,
        Self::OtherSizes,
        Self::Probing,
        Self::ClipGuidance,
        Self::ClassifierGuidance,
    ];
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TextToImage => "text to image",
            Self::ClassToImage => "class to image",
            Self::Unconditional => "pictures of one kind",
            Self::ImageVariation => "image variation",
            Self::CaptionBesidePicture => "caption beside a picture",
            Self::Similarity => "similarity of pictures and captions",
            Self::TrainedInpainting => "trained inpainting",
            Self::Hint => "pictures that follow a hint",
            Self::NoiseLevel => "noise in embeddings",
            Self::OtherSizes => "other sizes",
            Self::Probing => "probing",
            Self::ClipGuidance => "guidance by CLIP",
            Self::ClassifierGuidance => "guidance by a classifier",
        })
    }
}

impl Bundle {
    /// What the model can do, in the order of [`Ability::ALL`].
    ///
    /// # Example
    /// ```
    /// # #[cfg(feature = "bundled")] {
    /// use unclip::{Ability, Bundle};
    ///
    /// let bundle = Bundle::shapes()?;
    /// assert!(bundle.can(Ability::TextToImage) && !bundle.can(Ability::OtherSizes));
    /// # }
    /// # Ok::<(), unclip::Error>(())
    /// ```
    pub fn abilities(&self) -> Vec<Ability> {
        Ability::ALL.into_iter().filter(|it| self.can(*it)).collect()
    }

    /// Whether the model has an ability.
    pub fn can(&self, ability: Ability) -> bool {
        let has_image_encoder = self.image_encoder.is_some();
        let decoder = self.decoder.config();
        let has_variations = has_image_encoder && decoder.reads_images();
        match ability {
            Ability::TextToImage => {
                let has_prior = self.prior.is_some() || self.ar_prior.is_some();
                has_prior || (!decoder.reads_images() && decoder.reads_captions())
            }
            Ability::ClassToImage => {
                let own = decoder.classes().unwrap_or(0);
                own > 0 || self.can(Ability::ClassifierGuidance)
            }
            Ability::Unconditional => decoder.classes() == Some(0),
            Ability::ClassifierGuidance => self.classifier.is_some() && cfg!(feature = "autodiff"),
            Ability::ImageVariation => has_variations,
            Ability::CaptionBesidePicture => has_variations && decoder.reads_captions(),
            Ability::Similarity => has_image_encoder && self.clip_text().is_ok(),
            Ability::TrainedInpainting => self.control() == Some(Control::Kept),
            Ability::Hint => self.control() == Some(Control::Hint),
            Ability::NoiseLevel => decoder.augmentation.is_some(),
            Ability::OtherSizes => self.size_multiple().is_some(),
            Ability::Probing => {
                let prior = self.prior.as_ref().map(|it| it.config());
                has_image_encoder && prior.is_some_and(|it| it.principal_components)
            }
            Ability::ClipGuidance => {
                let has_tower = has_image_encoder || self.noised_image_encoder.is_some();
                let has_tower = has_tower && self.clip_text().is_ok();
                has_tower && self.autoencoder.is_none() && cfg!(feature = "autodiff")
            }
        }
    }
}

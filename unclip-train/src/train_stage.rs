//! The stages of the shapes model, by name.

use crate::{TrainSettings, recipe};

/// A stage of the shapes model, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainStage {
    /// Both towers of CLIP, and the vocabulary.
    Clip,
    /// The diffusion prior; needs CLIP.
    Prior,
    /// The autoregressive prior; needs CLIP.
    ArPrior,
    /// CLIP's image tower for noised pictures, which guides the decoder; needs CLIP.
    Noised,
    /// The decoder; needs CLIP.
    Decoder,
    /// An upsampler, by its place in the cascade; needs no other stage.
    Upsampler(usize),
}

impl TrainStage {
    /// Every stage, in an order in which they can be trained.
    pub const ALL: [Self; 7] = [
        Self::Clip,
        Self::Prior,
        Self::ArPrior,
        Self::Noised,
        Self::Decoder,
        Self::Upsampler(0),
        Self::Upsampler(1),
    ];

    /// Its name, as the command line and folders spell it.
    pub fn name(self) -> String {
        match self {
            Self::Clip => "clip".into(),
            Self::Prior => "prior".into(),
            Self::ArPrior => "ar_prior".into(),
            Self::Noised => "noised_image_encoder".into(),
            Self::Decoder => "decoder".into(),
            Self::Upsampler(place) => format!("upsampler.{place}"),
        }
    }

    /// How the recipe trains it, for as many steps as it says or for others.
    pub fn settings(self, steps: Option<u64>, seed: u64) -> TrainSettings {
        let steps_or = |recipe: u64| steps.unwrap_or(recipe);
        match self {
            Self::Clip => recipe::clip_training(steps_or(recipe::CLIP_STEPS), seed),
            Self::Prior => recipe::prior_training(steps_or(recipe::PRIOR_STEPS), seed),
            Self::ArPrior => recipe::ar_prior_training(steps_or(recipe::AR_PRIOR_STEPS), seed),
            Self::Noised => recipe::noised_training(steps_or(recipe::NOISED_STEPS), seed),
            Self::Decoder => recipe::decoder_training(steps_or(recipe::DECODER_STEPS), seed),
            Self::Upsampler(_) => {
                recipe::upsampler_training(steps_or(recipe::UPSAMPLER_STEPS), seed)
            }
        }
    }
}

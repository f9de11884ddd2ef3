//! The stages of a model, by name.

/// A stage of a model, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainStage {
    /// Both towers of CLIP, and the vocabulary.
    Clip,
    /// What CLIP says of the data, computed once; needs CLIP.
    Embeddings,
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
    /// Its name, as the command line and folders spell it.
    pub fn name(self) -> String {
        match self {
            Self::Clip => "clip".into(),
            Self::Embeddings => "embeddings".into(),
            Self::Prior => "prior".into(),
            Self::ArPrior => "ar_prior".into(),
            Self::Noised => "noised_image_encoder".into(),
            Self::Decoder => "decoder".into(),
            Self::Upsampler(place) => format!("upsampler.{place}"),
        }
    }
}

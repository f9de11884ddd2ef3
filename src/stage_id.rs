//! Names of stages, spelled the same everywhere.

use std::fmt;
use std::str::FromStr;

use unclip_core::InvalidSetting;

/// The noise stream of the noise in image embeddings ([`Augmentation`](crate::decoder::Augmentation)).
pub(crate) const AUGMENTATION_STREAM: u64 = u64::MAX - 1;

/// A stage of the pipeline. Model folders, traces, recorded noise, costs, progress and errors all
/// spell it the same: `text_encoder`, `prior_text_encoder`, `image_encoder`, `noised_image_encoder`,
/// `prior`, `ar_prior`, `classifier`, `decoder`, `autoencoder`, `upsampler_text_encoder.0`, `upsampler.0`, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StageId {
    /// Captions to text embeddings, in one call.
    TextEncoder,
    /// Captions to CLIP's text embeddings for the prior, of a model whose decoder has a tower of its
    /// own.
    PriorTextEncoder,
    /// Pictures to image embeddings, in one call.
    ImageEncoder,
    /// Noised pictures to image embeddings, for guidance.
    NoisedImageEncoder,
    /// Text embeddings to image embeddings, by diffusion.
    Prior,
    /// The same, code by code.
    ArPrior,
    /// Noised pictures to classes, for guidance.
    Classifier,
    /// Image embeddings to small pictures, or to latents.
    Decoder,
    /// Latents to pictures and back, in one call.
    Autoencoder,
    /// Captions to what the upsampler of this place reads of them, in one call.
    UpsamplerTextEncoder(usize),
    /// Small pictures to larger ones, with its place in the cascade, from 0.
    Upsampler(usize),
}

impl StageId {
    /// The noise stream of a stage: each has its own, so that the steps of one do not change the
    /// noise of the next.
    pub(crate) fn noise_stream(self) -> u64 {
        match self {
            Self::TextEncoder
            | Self::PriorTextEncoder
            | Self::ImageEncoder
            | Self::NoisedImageEncoder
            | Self::Classifier
            | Self::UpsamplerTextEncoder(_)
            | Self::Autoencoder => 0,
            Self::Prior => 1,
            Self::Decoder => 2,
            Self::ArPrior => u64::MAX,
            Self::Upsampler(place) => 3 + place as u64,
        }
    }
}

impl fmt::Display for StageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TextEncoder => f.pad("text_encoder"),
            Self::PriorTextEncoder => f.pad("prior_text_encoder"),
            Self::ImageEncoder => f.pad("image_encoder"),
            Self::NoisedImageEncoder => f.pad("noised_image_encoder"),
            Self::Prior => f.pad("prior"),
            Self::ArPrior => f.pad("ar_prior"),
            Self::Classifier => f.pad("classifier"),
            Self::Decoder => f.pad("decoder"),
            Self::Autoencoder => f.pad("autoencoder"),
            Self::UpsamplerTextEncoder(place) => f.pad(&format!("upsampler_text_encoder.{place}")),
            Self::Upsampler(place) => f.pad(&format!("upsampler.{place}")),
        }
    }
}

impl FromStr for StageId {
    type Err = InvalidSetting;

    fn from_str(name: &str) -> Result<Self, InvalidSetting> {
        let expected = "text_encoder, prior_text_encoder, image_encoder, noised_image_encoder, prior, \
                        ar_prior, classifier, decoder, autoencoder, upsampler_text_encoder.N or upsampler.N";
        let refused = || InvalidSetting::new("stage", format!("{name:?}"), expected);
        Ok(match name {
            "text_encoder" => Self::TextEncoder,
            "prior_text_encoder" => Self::PriorTextEncoder,
            "image_encoder" => Self::ImageEncoder,
            "prior" => Self::Prior,
            "noised_image_encoder" => Self::NoisedImageEncoder,
            "ar_prior" => Self::ArPrior,
            "classifier" => Self::Classifier,
            "decoder" => Self::Decoder,
            "autoencoder" => Self::Autoencoder,
            _ => {
                let place = |before| name.strip_prefix(before).and_then(|n: &str| n.parse().ok());
                let text = place("upsampler_text_encoder.").map(Self::UpsamplerTextEncoder);
                text.or(place("upsampler.").map(Self::Upsampler)).ok_or_else(refused)?
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_and_others_are_refused() {
        let encoders = [
            StageId::TextEncoder,
            StageId::PriorTextEncoder,
            StageId::ImageEncoder,
            StageId::NoisedImageEncoder,
        ];
        let others = [
            StageId::Prior,
            StageId::ArPrior,
            StageId::Classifier,
            StageId::Decoder,
            StageId::Autoencoder,
        ];
        let upsamplers = [0, 1, 12].map(StageId::Upsampler);
        let texts = [0, 12].map(StageId::UpsamplerTextEncoder);
        for stage in encoders.into_iter().chain(others).chain(upsamplers).chain(texts) {
            assert_eq!(stage.to_string().parse::<StageId>().unwrap(), stage);
        }
        for name in ["", "clip", "upsampler", "upsampler.", "upsample.1", "upsampler.-1"] {
            let error = name.parse::<StageId>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("stage is {name:?}, expected text_enc")), "{error}");
        }
    }
}

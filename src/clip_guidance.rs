//! Guidance toward the caption by the model's own CLIP.

use serde::{Deserialize, Serialize};
use unclip_core::{InvalidSetting, check_guidance_scale};

use crate::{Bundle, Error};

/// How the decoder is guided toward the caption by CLIP: along the gradient of CLIP's score, the
/// cosine times the logit scale (GLIDE, Nichol et al. 2021, section 2.3).
///
/// The model's CLIP was trained on clean pictures, so it sees the decoder's estimate of the clean
/// picture. It needs the feature `autodiff`, and holds the image encoder beside the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipGuidance {
    /// How strongly; 0 is none.
    pub scale: f64,
    /// Whether the gradient goes through the decoder, as it should; every layer's values of one
    /// call are then kept until it is taken. Otherwise the estimate is taken for the noisy picture,
    /// which costs less.
    pub through_decoder: bool,
}

impl ClipGuidance {
    pub(crate) fn check(self, bundle: &Bundle) -> Result<(), Error> {
        check_guidance_scale("CLIP guidance", self.scale)?;
        if !cfg!(feature = "autodiff") {
            let expected = "absent: this build has no gradients; build with `--features autodiff`";
            return Err(InvalidSetting::new("CLIP guidance", self.scale, expected).into());
        }
        bundle.image_encoder().map(drop)
    }
}

#[cfg(feature = "autodiff")]
mod gradient {
    use burn::module::Module;
    use burn::tensor::Tensor;
    use unclip_clip::{ImageEncoder, ImageEncoderConfig, standardize};
    use unclip_core::resize::bicubic;
    use unclip_core::{
        Denoiser, Guide, Reading, Score, Scored, Stage, Steering, Step, TextEmbedding, normalize,
    };
    use unclip_decoder::{Condition, DecoderConfig, Null};

    use super::ClipGuidance;
    use crate::{Bound, Error, Run};

    /// How much pictures are like their captions, according to CLIP.
    struct Likeness<'a> {
        config: &'a ImageEncoderConfig,
        encoder: ImageEncoder,
        /// Directions of the captions: `[batch, d_embedding]`.
        captions: Tensor<2>,
        logit_scale: f64,
    }

    impl Score<4> for Likeness<'_> {
        fn score(&self, pictures: Tensor<4>, _: &Step) -> Tensor<1> {
            let side = self.config.image_size;
            let pictures = bicubic(pictures, side, side);
            let image = normalize(self.encoder.forward(standardize(self.config, pictures)).0);
            let cosines = (image * self.captions.clone()).sum_dim(1);
            let batch = cosines.dims()[0];
            cosines.reshape([batch]) * self.logit_scale
        }
    }

    impl<'a> Run<'a> {
        /// Lets CLIP steer a bound decoder.
        pub(crate) fn steer(
            &self,
            mut bound: Bound<'a, DecoderConfig, 4>,
            (condition, null): (&Condition, Option<&Null>),
            (guidance, to): (ClipGuidance, &TextEmbedding),
        ) -> Result<Bound<'a, DecoderConfig, 4>, Error> {
            let slot = self.bundle.image_encoder()?;
            let (encoder, _) = slot.network(self.placement)?;
            let score = Likeness {
                config: slot.config(),
                encoder: encoder.train(),
                captions: normalize(to.pooled.clone()),
                logit_scale: self.bundle.text_encoder.config().logit_scale,
            };
            let (inner, reading): (Box<dyn Denoiser<4>>, _) = if guidance.through_decoder {
                let settings = &bound.settings;
                let guide = null.map(|null| Guide {
                    null,
                    scale: settings.guidance_scale,
                    image_scale: settings.image_guidance,
                    within: settings.guidance_range,
                });
                let dynamic_threshold = settings.dynamic_threshold;
                let steering = Steering { guide, dynamic_threshold };
                let network = bound.network.clone().train();
                (bound.config.denoiser(&network, condition, steering), Reading::Denoised)
            } else {
                (bound.denoiser, Reading::Estimate)
            };
            let scores: Vec<(Box<dyn Score<4> + 'a>, f64)> =
                vec![(Box::new(score), guidance.scale)];
            bound.denoiser = Box::new(Scored { inner, scores, reading });
            Ok(bound)
        }
    }
}

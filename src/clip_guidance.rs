//! Guidance toward the caption by the model's own CLIP.

use serde::{Deserialize, Serialize};
use unclip_core::{InvalidSetting, check_guidance_scale};

use crate::{Bundle, Error, StageId};

/// How the decoder is guided toward the caption by CLIP: along the gradient of CLIP's score, the
/// logarithm of the caption's odds (GLIDE, Nichol et al. 2021, section 2.3). It needs the feature
/// `autodiff`, and holds an image encoder beside the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipGuidance {
    /// How strongly; 0 is none.
    pub scale: f64,
    /// What CLIP sees, and what the gradient goes through.
    pub gradient: ClipGradient,
}

/// What CLIP sees of a noisy picture, and what its gradient goes through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClipGradient {
    /// The decoder's estimate of the clean picture, through the decoder: for any CLIP. Every
    /// layer's values of one call are kept until the gradient is taken.
    #[default]
    Decoder,
    /// The same estimate, through CLIP alone, which costs less; see
    /// [`Reading::Estimate`](unclip_core::Reading).
    Estimate,
    /// The noisy picture itself, by a tower that was trained on such, if the model has one
    /// ([`NoisedImageEncoder`](unclip_clip::NoisedImageEncoder)).
    Noised,
}

impl ClipGradient {
    /// The stage that sees.
    pub(crate) fn stage(self) -> StageId {
        match self {
            Self::Decoder | Self::Estimate => StageId::ImageEncoder,
            Self::Noised => StageId::NoisedImageEncoder,
        }
    }
}

impl ClipGuidance {
    pub(crate) fn check(self, bundle: &Bundle) -> Result<(), Error> {
        check_guidance_scale("CLIP guidance", self.scale)?;
        bundle.expect_no_latents("model for CLIP guidance")?;
        if bundle.prior_text.is_some() || bundle.clip_text().is_err() {
            let expected = "absent: captions of this model's decoder are not CLIP's";
            return Err(InvalidSetting::new("CLIP guidance", self.scale, expected).into());
        }
        if !cfg!(feature = "autodiff") {
            let expected = "absent: this build has no gradients; build with `--features autodiff`";
            return Err(InvalidSetting::new("CLIP guidance", self.scale, expected).into());
        }
        match self.gradient {
            ClipGradient::Noised => bundle.noised_image_encoder().map(drop),
            ClipGradient::Decoder | ClipGradient::Estimate => bundle.image_encoder().map(drop),
        }
    }
}

/// Checks the captions among which CLIP is to choose.
pub(crate) fn check_choices(
    bundle: &Bundle,
    guidance: Option<ClipGuidance>,
    captions: &[String],
) -> Result<(), Error> {
    const NAME: &str = "captions to choose from";
    if captions.is_empty() {
        return Ok(());
    }
    if guidance.is_none() {
        let expected = "none: without CLIP guidance there is nothing to choose";
        return Err(InvalidSetting::new(NAME, format!("{captions:?}"), expected).into());
    }
    let tokens = bundle.text()?.tokenizer.encode(captions);
    match (0..captions.len()).find(|&row| tokens.dropped(row).is_some()) {
        Some(row) => {
            let expected = "captions that fit into the model's context whole";
            Err(InvalidSetting::new(NAME, format!("{:?}", captions[row]), expected).into())
        }
        None => Ok(()),
    }
}

#[cfg(feature = "autodiff")]
mod gradient {
    use burn::module::Module;
    use burn::tensor::Tensor;
    use burn::tensor::activation::log_softmax;
    use unclip_clip::{ImageEncoder, ImageEncoderConfig, NoisedImageEncoder, standardize};
    use unclip_core::resize::bicubic;
    use unclip_core::{
        Denoiser, Guide, Reading, Score, Scored, Stage, Steering, Step, TextEmbedding, normalize,
    };
    use unclip_decoder::{Condition, DecoderConfig, Null};

    use super::{ClipGradient, ClipGuidance};
    use crate::{Bound, Error, Run};

    /// What captions CLIP compares pictures with: directions, one row each.
    struct Captions {
        own: Tensor<2>,
        others: Option<Tensor<2>>,
    }

    impl Captions {
        /// What CLIP says of the own captions, or how probable they are among the others too.
        ///
        /// # Shapes
        /// - `image`: `[batch, d_embedding]`, whose products with captions are log-odds
        fn score(&self, image: Tensor<2>) -> Tensor<1> {
            let [batch, _] = image.dims();
            let own = (image.clone() * self.own.clone()).sum_dim(1);
            let score = match &self.others {
                None => own,
                Some(others) => {
                    let all = Tensor::cat(vec![own, image.matmul(others.clone().transpose())], 1);
                    log_softmax(all, 1).narrow(1, 0, 1)
                }
            };
            score.reshape([batch])
        }
    }

    /// Clean pictures as CLIP sees them.
    struct Clean<'a> {
        config: &'a ImageEncoderConfig,
        encoder: ImageEncoder,
        captions: Captions,
        logit_scale: f64,
    }

    impl Score<4> for Clean<'_> {
        fn score(&self, pictures: Tensor<4>, _: &Step) -> Tensor<1> {
            let side = self.config.image_size;
            let pictures = bicubic(pictures, side, side);
            let image = normalize(self.encoder.forward(standardize(self.config, pictures)).0);
            self.captions.score(image * self.logit_scale)
        }
    }

    /// Noisy pictures as a tower sees them that was trained on such.
    struct Noisy {
        encoder: NoisedImageEncoder,
        captions: Captions,
    }

    impl Score<4> for Noisy {
        fn score(&self, x_t: Tensor<4>, step: &Step) -> Tensor<1> {
            let [batch, ..] = x_t.dims();
            let timesteps = Tensor::full([batch], step.timestep as f32, &x_t.device());
            self.captions.score(self.encoder.forward(x_t, timesteps).0)
        }
    }

    impl<'a> Run<'a> {
        /// Lets CLIP steer a bound decoder toward captions, away from others if there are any.
        pub(crate) fn steer(
            &self,
            mut bound: Bound<'a, DecoderConfig, 4>,
            (condition, null): (&Condition, Option<&Null>),
            guidance: ClipGuidance,
            (to, against): (&TextEmbedding, Option<&TextEmbedding>),
        ) -> Result<Bound<'a, DecoderConfig, 4>, Error> {
            let captions = Captions {
                own: normalize(to.pooled.clone()),
                others: against.map(|others| normalize(others.pooled.clone())),
            };
            let (reading, score): (_, Box<dyn Score<4> + 'a>) = match guidance.gradient {
                ClipGradient::Noised => {
                    let slot = self.bundle.noised_image_encoder()?;
                    let (encoder, _) = slot.network(self.placement)?;
                    (Reading::Noisy, Box::new(Noisy { encoder: encoder.train(), captions }))
                }
                ClipGradient::Decoder => (Reading::Denoised, self.clean(captions)?),
                ClipGradient::Estimate => (Reading::Estimate, self.clean(captions)?),
            };
            let inner = match reading {
                Reading::Denoised => differentiable(&bound, condition, null),
                Reading::Noisy | Reading::Estimate => bound.denoiser,
            };
            let scores = vec![(score, guidance.scale)];
            bound.denoiser = Box::new(Scored { inner, scores, reading });
            Ok(bound)
        }

        fn clean(&self, captions: Captions) -> Result<Box<dyn Score<4> + 'a>, Error> {
            let slot = self.bundle.image_encoder()?;
            let (encoder, _) = slot.network(self.placement)?;
            Ok(Box::new(Clean {
                config: slot.config(),
                encoder: encoder.train(),
                captions,
                logit_scale: self.bundle.clip_text()?.encoder.config().logit_scale,
            }))
        }
    }

    /// The same decoder under the same condition, where gradients go through it.
    fn differentiable(
        bound: &Bound<'_, DecoderConfig, 4>,
        condition: &Condition,
        null: Option<&Null>,
    ) -> Box<dyn Denoiser<4>> {
        let settings = &bound.settings;
        let guide = null.map(|null| Guide {
            null,
            scale: settings.guidance_scale,
            image_scale: settings.image_guidance,
            within: settings.guidance_range,
        });
        let steering = Steering { guide, dynamic_threshold: settings.dynamic_threshold };
        bound.config.denoiser(&bound.network.clone().train(), condition, steering)
    }
}

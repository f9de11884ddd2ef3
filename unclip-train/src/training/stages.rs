//! What each stage of a plan takes.

use std::fs;
use std::path::Path;

use unclip_clip::{ImageEncoderConfig, NoisedImageEncoderConfig, TextEncoderConfig};
use unclip_core::{ImageEmbedding, InvalidSetting};
use unclip_decoder::DecoderConfig;
use unclip_nn::checkpoint::{StageFiles, save_stage, write_whole};
use unclip_nn::{Precision, Whitening};
use unclip_prior::{ArPriorConfig, DiffusionPriorConfig};
use unclip_upsample::UpsamplerConfig;

use super::Training;
use super::ready::{ClipConfigs, Ready};
use crate::objective::{
    ArPriorObjective, ClipObjective, ClipTowers, DecoderObjective, DecoderOptions, FrozenClip,
    NoisedObjective, PriorObjective, UpsamplerObjective,
};
use crate::plan::{ClipPlan, absent};
use crate::train_stage::TrainStage;
use crate::typical::{fingerprint, typical_embeddings, typical_pairs, with_longer_embeddings};
use crate::{TrainError, TrainSettings, Trainer, silenced, whitening_towards};

/// The file that says after which step CLIP was written into the bundle.
const WRITTEN: &str = "written";

impl Training {
    pub(super) fn clip_towers(
        &self,
        settings: &TrainSettings,
    ) -> Result<Ready<ClipObjective, ClipConfigs>, TrainError> {
        let source = self.source(settings);
        if source.data.items() == Some(1) {
            let expected = "at least two pictures: CLIP learns by telling them apart";
            return Err(InvalidSetting::new("data", "one picture", expected).into());
        }
        self.prepare_vocabulary(source.data.as_ref())?;
        let tokenizer = self.tokenizer()?;
        let ClipPlan { text, image, worn, .. } = self.plan.clip.clone();
        let text = TextEncoderConfig { vocab_size: tokenizer.vocab_size(), ..text };
        self.device().seed(settings.seed);
        let fresh = ClipTowers::new(&text, &image, self.device());
        let fresh = match &self.from {
            Some(from) => fresh.with_logit_scale(logit_scale_of(from)?),
            None => fresh,
        };
        let towers = ClipTowers {
            text: self.first("text_encoder", None, &text, fresh.text)?,
            image: self.first("image_encoder", None, &image, fresh.image)?,
            logit_scale: fresh.logit_scale,
        };
        let objective = ClipObjective { source, tokenizer, image: image.clone(), worn };
        let (stage, space) = (TrainStage::Clip, String::new());
        Ok(Ready { stage, space, config: (text, image), network: towers, objective })
    }

    /// Writes both towers of a run, unless that step's are written already.
    pub(super) fn finish_clip(
        &self,
        (text, image): &ClipConfigs,
        trainer: &Trainer<ClipTowers>,
    ) -> Result<(), TrainError> {
        let written = self.plan.run.out.join(TrainStage::Clip.name()).join(WRITTEN);
        let which = match trainer.best_digest()? {
            Some(digest) if self.plan.evaluation.use_best => format!("best {digest}"),
            _ => trainer.step().to_string(),
        };
        // towers that are written again would be scaled by other data, and their space have another name
        let is_written = fs::read_to_string(&written).is_ok_and(|it| it == which);
        if is_written && self.clip().is_ok() {
            return Ok(());
        }
        let towers = trainer.average().clone();
        let logit_scale = f64::from(towers.logit_scale.val().into_scalar::<f32>()).exp();
        let text = TextEncoderConfig { logit_scale, ..text.clone() };
        self.save_clip(towers, &text, image)?;
        Ok(write_whole(&written, which.as_bytes())?)
    }

    /// Writes both towers, scaled so that the embeddings of pictures have variance 1: contrastive
    /// training leaves their length open, and the networks that read them prefer it so.
    fn save_clip(
        &self,
        towers: ClipTowers,
        text: &TextEncoderConfig,
        image: &ImageEncoderConfig,
    ) -> Result<(), TrainError> {
        let mut clip = FrozenClip {
            tokenizer: self.tokenizer()?,
            text: towers.text,
            image: towers.image,
            image_config: image.clone(),
            device: self.device().clone(),
            kept: None,
        };
        let std = typical_embeddings(&clip, self.data.as_ref())?
            .var(0)
            .mean()
            .into_scalar::<f32>()
            .sqrt();
        let factor = 1.0 / f64::from(std.max(1e-6));
        clip.text = with_longer_embeddings(clip.text, factor);
        clip.image = with_longer_embeddings(clip.image, factor);
        let space = fingerprint(&clip);
        let folder = |name: &str| self.bundle().join(name);
        save_stage(&folder("text_encoder"), &space, text, &clip.text, Precision::F16)?;
        Ok(save_stage(&folder("image_encoder"), &space, image, &clip.image, Precision::F16)?)
    }

    pub(super) fn prior(
        &self,
        settings: &TrainSettings,
    ) -> Result<Ready<PriorObjective, DiffusionPriorConfig>, TrainError> {
        let (clip, space) = self.clip_with_embeddings()?;
        let plan = of(self.plan.prior.as_ref(), TrainStage::Prior)?;
        let config = plan.config;
        self.device().seed(settings.seed);
        let whitening = Whitening::of(typical_embeddings(&clip, self.data.as_ref())?);
        let fresh = config.init(self.device()).with_whitening(whitening);
        let prior = self.first("prior", Some(&space), &config, fresh)?;
        let objective = PriorObjective::new(
            self.source(settings),
            clip,
            config.clone(),
            (plan.drop_caption, plan.weighting),
        )?;
        Ok(Ready { stage: TrainStage::Prior, space, config, network: prior, objective })
    }

    pub(super) fn ar_prior(
        &self,
        settings: &TrainSettings,
    ) -> Result<Ready<ArPriorObjective, ArPriorConfig>, TrainError> {
        let (clip, space) = self.clip_with_embeddings()?;
        let plan = of(self.plan.ar_prior.as_ref(), TrainStage::ArPrior)?;
        let config = plan.config;
        self.device().seed(settings.seed);
        let fresh = config.init(self.device());
        let (image, text) = typical_pairs(&clip, self.data.as_ref())?;
        let whitening = Whitening::of(image.0.clone());
        let codebook = fresh.codebook().clone().of(whitening, &image, &text);
        let prior = self.first("ar_prior", Some(&space), &config, fresh.with_codebook(codebook))?;
        let (source, drop_caption) = (self.source(settings), plan.drop_caption);
        let objective = ArPriorObjective { source, clip, drop_caption };
        Ok(Ready { stage: TrainStage::ArPrior, space, config, network: prior, objective })
    }

    pub(super) fn noised(
        &self,
        settings: &TrainSettings,
    ) -> Result<Ready<NoisedObjective, NoisedImageEncoderConfig>, TrainError> {
        let (clip, space) = self.clip_with_embeddings()?;
        let config = of(self.plan.noised_image_encoder.as_ref(), TrainStage::Noised)?.config;
        self.device().seed(settings.seed);
        let name = TrainStage::Noised.name();
        let encoder = self.first(&name, Some(&space), &config, config.init(self.device()))?;
        let schedule = self.plan.decoder.config.diffusion.training_schedule()?;
        let source = self.source(settings);
        let objective = NoisedObjective { source, clip, schedule, side: config.image_size };
        Ok(Ready { stage: TrainStage::Noised, space, config, network: encoder, objective })
    }

    pub(super) fn decoder(
        &self,
        settings: &TrainSettings,
    ) -> Result<Ready<DecoderObjective, DecoderConfig>, TrainError> {
        let (clip, space) = self.clip_with_embeddings()?;
        let config = self.plan.decoder.config.clone();
        self.device().seed(settings.seed);
        let embeddings = typical_embeddings(&clip, self.data.as_ref())?;
        let whitening = Whitening::of(embeddings.clone());
        let fresh = silenced(config.init(self.device())).with_whitening(whitening);
        let first = self.first("decoder", None, &config, fresh)?;
        let decoder = match self.other_clip(&space)? {
            Some(other) => {
                let places = first
                    .whitened(&ImageEmbedding(typical_embeddings(&other, self.data.as_ref())?));
                first.with_whitening(whitening_towards(places, embeddings))
            }
            None => first,
        };
        let source = self.source(settings);
        let plan = &self.plan.decoder;
        let options =
            DecoderOptions { worn: plan.worn, dropped: plan.dropped, weighting: plan.weighting };
        let objective = DecoderObjective::new(source, clip, config.clone(), options)?;
        Ok(Ready { stage: TrainStage::Decoder, space, config, network: decoder, objective })
    }

    pub(super) fn upsampler(
        &self,
        place: usize,
        settings: &TrainSettings,
    ) -> Result<Ready<UpsamplerObjective, UpsamplerConfig>, TrainError> {
        let stage = TrainStage::Upsampler(place);
        let plan = self.plan.upsampler.get(place).ok_or_else(|| absent(stage))?;
        let (config, low_side) = (plan.config.clone(), self.plan.low_side(place));
        self.device().seed(settings.seed);
        let fresh = silenced(config.init(self.device()));
        let upsampler = self.first(&stage.name(), None, &config, fresh)?;
        let source = self.source(settings);
        let objective = UpsamplerObjective::new(
            source,
            config.clone(),
            [low_side, plan.crop],
            (plan.degrade, plan.weighting),
        )?;
        Ok(Ready { stage, space: String::new(), config, network: upsampler, objective })
    }
}

/// What the CLIP of a bundle scales similarities by.
fn logit_scale_of(bundle: &Path) -> Result<f64, TrainError> {
    let text = StageFiles::<TextEncoderConfig>::open(&bundle.join("text_encoder"))?;
    Ok(text.manifest.config.logit_scale)
}

/// The plan of a stage that there may not be.
fn of<T: Clone>(plan: Option<&T>, stage: TrainStage) -> Result<T, InvalidSetting> {
    plan.cloned().ok_or_else(|| absent(stage))
}

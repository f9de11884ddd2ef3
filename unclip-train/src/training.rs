//! The training of a plan, stage by stage, into a bundle.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::Device;
use unclip_clip::{ImageEncoderConfig, TextEncoderConfig, Tokenizer, TokenizerOptions};
use unclip_core::{ImageEmbedding, InvalidSetting, Uncertainty};
use unclip_decoder::DecoderConfig;
use unclip_nn::checkpoint::{Manifest, StageConfig, StageFiles, Weights, save_config, save_stage};
use unclip_nn::{Precision, Whitening, is_cpu};
use unclip_prior::DiffusionPriorConfig;

use crate::ahead::Ahead;
use crate::loss_curve::LossCurve;
use crate::objective::{
    ArPriorObjective, ClipObjective, ClipTowers, DecoderObjective, FrozenClip, NoisedObjective,
    Objective, PriorObjective, Source, UpsamplerObjective,
};
use crate::plan::{ClipPlan, Plan, StagePlan, absent};
use crate::shown::Data;
use crate::train_stage::TrainStage;
use crate::typical::{fingerprint, typical_embeddings, typical_pairs, with_longer_embeddings};
use crate::uncertainty::uncertainty;
use crate::vocabulary::copy_vocabulary;
use crate::{
    ClipScore, StepReport, TrainError, TrainSettings, Trainer, silenced, train_vocabulary,
    trainable, whitening_towards,
};
use unclip_shapes::ShapesWorld;

/// A plan in training.
#[derive(Debug, Clone)]
pub struct Training {
    /// What is trained, and how.
    pub plan: Plan,
    /// The pictures and captions.
    pub data: Arc<dyn Data>,
    /// Folder of a bundle whose weights each stage starts from, instead of fresh ones. A decoder
    /// may have been trained with another CLIP: the embeddings of this one are then turned to where
    /// it knew them. CLIP's temperature is not part of a bundle and starts fresh.
    pub from: Option<PathBuf>,
    /// Where the tensors are, without autodiff.
    pub device: Device,
    /// When to stop a stage, finished or not; a later run goes on.
    pub time_limit: Option<Duration>,
}

impl Training {
    /// Trains a stage to the end, or until the observer or the time limit stops it, and writes what
    /// it has learned into the bundle. An interrupted run goes on where it was.
    ///
    /// # Errors
    /// Files that cannot be read or written, a stage that is needed and missing, divergence.
    pub fn train(
        &self,
        stage: TrainStage,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        self.plan.validate()?;
        let settings = self.plan.settings(stage)?;
        match stage {
            TrainStage::Clip => self.train_clip(settings, observer),
            TrainStage::Prior => self.train_prior(settings, observer),
            TrainStage::ArPrior => self.train_ar_prior(settings, observer),
            TrainStage::Noised => self.train_noised(settings, observer),
            TrainStage::Decoder => self.train_decoder(settings, observer),
            TrainStage::Upsampler(place) => self.train_upsampler(place, settings, observer),
        }
    }

    /// Measures what the predictions of the bundle's prior leave open, and keeps the table in its
    /// configuration: `analytic_dpm` needs it.
    ///
    /// # Errors
    /// A CLIP or a prior that is missing or cannot be read; a folder that cannot be written.
    pub fn measure_uncertainty(&self) -> Result<Uncertainty, TrainError> {
        let (clip, space) = self.clip()?;
        let name = TrainStage::Prior.name();
        let files = StageFiles::<DiffusionPriorConfig>::open(&self.bundle().join(&name))?;
        let (prior, mut config) = (files.load(&self.device)?, files.manifest.config.clone());
        let found = &files.manifest.embedding_space;
        if *found != space {
            let expected = format!("{space}, the bundle's: train the prior for it");
            return Err(InvalidSetting::new("CLIP of the prior", found, expected).into());
        }
        let (images, texts) = typical_pairs(&clip, self.data.as_ref())?;
        let table = uncertainty(&config, &prior, (&images, &texts))?;
        config.diffusion.uncertainty = Some(table.clone());
        let manifest = Manifest { config, ..files.manifest };
        save_config(&self.bundle().join(&name).join("config.json"), &manifest)?;
        Ok(table)
    }

    /// What the bundle's CLIP sees, by `n` scenes for each question.
    ///
    /// # Errors
    /// A CLIP that is missing or cannot be read.
    pub fn clip_score(&self, n: usize) -> Result<ClipScore, TrainError> {
        Ok(self.clip()?.0.score(&ShapesWorld::new(1), n))
    }

    fn train_clip(
        &self,
        settings: TrainSettings,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let source = self.source(&settings);
        self.prepare_vocabulary(source.data.as_ref())?;
        let tokenizer = self.tokenizer()?;
        let ClipPlan { text, image, worn, .. } = self.plan.clip.clone();
        let text = TextEncoderConfig { vocab_size: tokenizer.vocab_size(), ..text };
        self.device.seed(settings.seed);
        let fresh = ClipTowers::new(&text, &image, &self.device);
        let towers = ClipTowers {
            text: self.first("text_encoder", None, &text, fresh.text)?,
            image: self.first("image_encoder", None, &image, fresh.image)?,
            logit_scale: fresh.logit_scale,
        };
        let objective = ClipObjective { source, tokenizer, image: image.clone(), worn };
        let bounds: fn(ClipTowers) -> ClipTowers = ClipTowers::within_bounds;
        let stage = (TrainStage::Clip, "");
        let trainer = self.run(stage, settings, (towers, bounds), observer, &objective)?;
        let towers = trainer.average().clone();
        let logit_scale = f64::from(towers.logit_scale.val().into_scalar::<f32>()).exp();
        let text = TextEncoderConfig { logit_scale, ..text };
        self.save_clip(towers, &text, &image)
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
            device: self.device.clone(),
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
        self.save("text_encoder", &space, text, &clip.text)?;
        self.save("image_encoder", &space, image, &clip.image)
    }

    fn train_prior(
        &self,
        settings: TrainSettings,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let (clip, space) = self.clip()?;
        let config = of(self.plan.prior.as_ref(), TrainStage::Prior)?;
        self.device.seed(settings.seed);
        let whitening = Whitening::of(typical_embeddings(&clip, self.data.as_ref())?);
        let fresh = config.init(&self.device).with_whitening(whitening);
        let prior = self.first("prior", Some(&space), &config, fresh)?;
        let objective = PriorObjective::new(self.source(&settings), clip, config.clone())?;
        let stage = (TrainStage::Prior, space.as_str());
        let trainer = self.run(stage, settings, (prior, free), observer, &objective)?;
        self.save("prior", &space, &config, trainer.average())
    }

    fn train_ar_prior(
        &self,
        settings: TrainSettings,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let (clip, space) = self.clip()?;
        let config = of(self.plan.ar_prior.as_ref(), TrainStage::ArPrior)?;
        self.device.seed(settings.seed);
        let fresh = config.init(&self.device);
        let (image, text) = typical_pairs(&clip, self.data.as_ref())?;
        let whitening = Whitening::of(image.0.clone());
        let codebook = fresh.codebook().clone().of(whitening, &image, &text);
        let prior = self.first("ar_prior", Some(&space), &config, fresh.with_codebook(codebook))?;
        let objective = ArPriorObjective { source: self.source(&settings), clip };
        let stage = (TrainStage::ArPrior, space.as_str());
        let trainer = self.run(stage, settings, (prior, free), observer, &objective)?;
        self.save("ar_prior", &space, &config, trainer.average())
    }

    fn train_noised(
        &self,
        settings: TrainSettings,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let (clip, space) = self.clip()?;
        let config = of(self.plan.noised_image_encoder.as_ref(), TrainStage::Noised)?;
        self.device.seed(settings.seed);
        let name = TrainStage::Noised.name();
        let encoder = self.first(&name, Some(&space), &config, config.init(&self.device))?;
        let schedule = self.plan.decoder.config.diffusion.training_schedule()?;
        let source = self.source(&settings);
        let objective = NoisedObjective { source, clip, schedule, side: config.image_size };
        let stage = (TrainStage::Noised, space.as_str());
        let trainer = self.run(stage, settings, (encoder, free), observer, &objective)?;
        self.save(&name, &space, &config, trainer.average())
    }

    fn train_decoder(
        &self,
        settings: TrainSettings,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let (clip, space) = self.clip()?;
        let config = self.plan.decoder.config.clone();
        self.device.seed(settings.seed);
        let embeddings = typical_embeddings(&clip, self.data.as_ref())?;
        let whitening = Whitening::of(embeddings.clone());
        let fresh = silenced(config.init(&self.device)).with_whitening(whitening);
        let first = self.first("decoder", None, &config, fresh)?;
        let decoder = match self.other_clip(&space)? {
            Some(other) => {
                let places = first
                    .whitened(&ImageEmbedding(typical_embeddings(&other, self.data.as_ref())?));
                first.with_whitening(whitening_towards(places, embeddings))
            }
            None => first,
        };
        let source = self.source(&settings);
        let worn = self.plan.clip.worn;
        let objective = DecoderObjective::new(source, clip, config.clone(), worn)?;
        let stage = (TrainStage::Decoder, space.as_str());
        let trainer = self.run(stage, settings, (decoder, free), observer, &objective)?;
        self.save("decoder", &space, &config, trainer.average())
    }

    fn train_upsampler(
        &self,
        place: usize,
        settings: TrainSettings,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let stage = TrainStage::Upsampler(place);
        let plan = self.plan.upsampler.get(place).ok_or_else(|| absent(stage))?;
        let (config, low_side) = (plan.config.clone(), self.plan.low_side(place));
        self.device.seed(settings.seed);
        let fresh = silenced(config.init(&self.device));
        let upsampler = self.first(&stage.name(), None, &config, fresh)?;
        let source = self.source(&settings);
        let objective = UpsamplerObjective::new(source, config.clone(), low_side, plan.crop)?;
        let trainer = self.run((stage, ""), settings, (upsampler, free), observer, &objective)?;
        self.save(&stage.name(), "", &config, trainer.average())
    }

    /// The weights that a network starts from: those of the bundle to start from, if there is one,
    /// else the fresh ones. `space` is that of the CLIP which it is to work with.
    fn first<T: StageConfig + Clone>(
        &self,
        name: &str,
        space: Option<&str>,
        config: &T,
        fresh: T::Network,
    ) -> Result<T::Network, TrainError> {
        let Some(folder) = &self.from else { return Ok(fresh) };
        let folder = folder.join(name);
        let found = StageFiles::<T>::open(&folder)?.manifest.embedding_space;
        if let Some(space) = space.filter(|space| *space != found) {
            let name = format!("CLIP of the {name} to start from");
            let expected = format!("{space}, which the bundle has; or start from fresh weights");
            return Err(InvalidSetting::new(name, found, expected).into());
        }
        let weights = Weights::open(&folder.join("model.safetensors"))?;
        let files = StageFiles::of(&folder.join("config.json"), config.clone(), weights)?;
        Ok(trainable(files.load(&self.device)?))
    }

    /// The CLIP that the decoder to start from was trained with, if that is another one than the
    /// bundle's: it has to be beside that decoder.
    fn other_clip(&self, space: &str) -> Result<Option<FrozenClip>, TrainError> {
        let Some(folder) = &self.from else { return Ok(None) };
        let decoder = StageFiles::<DecoderConfig>::open(&folder.join("decoder"))?;
        let known = decoder.manifest.embedding_space;
        if known == space {
            return Ok(None);
        }
        match self.clip_of(folder)? {
            (clip, found) if found == known => Ok(Some(clip)),
            (_, found) => {
                let name = "CLIP beside the decoder to start from";
                Err(InvalidSetting::new(name, found, format!("{known}, the decoder's")).into())
            }
        }
    }

    /// Learns the vocabulary, or takes that of the bundle to start from, whose token numbers its
    /// text tower was trained on.
    fn prepare_vocabulary(&self, data: &dyn Data) -> Result<(), TrainError> {
        let folder = self.bundle().join("tokenizer");
        if let Some(from) = &self.from {
            return copy_vocabulary(&from.join("tokenizer"), &folder);
        }
        if folder.join("merges.txt").exists() {
            return Ok(());
        }
        train_vocabulary(&folder, self.plan.vocabulary.merges, data.captions())
    }

    /// Runs the loop with a time limit and a loss curve on disk. A run rests on a CLIP, by the name
    /// of its space, and on the weights that it starts from: with others it is another run.
    fn run<M: Module>(
        &self,
        (stage, space): (TrainStage, &str),
        settings: TrainSettings,
        (model, constrain): (M, fn(M) -> M),
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
        objective: &impl Objective<Network = M>,
    ) -> Result<Trainer<M>, TrainError> {
        let folder = self.plan.run.out.join(stage.name());
        let from = self.from.as_ref().map(|from| format!("weights of {}", from.display()));
        let clip = (!space.is_empty()).then(|| format!("CLIP {space}"));
        let data = Some(self.data.name()).filter(|name| !name.is_empty());
        let rests_on: Vec<String> = clip.into_iter().chain(from).chain(data).collect();
        let settings = TrainSettings { rests_on: rests_on.join(", "), ..settings };
        let mut trainer = Trainer::new(model, settings, &folder)?.with_constraint(constrain);
        let mut curve = LossCurve::open(&folder, trainer.step())?;
        let start = Instant::now();
        let interval = Duration::from_secs(self.plan.run.checkpoint_seconds);
        let observer = |report: &StepReport| {
            curve.push(report);
            if self.time_limit.is_some_and(|limit| start.elapsed() >= limit) {
                return ControlFlow::Break(());
            }
            observer(report)
        };
        let make = |step| objective.batch(step);
        std::thread::scope(|scope| {
            // where the CPU trains, no core is free to prepare batches meanwhile
            let batches = if is_cpu(&self.device) {
                Ahead::in_turn(&make)
            } else {
                Ahead::on_threads(&make, trainer.step(), scope)
            };
            let loss = move |model: &M, step| Ok(objective.loss(model, batches.next(step)?));
            trainer.run(interval, loss, observer)
        })?;
        Ok(trainer)
    }

    fn save<T: StageConfig>(
        &self,
        name: &str,
        space: &str,
        config: &T,
        network: &T::Network,
    ) -> Result<(), TrainError> {
        Ok(save_stage(&self.bundle().join(name), space, config, network, Precision::F16)?)
    }

    fn bundle(&self) -> PathBuf {
        self.plan.model()
    }

    fn source(&self, settings: &TrainSettings) -> Source {
        Source {
            data: self.data.clone(),
            batch: settings.batch,
            seed: settings.seed,
            device: self.device.clone(),
        }
    }

    fn tokenizer(&self) -> Result<Tokenizer, TrainError> {
        self.tokenizer_of(&self.bundle())
    }

    fn tokenizer_of(&self, bundle: &Path) -> Result<Tokenizer, TrainError> {
        let options = TokenizerOptions {
            context_length: self.plan.clip.text.context_length,
            ..TokenizerOptions::default()
        };
        Ok(Tokenizer::from_folder(&bundle.join("tokenizer"), options)?)
    }

    /// The CLIP of the bundle, and the name of its space.
    fn clip(&self) -> Result<(FrozenClip, String), TrainError> {
        self.clip_of(&self.bundle())
    }

    fn clip_of(&self, bundle: &Path) -> Result<(FrozenClip, String), TrainError> {
        let open = |name: &str| bundle.join(name);
        if !open("text_encoder").is_dir() {
            let found = format!("absent from {}", bundle.display());
            let expected = "a trained CLIP: train the stage clip first";
            return Err(InvalidSetting::new("CLIP", found, expected).into());
        }
        let text = StageFiles::<TextEncoderConfig>::open(&open("text_encoder"))?;
        let image = StageFiles::<ImageEncoderConfig>::open(&open("image_encoder"))?;
        let clip = FrozenClip {
            tokenizer: self.tokenizer_of(bundle)?,
            text: text.load(&self.device)?,
            image: image.load(&self.device)?,
            image_config: image.manifest.config.clone(),
            device: self.device.clone(),
        };
        Ok((clip, image.manifest.embedding_space))
    }
}

/// The configuration of a stage that a plan may lack.
fn of<T: Clone>(plan: Option<&StagePlan<T>>, stage: TrainStage) -> Result<T, InvalidSetting> {
    plan.map(|it| it.config.clone()).ok_or_else(|| absent(stage))
}

/// Weights that may be anything.
fn free<M>(model: M) -> M {
    model
}

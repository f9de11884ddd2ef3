//! The training of the bundled shapes model, stage by stage, into a bundle.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
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
use crate::train_stage::TrainStage;
use crate::typical::{fingerprint, typical_embeddings, typical_pairs, with_longer_embeddings};
use crate::uncertainty::uncertainty;
use crate::vocabulary::copy_vocabulary;
use crate::{
    ClipScore, StepReport, TrainError, TrainSettings, Trainer, recipe, silenced, train_vocabulary,
    trainable, whitening_towards,
};
use unclip_shapes::ShapesWorld;

/// Captions from which the vocabulary is learned.
const VOCABULARY_CAPTIONS: u64 = 20_000;

/// Where and how the shapes model is trained.
#[derive(Debug, Clone)]
pub struct ShapesTraining {
    /// Folder of checkpoints and loss curves, one subfolder for each stage.
    pub work: PathBuf,
    /// Folder of the bundle that is written, and read by later stages.
    pub bundle: PathBuf,
    /// Folder of a bundle whose weights each stage starts from, instead of fresh ones. A decoder
    /// may have been trained with another CLIP: the embeddings of this one are then turned to where
    /// it knew them. CLIP's temperature is not part of a bundle and starts fresh.
    pub from: Option<PathBuf>,
    /// Where the tensors are, without autodiff.
    pub device: Device,
    /// How often a checkpoint is written.
    pub interval: Duration,
    /// When to stop, finished or not; a later run goes on.
    pub time_limit: Option<Duration>,
}

impl ShapesTraining {
    /// Trains a stage to the end, or until the observer or the time limit stops it, and writes what
    /// it has learned into the bundle. An interrupted run goes on where it was.
    ///
    /// # Errors
    /// Files that cannot be read or written, a stage that is needed and missing, divergence.
    pub fn train(
        &self,
        stage: TrainStage,
        settings: TrainSettings,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
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
        let files = StageFiles::<DiffusionPriorConfig>::open(&self.bundle.join(&name))?;
        let (prior, mut config) = (files.load(&self.device)?, files.manifest.config.clone());
        let found = &files.manifest.embedding_space;
        if *found != space {
            let expected = format!("{space}, the bundle's: train the prior for it");
            return Err(InvalidSetting::new("CLIP of the prior", found, expected).into());
        }
        let (images, texts) = typical_pairs(&clip);
        let table = uncertainty(&config, &prior, (&images, &texts))?;
        config.diffusion.uncertainty = Some(table.clone());
        let manifest = Manifest { config, ..files.manifest };
        save_config(&self.bundle.join(&name).join("config.json"), &manifest)?;
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
        self.prepare_vocabulary(source.world)?;
        let tokenizer = self.tokenizer()?;
        let text = recipe::text_encoder(tokenizer.vocab_size());
        let image = recipe::image_encoder();
        self.device.seed(settings.seed);
        let fresh = ClipTowers::new(&text, &image, &self.device);
        let towers = ClipTowers {
            text: self.first("text_encoder", None, &text, fresh.text)?,
            image: self.first("image_encoder", None, &image, fresh.image)?,
            logit_scale: fresh.logit_scale,
        };
        let objective = ClipObjective { source, tokenizer, image: image.clone() };
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
        let std = typical_embeddings(&clip).var(0).mean().into_scalar::<f32>().sqrt();
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
        let config = recipe::prior();
        self.device.seed(settings.seed);
        let whitening = Whitening::of(typical_embeddings(&clip));
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
        let config = recipe::ar_prior();
        self.device.seed(settings.seed);
        let fresh = config.init(&self.device);
        let (image, text) = typical_pairs(&clip);
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
        let config = recipe::noised_image_encoder();
        self.device.seed(settings.seed);
        let name = TrainStage::Noised.name();
        let encoder = self.first(&name, Some(&space), &config, config.init(&self.device))?;
        let schedule = recipe::decoder().diffusion.training_schedule()?;
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
        let config = recipe::decoder();
        self.device.seed(settings.seed);
        let embeddings = typical_embeddings(&clip);
        let whitening = Whitening::of(embeddings.clone());
        let fresh = silenced(config.init(&self.device)).with_whitening(whitening);
        let first = self.first("decoder", None, &config, fresh)?;
        let decoder = match self.other_clip(&space)? {
            Some(other) => {
                let places = first.whitened(&ImageEmbedding(typical_embeddings(&other)));
                first.with_whitening(whitening_towards(places, embeddings))
            }
            None => first,
        };
        let objective = DecoderObjective::new(self.source(&settings), clip, config.clone())?;
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
        let configs = recipe::upsamplers();
        let Some(config) = configs.get(place).cloned() else {
            let expected = format!("less than {}", configs.len());
            return Err(InvalidSetting::new("upsampler", place, expected).into());
        };
        let below = configs.iter().take(place).map(|c| c.factor as u32);
        let low_side = recipe::DECODER_SIDE * below.product::<u32>();
        self.device.seed(settings.seed);
        let stage = TrainStage::Upsampler(place);
        let fresh = silenced(config.init(&self.device));
        let upsampler = self.first(&stage.name(), None, &config, fresh)?;
        let source = self.source(&settings);
        let objective =
            UpsamplerObjective::new(source, config.clone(), low_side, recipe::LOW_CROP)?;
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
    fn prepare_vocabulary(&self, world: ShapesWorld) -> Result<(), TrainError> {
        let folder = self.bundle.join("tokenizer");
        if let Some(from) = &self.from {
            return copy_vocabulary(&from.join("tokenizer"), &folder);
        }
        if folder.join("merges.txt").exists() {
            return Ok(());
        }
        let captions = (0..VOCABULARY_CAPTIONS).map(move |index| world.sample(index).caption);
        train_vocabulary(&folder, captions)
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
        let folder = self.work.join(stage.name());
        let from = self.from.as_ref().map(|from| format!("weights of {}", from.display()));
        let clip = (!space.is_empty()).then(|| format!("CLIP {space}"));
        let rests_on: Vec<String> = clip.into_iter().chain(from).collect();
        let settings = TrainSettings { rests_on: rests_on.join(", "), ..settings };
        let mut trainer = Trainer::new(model, settings, &folder)?.with_constraint(constrain);
        let mut curve = LossCurve::open(&folder, trainer.step())?;
        let start = Instant::now();
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
            let loss = move |model: &M, step| objective.loss(model, batches.next(step));
            trainer.run(self.interval, loss, observer)
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
        Ok(save_stage(&self.bundle.join(name), space, config, network, Precision::F16)?)
    }

    fn source(&self, settings: &TrainSettings) -> Source {
        Source {
            world: ShapesWorld::new(settings.seed),
            batch: settings.batch,
            seed: settings.seed,
            device: self.device.clone(),
        }
    }

    fn tokenizer(&self) -> Result<Tokenizer, TrainError> {
        Self::tokenizer_of(&self.bundle)
    }

    fn tokenizer_of(bundle: &Path) -> Result<Tokenizer, TrainError> {
        let options = TokenizerOptions {
            context_length: recipe::CONTEXT_LENGTH,
            ..TokenizerOptions::default()
        };
        Ok(Tokenizer::from_folder(&bundle.join("tokenizer"), options)?)
    }

    /// The CLIP of the bundle, and the name of its space.
    fn clip(&self) -> Result<(FrozenClip, String), TrainError> {
        self.clip_of(&self.bundle)
    }

    fn clip_of(&self, bundle: &Path) -> Result<(FrozenClip, String), TrainError> {
        let open = |name: &str| bundle.join(name);
        let text = StageFiles::<TextEncoderConfig>::open(&open("text_encoder"))?;
        let image = StageFiles::<ImageEncoderConfig>::open(&open("image_encoder"))?;
        let clip = FrozenClip {
            tokenizer: Self::tokenizer_of(bundle)?,
            text: text.load(&self.device)?,
            image: image.load(&self.device)?,
            image_config: image.manifest.config.clone(),
            device: self.device.clone(),
        };
        Ok((clip, image.manifest.embedding_space))
    }
}

/// Weights that may be anything.
fn free<M>(model: M) -> M {
    model
}

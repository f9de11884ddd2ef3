//! The training of a plan, stage by stage, into a bundle.

mod stages;
mod start;
mod watch;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use unclip_clip::{ImageEncoderConfig, TextEncoderConfig, Tokenizer, TokenizerOptions};
use unclip_core::{InvalidSetting, Uncertainty};
use unclip_nn::checkpoint::{Manifest, StageConfig, StageFiles, save_config, save_stage};
use unclip_nn::{Precision, is_cpu};
use unclip_prior::DiffusionPriorConfig;
use unclip_shapes::ShapesWorld;

use crate::ahead::Ahead;
use crate::embeddings::{Embeddings, make_embeddings};
use crate::loss_curve::Curve;
use crate::objective::{FrozenClip, Objective, Source};
use crate::parts::Parts;
use crate::plan::Plan;
use crate::shown::Data;
use crate::train_stage::TrainStage;
use crate::typical::typical_pairs;
use crate::uncertainty::uncertainty;
use crate::{Changes, ClipScore, StepReport, TrainError, TrainSettings, Trainer};

/// What keeps weights where they may be, after each step.
type Constraint<M> = fn(M) -> M;

/// A plan in training.
#[derive(Debug, Clone)]
pub struct Training {
    /// What is trained, and how.
    pub plan: Plan,
    /// The pictures and captions.
    pub data: Arc<dyn Data>,
    /// Pictures and captions that it is measured on, if there are any.
    pub held_out: Option<Arc<dyn Data>>,
    /// Folder of a bundle whose weights each stage starts from, instead of fresh ones. A decoder
    /// may have been trained with another CLIP: the embeddings of this one are then turned to where
    /// it knew them. CLIP's temperature is not part of a bundle and starts fresh.
    pub from: Option<PathBuf>,
    /// Where the tensors are, without autodiff. With several devices each of them gets a part of
    /// every batch, and the first one holds the weights.
    pub devices: Vec<Device>,
    /// What to do with checkpoints of other settings.
    pub changes: Changes,
    /// When to stop a stage, finished or not; a later run goes on.
    pub time_limit: Option<Duration>,
}

impl Training {
    /// Trains a stage to the end, or until the observer or the time limit stops it, and writes what
    /// it has learned into the bundle. An interrupted run goes on where it was. The result is whether
    /// the end was reached.
    ///
    /// # Errors
    /// Files that cannot be read or written, a stage that is needed and missing, divergence.
    pub fn train(
        &self,
        stage: TrainStage,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<bool, TrainError> {
        self.plan.validate()?;
        if self.devices.is_empty() {
            return Err(InvalidSetting::new("devices", "none", "at least one").into());
        }
        let precision = self.plan.run.precision;
        if let Some(device) = self.devices.iter().find(|it| !precision.is_supported(it)) {
            let expected = format!("one that {device:?} computes in");
            return Err(InvalidSetting::new("run.precision", precision, expected).into());
        }
        if stage == TrainStage::Embeddings {
            self.embed((0, 1), &mut |_, _| ControlFlow::Continue(()))?;
            return Ok(true);
        }
        let settings = self.plan.settings(stage)?;
        match stage {
            TrainStage::Embeddings => Ok(true),
            TrainStage::Clip => self.train_clip(settings, observer),
            TrainStage::Prior => self.train_prior(settings, observer),
            TrainStage::ArPrior => self.train_ar_prior(settings, observer),
            TrainStage::Noised => self.train_noised(settings, observer),
            TrainStage::Decoder => self.train_decoder(settings, observer),
            TrainStage::Upsampler(place) => self.train_upsampler(place, settings, observer),
        }
    }

    /// Computes what CLIP says of the data, as far as it is not there yet: everything, or the share of
    /// one of several machines. The observer hears how many items of how many are done.
    ///
    /// # Errors
    /// A CLIP that is missing or cannot be read, data that cannot be read or never end, a folder that
    /// cannot be written.
    pub fn embed(
        &self,
        share: (usize, usize),
        observer: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let (clip, space) = self.clip()?;
        make_embeddings(&self.plan.embeddings(share), (&clip, &space), self.data.as_ref(), observer)
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
        let (prior, mut config) = (files.load(self.device())?, files.manifest.config.clone());
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

    /// Runs the loop with a time limit and a loss curve on disk. A run rests on a CLIP, by the name
    /// of its space, and on the weights that it starts from: with others it is another run.
    fn run<O: Objective>(
        &self,
        (stage, space): (TrainStage, &str),
        settings: TrainSettings,
        (model, constrain): (O::Network, Constraint<O::Network>),
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
        objective: O,
    ) -> Result<Trainer<O::Network>, TrainError> {
        let folder = self.plan.run.out.join(stage.name());
        let from = self.from.as_ref().map(|from| format!("weights of {}", from.display()));
        let clip = (!space.is_empty()).then(|| format!("CLIP {space}"));
        let rests_on: Vec<String> = clip.into_iter().chain(from).collect();
        let (data, rests_on) = (self.data.name(), rests_on.join(", "));
        let settings = TrainSettings { data, rests_on, ..settings };
        let parts = Parts::new(objective, &self.devices, (settings.batch, settings.accumulate))?
            .in_precision(self.plan.run.precision);
        let trainer = Trainer::new(model, settings, &folder, self.changes)?;
        let kept = self.plan.run.keep_checkpoints;
        let mut trainer = trainer.with_constraint(constrain).keeping(kept);
        let mut curve = Curve::open(&folder.join("loss.jsonl"), trainer.step())?;
        let mut watch = self.watch(stage, trainer.step())?;
        let start = Instant::now();
        let interval = Duration::from_secs(self.plan.run.checkpoint_seconds);
        let observer = |report: &StepReport, trainer: &Trainer<O::Network>| {
            curve.push(report);
            watch.after(report, trainer, parts.first())?;
            if self.time_limit.is_some_and(|limit| start.elapsed() >= limit) {
                return Ok(ControlFlow::Break(()));
            }
            Ok(observer(report))
        };
        let make = |step| parts.first().batch(step);
        std::thread::scope(|scope| {
            // where the CPU trains, no core is free to prepare batches meanwhile
            let batches = if is_cpu(self.device()) {
                Ahead::in_turn(&make)
            } else {
                Ahead::on_threads(&make, trainer.step(), scope)
            };
            let learn = |model: &O::Network, step| Ok(parts.learn(model, batches.next(step)?));
            trainer.run(interval, learn, observer)
        })?;
        if self.plan.evaluation.use_best { trainer.with_best() } else { Ok(trainer) }
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

    /// Where the weights are.
    fn device(&self) -> &Device {
        &self.devices[0]
    }

    fn bundle(&self) -> PathBuf {
        self.plan.model()
    }

    fn source(&self, settings: &TrainSettings) -> Source {
        Source {
            data: self.data.clone(),
            batch: settings.batch,
            seed: settings.seed,
            device: self.device().clone(),
        }
    }

    fn tokenizer(&self) -> Result<Tokenizer, TrainError> {
        tokenizer_of(&self.bundle(), &self.plan.clip.text)
    }

    /// The CLIP of the bundle, and the name of its space.
    fn clip(&self) -> Result<(FrozenClip, String), TrainError> {
        self.clip_of(&self.bundle())
    }

    /// The CLIP of the bundle with what it has said of the data, and the name of its space.
    fn clip_with_embeddings(&self) -> Result<(FrozenClip, String), TrainError> {
        let (mut clip, space) = self.clip()?;
        if self.plan.embeddings.enabled {
            let empty = clip.embed_captions(&clip.tokenizer.encode(&[""]));
            let options = self.plan.embeddings((0, 1));
            let kept = Embeddings::open(&options, (self.data.as_ref(), &space), &empty)?;
            clip.kept = Some(Arc::new(kept));
        }
        Ok((clip, space))
    }

    fn clip_of(&self, bundle: &Path) -> Result<(FrozenClip, String), TrainError> {
        let open = |name: &str| bundle.join(name);
        if !open("text_encoder").is_dir() {
            let found = format!("absent from {}", bundle.display());
            let expected =
                "a trained CLIP: train the stage clip first, or take one over (clip.from)";
            return Err(InvalidSetting::new("CLIP", found, expected).into());
        }
        let text = StageFiles::<TextEncoderConfig>::open(&open("text_encoder"))?;
        let image = StageFiles::<ImageEncoderConfig>::open(&open("image_encoder"))?;
        let clip = FrozenClip {
            tokenizer: tokenizer_of(bundle, &text.manifest.config)?,
            text: text.load(self.device())?,
            image: image.load(self.device())?,
            image_config: image.manifest.config.clone(),
            device: self.device().clone(),
            kept: None,
        };
        Ok((clip, image.manifest.embedding_space))
    }
}

/// The tokenizer of a bundle, as its text tower reads captions.
fn tokenizer_of(bundle: &Path, text: &TextEncoderConfig) -> Result<Tokenizer, TrainError> {
    let options = TokenizerOptions { context_length: text.context_length, padding: text.padding };
    Ok(Tokenizer::from_folder(&bundle.join("tokenizer"), options)?)
}

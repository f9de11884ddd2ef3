//! The training of a plan, stage by stage, into a bundle.

mod lock;
mod measure;
mod ready;
mod run;
mod stages;
mod start;
mod watch;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Device;
use unclip_clip::{ImageEncoderConfig, TextEncoderConfig, Tokenizer, TokenizerOptions};
use unclip_core::{InvalidSetting, Uncertainty};
use unclip_nn::checkpoint::{Manifest, StageFiles, save_config};
use unclip_prior::DiffusionPriorConfig;
use unclip_shapes::ShapesWorld;

use self::lock::alone;
use crate::embeddings::{Embeddings, make_embeddings};
use crate::objective::{ClipTowers, FrozenClip, Source};
use crate::plan::Plan;
use crate::shown::Data;
use crate::train_stage::TrainStage;
use crate::typical::typical_pairs;
use crate::uncertainty::uncertainty;
use crate::{Changes, ClipScore, StepReport, TrainError, TrainSettings};

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
    /// it knew them.
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
        self.check()?;
        if stage == TrainStage::Embeddings {
            self.embed((0, 1), &mut |_, _| ControlFlow::Continue(()))?;
            return Ok(true);
        }
        let settings = self.plan.settings(stage)?;
        let of = (settings, observer);
        // until everything is written
        let _alone = alone(&self.plan.run.out.join(stage.name()))?;
        match stage {
            TrainStage::Embeddings => Ok(true),
            TrainStage::Clip => {
                let ready = self.clip_towers(&of.0)?;
                let configs = ready.config.clone();
                let trainer = self.run(ready, of, ClipTowers::within_bounds)?;
                self.finish_clip(&configs, &trainer)?;
                Ok(trainer.is_done())
            }
            TrainStage::Prior => self.train_stage(self.prior(&of.0)?, of),
            TrainStage::ArPrior => self.train_stage(self.ar_prior(&of.0)?, of),
            TrainStage::Noised => self.train_stage(self.noised(&of.0)?, of),
            TrainStage::Decoder => self.train_stage(self.decoder(&of.0)?, of),
            TrainStage::Upsampler(place) => self.train_stage(self.upsampler(place, &of.0)?, of),
        }
    }

    /// Whether plan and devices go together.
    fn check(&self) -> Result<(), TrainError> {
        self.plan.validate()?;
        if self.devices.is_empty() {
            return Err(InvalidSetting::new("devices", "none", "at least one").into());
        }
        let precision = self.plan.run.precision;
        if let Some(device) = self.devices.iter().find(|it| !precision.is_supported(it)) {
            let expected = format!("one that {device:?} computes in");
            return Err(InvalidSetting::new("run.precision", precision, expected).into());
        }
        Ok(())
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
        let (found, own) = (&text.manifest.embedding_space, &image.manifest.embedding_space);
        if found != own {
            let expected =
                format!("{own}, that of the image tower beside it; train the stage clip");
            return Err(InvalidSetting::new("CLIP of the text tower", found, expected).into());
        }
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

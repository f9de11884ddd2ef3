//! The training of the bundled shapes model, stage by stage, into a bundle.

use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use unclip_clip::{ImageEncoderConfig, TextEncoderConfig, Tokenizer, TokenizerOptions};
use unclip_nn::Precision;
use unclip_nn::checkpoint::{LoadError, StageConfig, StageFiles, save_stage};

use crate::objective::{
    ClipObjective, ClipTowers, DecoderObjective, FrozenClip, PriorObjective, Source,
    UpsamplerObjective,
};
use crate::shapes::ShapesWorld;
use crate::{StepReport, TrainError, TrainSettings, Trainer, recipe, train_vocabulary};

/// Captions from which the vocabulary is learnt.
const VOCABULARY_CAPTIONS: u64 = 20_000;
/// Samples over which statistics of embeddings are taken.
const STATISTICS_SAMPLES: usize = 4096;

/// A stage of the shapes model, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainStage {
    /// Both towers of CLIP, and the vocabulary.
    Clip,
    /// The diffusion prior; needs CLIP.
    Prior,
    /// The decoder; needs CLIP.
    Decoder,
    /// An upsampler, by its place in the cascade; needs no other stage.
    Upsampler(usize),
}

impl TrainStage {
    /// Every stage, in an order in which they can be trained.
    pub const ALL: [Self; 5] =
        [Self::Clip, Self::Prior, Self::Decoder, Self::Upsampler(0), Self::Upsampler(1)];

    /// Its name, as the command line and folders spell it.
    pub fn name(self) -> String {
        match self {
            Self::Clip => "clip".into(),
            Self::Prior => "prior".into(),
            Self::Decoder => "decoder".into(),
            Self::Upsampler(place) => format!("upsampler.{place}"),
        }
    }

    /// How the recipe trains it.
    pub fn settings(self, steps: u64, seed: u64) -> TrainSettings {
        match self {
            Self::Clip => recipe::clip_training(steps, seed),
            Self::Prior => recipe::prior_training(steps, seed),
            Self::Decoder => recipe::decoder_training(steps, seed),
            Self::Upsampler(_) => recipe::upsampler_training(steps, seed),
        }
    }
}

/// Where and how the shapes model is trained.
#[derive(Debug, Clone)]
pub struct ShapesTraining {
    /// Folder of checkpoints and loss curves, one subfolder for each stage.
    pub work: PathBuf,
    /// Folder of the bundle that is written, and read by later stages.
    pub bundle: PathBuf,
    /// Where the tensors are, without autodiff.
    pub device: Device,
    /// How often a checkpoint is written.
    pub interval: Duration,
    /// When to stop, finished or not; a later run goes on.
    pub time_limit: Option<Duration>,
}

impl ShapesTraining {
    /// Trains a stage to the end, or until the observer or the time limit stops it, and writes what
    /// it has learnt into the bundle. An interrupted run goes on where it was.
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
            TrainStage::Decoder => self.train_decoder(settings, observer),
            TrainStage::Upsampler(place) => self.train_upsampler(place, settings, observer),
        }
    }

    fn train_clip(
        &self,
        settings: TrainSettings,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let source = self.source(&settings);
        let world = source.world;
        let tokenizer_folder = self.bundle.join("tokenizer");
        if !tokenizer_folder.join("merges.txt").exists() {
            let captions = (0..VOCABULARY_CAPTIONS).map(move |index| world.sample(index).caption);
            train_vocabulary(&tokenizer_folder, captions)?;
        }
        let tokenizer = self.tokenizer()?;
        let text = recipe::text_encoder(tokenizer.vocab_size());
        let image = recipe::image_encoder();
        self.device.seed(settings.seed);
        let towers = ClipTowers::new(&text, &image, &self.device);
        let objective = ClipObjective { source, tokenizer, image: image.clone() };
        let trainer =
            self.run(TrainStage::Clip, settings, towers, observer, |m, s| objective.loss(m, s))?;
        self.save_clip(trainer.average().clone(), &text, &image)
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
        let (_, std) = embedding_statistics(&clip);
        let factor = 1.0 / std.mean().into_scalar::<f32>().max(1e-6) as f64;
        clip.text = clip.text.map(&mut ScaleProjection { factor, path: Vec::new() });
        clip.image = clip.image.map(&mut ScaleProjection { factor, path: Vec::new() });
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
        let (mean, std) = embedding_statistics(&clip);
        self.device.seed(settings.seed);
        let prior = config.init(&self.device).with_statistics(mean, std.clamp_min(1e-4));
        let objective = PriorObjective::new(self.source(&settings), clip, config.clone())?;
        let trainer =
            self.run(TrainStage::Prior, settings, prior, observer, |m, s| objective.loss(m, s))?;
        self.save("prior", &space, &config, trainer.average())
    }

    fn train_decoder(
        &self,
        settings: TrainSettings,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
    ) -> Result<(), TrainError> {
        let (clip, space) = self.clip()?;
        let config = recipe::decoder();
        self.device.seed(settings.seed);
        let decoder = config.init(&self.device);
        let objective = DecoderObjective::new(self.source(&settings), clip, config.clone())?;
        let trainer = self
            .run(TrainStage::Decoder, settings, decoder, observer, |m, s| objective.loss(m, s))?;
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
            return Err(unclip_core::InvalidSetting::new("upsampler", place, expected).into());
        };
        let below = configs.iter().take(place).map(|c| c.factor as u32);
        let low_side = recipe::DECODER_SIDE * below.product::<u32>();
        self.device.seed(settings.seed);
        let upsampler = config.init(&self.device);
        let source = self.source(&settings);
        let objective =
            UpsamplerObjective::new(source, config.clone(), low_side, recipe::LOW_CROP)?;
        let stage = TrainStage::Upsampler(place);
        let trainer =
            self.run(stage, settings, upsampler, observer, |m, s| objective.loss(m, s))?;
        self.save(&stage.name(), "", &config, trainer.average())
    }

    /// Runs the loop with a time limit and a loss curve on disk.
    fn run<M: Module>(
        &self,
        stage: TrainStage,
        settings: TrainSettings,
        model: M,
        observer: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
        loss: impl FnMut(&M, u64) -> Tensor<1>,
    ) -> Result<Trainer<M>, TrainError> {
        let folder = self.work.join(stage.name());
        let mut trainer = Trainer::new(model, settings, &folder)?;
        let mut curve = LossCurve::open(&folder)?;
        let start = Instant::now();
        trainer.run(self.interval, loss, |report| {
            curve.push(report);
            let over = self.time_limit.is_some_and(|limit| start.elapsed() >= limit);
            match over {
                true => ControlFlow::Break(()),
                false => observer(report),
            }
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
        let options = TokenizerOptions {
            context_length: recipe::CONTEXT_LENGTH,
            ..TokenizerOptions::default()
        };
        Ok(Tokenizer::from_folder(&self.bundle.join("tokenizer"), options)?)
    }

    /// The CLIP of the bundle, and the name of its space.
    fn clip(&self) -> Result<(FrozenClip, String), TrainError> {
        let open = |name: &str| self.bundle.join(name);
        let text = StageFiles::<TextEncoderConfig>::open(&open("text_encoder"))?;
        let image = StageFiles::<ImageEncoderConfig>::open(&open("image_encoder"))?;
        let clip = FrozenClip {
            tokenizer: self.tokenizer()?,
            text: text.load(&self.device)?,
            image: image.load(&self.device)?,
            image_config: image.manifest.config.clone(),
            device: self.device.clone(),
        };
        Ok((clip, image.manifest.embedding_space))
    }
}

/// Mean and standard deviation of each direction of CLIP's image embeddings: `[1, d_embedding]`.
fn embedding_statistics(clip: &FrozenClip) -> (Tensor<2>, Tensor<2>) {
    const CHUNK: usize = 256;
    let world = ShapesWorld::new(0);
    let embed = |chunk: usize| {
        let samples: Vec<_> =
            (0..CHUNK).map(|i| world.sample((chunk * CHUNK + i) as u64)).collect();
        clip.embed_samples(&samples).0
    };
    let all = Tensor::cat((0..STATISTICS_SAMPLES / CHUNK).map(embed).collect(), 0);
    let mean = all.clone().mean_dim(0);
    let centered = all - mean.clone();
    (mean, (centered.clone() * centered).mean_dim(0).sqrt())
}

/// A name for CLIP's space that changes whenever CLIP does: a hash of what it says of a picture.
fn fingerprint(clip: &FrozenClip) -> String {
    let sample = ShapesWorld::new(0).sample(0);
    let mut hasher = DefaultHasher::new();
    let embedding = clip.embed_samples(std::slice::from_ref(&sample)).0;
    embedding.into_data().iter::<f32>().for_each(|v| hasher.write_u32(v.to_bits()));
    format!("shapes-{:016x}", hasher.finish())
}

/// Multiplies the projection into CLIP's space.
struct ScaleProjection {
    factor: f64,
    path: Vec<String>,
}

impl ModuleMapper for ScaleProjection {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let is_projection = self.path.iter().any(|name| name.ends_with("_projection"));
        match is_projection {
            true => param.map(|weight| weight * self.factor),
            false => param,
        }
    }
}

/// The loss of every step, one JSON object on a line.
struct LossCurve(std::io::BufWriter<std::fs::File>);

impl LossCurve {
    fn open(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join("loss.jsonl");
        let file = std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::OpenOptions::new().create(true).append(true).open(&path))
            .map_err(|source| LoadError::Io { path, source })?;
        Ok(Self(std::io::BufWriter::new(file)))
    }

    /// Appends a report. A curve that cannot be written does not stop the training.
    fn push(&mut self, report: &StepReport) {
        let line = serde_json::to_string(report).unwrap_or_default();
        if let Err(error) = writeln!(self.0, "{line}").and_then(|()| self.0.flush()) {
            tracing::warn!(%error, "the loss curve cannot be written");
        }
    }
}

//! What a plan consists of.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use unclip_clip::{ImageEncoderConfig, NoisedImageEncoderConfig, TextEncoderConfig};
use unclip_core::{InvalidSetting, Weighting};
use unclip_decoder::DecoderConfig;
use unclip_nn::Precision;
use unclip_prior::{ArPriorConfig, DiffusionPriorConfig};
use unclip_upsample::UpsamplerConfig;

use crate::dataset::{DatasetOptions, Fitting};
use crate::embeddings::EmbeddingsOptions;
use crate::objective::Dropped;
use crate::{Adam, Degradation, Schedule, TrainSettings, TrainStage};

/// What is trained, on what, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The pictures.
    pub data: DataPlan,
    /// Where things go, and what holds for all stages.
    pub run: RunPlan,
    /// What the networks are measured on.
    pub evaluation: EvaluationPlan,
    /// The vocabulary.
    pub vocabulary: VocabularyPlan,
    /// CLIP.
    pub clip: ClipPlan,
    /// What CLIP says of the data, computed once.
    pub embeddings: EmbeddingsPlan,
    /// The diffusion prior, if there is to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<PriorPlan<DiffusionPriorConfig>>,
    /// The autoregressive prior, if there is to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ar_prior: Option<PriorPlan<ArPriorConfig>>,
    /// CLIP's image tower for noised pictures, if there is to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub noised_image_encoder: Option<StagePlan<NoisedImageEncoderConfig>>,
    /// The decoder.
    pub decoder: DecoderPlan,
    /// The upsamplers, that of the smallest pictures first.
    #[serde(default)]
    pub upsampler: Vec<UpsamplerPlan>,
}

/// The pictures that a model is trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataPlan {
    /// Folders of captioned pictures, and webdataset shards (tar files).
    pub paths: Vec<PathBuf>,
    /// The shapes world, instead of any.
    pub shapes: bool,
    /// The share of items that may be unusable, from 0 to 1.
    pub max_bad: f64,
    /// How pictures become squares.
    pub fitting: Fitting,
}

impl Default for DataPlan {
    fn default() -> Self {
        let max_bad = DatasetOptions::MAX_BAD;
        Self { paths: Vec::new(), shapes: false, max_bad, fitting: Fitting::default() }
    }
}

/// Where things go, and what holds for all stages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunPlan {
    /// Folder of checkpoints and loss curves.
    pub out: PathBuf,
    /// Folder of the bundle that is written; `bundle` in that folder, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// Seed of weights, data and noise.
    pub seed: u64,
    /// The device, as `--device` of other programs spells it.
    pub device: String,
    /// The number format in which products are computed: f32, or bf16 with weights in f32, on a GPU that
    /// has it.
    pub precision: Precision,
    /// Whether what takes more memory than time is computed again on the way back.
    pub gradient_checkpointing: bool,
    /// Whether several devices sum their gradients among themselves, by burn's collective operation (NCCL);
    /// all of them have to be CUDA. Otherwise the first one does. It sends its weights to the others in any case.
    pub all_reduce: bool,
    /// Seconds between two checkpoints.
    pub checkpoint_seconds: u64,
    /// Checkpoints that are kept, the last ones.
    pub keep_checkpoints: usize,
}

impl Default for RunPlan {
    fn default() -> Self {
        Self {
            out: "out/run".into(),
            model: None,
            seed: 0,
            device: "cpu".into(),
            precision: Precision::F32,
            gradient_checkpointing: false,
            all_reduce: false,
            checkpoint_seconds: 120,
            keep_checkpoints: 1,
        }
    }
}

/// What the networks are measured on, and how often.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluationPlan {
    /// Folders of captioned pictures and shards that nothing is trained on.
    pub paths: Vec<PathBuf>,
    /// The share of the data that is held out where there are no such paths, from 0 to 1.
    pub held_out: f64,
    /// Steps between two evaluations; 0 for none.
    pub every: u64,
    /// Items that are measured, at most.
    pub items: usize,
    /// Pictures that are drawn; 0 for none.
    pub shown: usize,
    /// Captions that are drawn by prior and decoder; those of the pictures, if there are none.
    pub captions: Vec<String>,
    /// Whether the weights of the lowest loss are the ones that are kept in the end.
    pub use_best: bool,
    /// Whether TensorBoard's event files are written.
    pub tensorboard: bool,
}

impl Default for EvaluationPlan {
    fn default() -> Self {
        Self {
            paths: Vec::new(),
            held_out: 0.0,
            every: 0,
            items: 256,
            shown: 8,
            captions: Vec::new(),
            use_best: false,
            tensorboard: false,
        }
    }
}

/// A vocabulary that is learned from the captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VocabularyPlan {
    /// Merges that are learned at most.
    pub merges: usize,
}

impl Default for VocabularyPlan {
    fn default() -> Self {
        Self { merges: 2000 }
    }
}

/// CLIP: both towers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipPlan {
    /// Folder of a model whose CLIP is taken over and not trained; sizes and vocabulary are its own then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<PathBuf>,
    /// The text tower; the size of its vocabulary is that which is learned.
    pub text: TextEncoderConfig,
    /// The image tower.
    pub image: ImageEncoderConfig,
    /// The share of pictures that are worn (blurred, grainy, off in color) before CLIP sees them.
    pub worn: f64,
    /// How both are trained.
    pub train: StageTraining,
}

/// A stage: its sizes, and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StagePlan<T> {
    /// Its sizes, and how it denoises.
    pub config: T,
    /// How it is trained.
    pub train: StageTraining,
}

/// What CLIP says of the data, computed once for prior and decoder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbeddingsPlan {
    /// Whether it is; only of pictures that look the same every time.
    pub enabled: bool,
    /// Folder of the embeddings; `embeddings` in that of the run, if nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Items of a file.
    pub per_shard: usize,
}

impl Default for EmbeddingsPlan {
    fn default() -> Self {
        Self { enabled: false, path: None, per_shard: 4096 }
    }
}

/// A prior: its sizes, and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriorPlan<T> {
    /// Its sizes, and how it denoises.
    pub config: T,
    /// The share of captions that are dropped, so that it can be guided.
    pub drop_caption: f64,
    /// How much rows count; of the diffusion prior alone.
    #[serde(default)]
    pub weighting: Weighting,
    /// How it is trained.
    pub train: StageTraining,
}

/// The decoder: its sizes, and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderPlan {
    /// Its sizes, and how it denoises.
    pub config: DecoderConfig,
    /// The share of pictures that are worn (blurred, grainy, off in color) before CLIP embeds them for
    /// the decoder; none where embeddings are computed once.
    pub worn: f64,
    /// The shares of rows from which embedding and caption are dropped.
    pub dropped: Dropped,
    /// How much rows count.
    #[serde(default)]
    pub weighting: Weighting,
    /// How it is trained.
    pub train: StageTraining,
}

/// An upsampler: its sizes, and how it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpsamplerPlan {
    /// Its sizes, and how it denoises.
    pub config: UpsamplerConfig,
    /// Side of the small crops that it is trained on.
    pub crop: u32,
    /// How the small crops are degraded: blur, bsr or bsr_light.
    #[serde(default)]
    pub degrade: Degradation,
    /// How much rows count.
    #[serde(default)]
    pub weighting: Weighting,
    /// How it is trained.
    pub train: StageTraining,
}

/// How a stage is trained. The fields are those of [`TrainSettings`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageTraining {
    /// Steps in all.
    pub steps: u64,
    /// Items of a step.
    pub batch: usize,
    /// Parts in which the items of a step go through the network, one after another.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Peak learning rate of AdamW.
    pub learning_rate: f64,
    /// What the learning rate does after its rise: constant or cosine.
    #[serde(default)]
    pub schedule: Schedule,
    /// Steps over which the learning rate rises; a tenth of all, at most 100, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u64>,
    /// Steps at the end over which a constant one falls; a fifth of all, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<u64>,
    /// AdamW's constants.
    #[serde(default)]
    pub adam: Adam,
    /// Decoupled weight decay of matrices and kernels.
    pub weight_decay: f64,
    /// Largest norm of all gradients together.
    pub max_norm: f64,
    /// Decay of the averaged weights.
    pub ema_decay: f64,
}

impl Plan {
    /// The stages that it trains, in an order in which they can be.
    pub fn stages(&self) -> Vec<TrainStage> {
        let optional = [
            (self.embeddings.enabled, TrainStage::Embeddings),
            (self.prior.is_some(), TrainStage::Prior),
            (self.ar_prior.is_some(), TrainStage::ArPrior),
            (self.noised_image_encoder.is_some(), TrainStage::Noised),
        ];
        let upsamplers = (0..self.upsampler.len()).map(TrainStage::Upsampler);
        let optional = optional.into_iter().filter_map(|(there, stage)| there.then_some(stage));
        let clip = self.clip.from.is_none().then_some(TrainStage::Clip);
        clip.into_iter().chain(optional).chain([TrainStage::Decoder]).chain(upsamplers).collect()
    }

    /// How a stage is trained.
    ///
    /// # Errors
    /// A stage that is not in the plan.
    pub fn settings(&self, stage: TrainStage) -> Result<TrainSettings, InvalidSetting> {
        let train = match stage {
            TrainStage::Embeddings => None,
            TrainStage::Clip => Some(&self.clip.train),
            TrainStage::Prior => self.prior.as_ref().map(|it| &it.train),
            TrainStage::ArPrior => self.ar_prior.as_ref().map(|it| &it.train),
            TrainStage::Noised => self.noised_image_encoder.as_ref().map(|it| &it.train),
            TrainStage::Decoder => Some(&self.decoder.train),
            TrainStage::Upsampler(place) => self.upsampler.get(place).map(|it| &it.train),
        };
        let train = train.ok_or_else(|| absent(stage))?;
        let gradient_checkpointing = self.run.gradient_checkpointing;
        Ok(TrainSettings { gradient_checkpointing, ..train.settings(self.run.seed) })
    }

    /// Folder of the bundle.
    pub fn model(&self) -> PathBuf {
        self.run.model.clone().unwrap_or_else(|| self.run.out.join("bundle"))
    }

    /// Where embeddings are, and who makes which of them.
    pub fn embeddings(&self, share: (usize, usize)) -> EmbeddingsOptions {
        let EmbeddingsPlan { path, per_shard, .. } = &self.embeddings;
        let folder = path.clone().unwrap_or_else(|| self.run.out.join("embeddings"));
        EmbeddingsOptions { folder, per_shard: *per_shard, share }
    }

    /// Side of the small pictures that an upsampler reads.
    pub fn low_side(&self, place: usize) -> u32 {
        let below = self.upsampler.iter().take(place).map(|it| it.config.factor as u32);
        self.decoder.config.unet.image_size() as u32 * below.product::<u32>()
    }
}

/// The error for a stage that is not in a plan.
pub(crate) fn absent(stage: TrainStage) -> InvalidSetting {
    InvalidSetting::new("stage", stage.name(), "one of the plan")
}

impl StageTraining {
    /// The settings of a run with this seed.
    pub fn settings(&self, seed: u64) -> TrainSettings {
        TrainSettings {
            steps: self.steps,
            batch: self.batch,
            learning_rate: self.learning_rate,
            warmup: self.warmup.unwrap_or((self.steps / 10).clamp(1, 100)),
            cooldown: self.cooldown.unwrap_or(match self.schedule {
                Schedule::Constant => self.steps / 5,
                Schedule::Cosine => 0,
            }),
            accumulate: self.accumulate,
            schedule: self.schedule,
            adam: self.adam,
            weight_decay: self.weight_decay,
            max_norm: self.max_norm,
            ema_decay: self.ema_decay,
            seed,
            ..TrainSettings::default()
        }
    }
}

fn one() -> usize {
    1
}

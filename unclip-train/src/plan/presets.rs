//! Plans to start from.

use std::fmt;
use std::str::FromStr;

use unclip_core::{InvalidSetting, Weighting};
use unclip_nn::{AnyUNetConfig, AttentionKind, ResampleKind, TransformerConfig, UNetConfig};

use super::fields::{
    ClipPlan, DataPlan, DecoderPlan, EmbeddingsPlan, EvaluationPlan, Plan, PriorPlan, RunPlan,
    StagePlan, StageTraining, UpsamplerPlan, VocabularyPlan,
};
use super::large;
use crate::objective::Dropped;
use crate::{Adam, Degradation, Schedule, recipe};

/// The share of captions that a prior is trained without (paper, section 2.2).
const DROP_CAPTION: f64 = 0.1;

/// What a small decoder is trained without: more often nothing at all than the paper's, which takes far
/// longer to learn what pictures look like on their own.
const DROPPED: Dropped = Dropped { both: 0.1, image: 0.1, caption: 0.45 };

/// A plan to start from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Preset {
    /// For one's own pictures on a CPU: a decoder of 32 pixels, enlarged to 128.
    #[default]
    Tiny,
    /// For one's own pictures on a GPU: a decoder of 64 pixels, enlarged to 256.
    Small,
    /// Karlo's sizes, with the paper's settings.
    Karlo,
    /// The paper's sizes and settings.
    Paper,
    /// The bundled shapes model.
    Shapes,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Tiny, Self::Small, Self::Karlo, Self::Paper, Self::Shapes];

    fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Small => "small",
            Self::Karlo => "karlo",
            Self::Paper => "paper",
            Self::Shapes => "shapes",
        }
    }

    /// The plan.
    pub fn plan(self) -> Plan {
        match self {
            Self::Tiny => TINY.plan(),
            Self::Small => SMALL.plan(),
            Self::Karlo => large::karlo(),
            Self::Paper => large::paper(),
            Self::Shapes => shapes(),
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = InvalidSetting;

    fn from_str(name: &str) -> Result<Self, InvalidSetting> {
        let known = Self::ALL.into_iter().find(|preset| preset.name() == name);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            InvalidSetting::new("preset", format!("{name:?}"), names)
        })
    }
}

fn training(steps: u64, batch: usize, learning_rate: f64) -> StageTraining {
    StageTraining {
        steps,
        batch,
        learning_rate,
        accumulate: 1,
        schedule: Schedule::Constant,
        warmup: None,
        cooldown: None,
        adam: Adam::default(),
        weight_decay: 0.01,
        max_norm: 1.0,
        ema_decay: 0.999,
    }
}

/// The bundled model.
fn shapes() -> Plan {
    let clip = StageTraining { weight_decay: 0.05, ..training(recipe::CLIP_STEPS, 128, 1e-3) };
    Plan {
        data: DataPlan { shapes: true, ..DataPlan::default() },
        run: RunPlan { out: "out/shapes".into(), ..RunPlan::default() },
        evaluation: EvaluationPlan::default(),
        vocabulary: VocabularyPlan::default(),
        clip: ClipPlan {
            from: None,
            text: recipe::text_encoder(0),
            image: recipe::image_encoder(),
            worn: recipe::WORN,
            train: clip,
        },
        embeddings: EmbeddingsPlan::default(),
        prior: Some(PriorPlan {
            config: recipe::prior(),
            drop_caption: DROP_CAPTION,
            weighting: Weighting::Even,
            train: training(recipe::PRIOR_STEPS, 128, 1e-3),
        }),
        ar_prior: Some(PriorPlan {
            config: recipe::ar_prior(),
            drop_caption: DROP_CAPTION,
            weighting: Weighting::Even,
            train: training(recipe::AR_PRIOR_STEPS, 128, 2e-3),
        }),
        noised_image_encoder: Some(StagePlan {
            config: recipe::noised_image_encoder(),
            train: training(recipe::NOISED_STEPS, 128, 1e-3),
        }),
        decoder: DecoderPlan {
            config: recipe::decoder(),
            worn: recipe::WORN,
            dropped: DROPPED,
            weighting: Weighting::MaxSnr(5.0),
            train: training(recipe::DECODER_STEPS, 32, 2e-3),
        },
        upsampler: recipe::upsamplers()
            .map(|config| upsampler(config, training(recipe::UPSAMPLER_STEPS, 16, 1e-3)))
            .to_vec(),
    }
}

fn upsampler(config: unclip_upsample::UpsamplerConfig, train: StageTraining) -> UpsamplerPlan {
    UpsamplerPlan {
        config,
        crop: recipe::LOW_CROP,
        degrade: Degradation::Blur,
        weighting: Weighting::Even,
        train,
    }
}

/// Sizes of a plan for one's own pictures.
struct Sizes {
    /// Sides of the pictures of the decoder and of CLIP, and of CLIP's patches.
    sides: [usize; 3],
    context_length: usize,
    d_embedding: usize,
    clip_layers: [usize; 2],
    /// Width and depth of the prior.
    prior: [usize; 2],
    channels: &'static [usize],
    num_res_blocks: usize,
    attention_resolutions: &'static [usize],
    upsampler_channels: &'static [usize],
    /// Steps of CLIP, prior, decoder and upsampler.
    steps: [u64; 4],
    /// Items of their steps.
    batches: [usize; 4],
    learning_rate: f64,
}

const TINY: Sizes = Sizes {
    sides: [32, 64, 8],
    context_length: 32,
    d_embedding: 128,
    clip_layers: [3, 4],
    prior: [192, 4],
    channels: &[48, 96],
    num_res_blocks: 1,
    attention_resolutions: &[16, 8],
    upsampler_channels: &[32, 48],
    steps: [6_000, 8_000, 40_000, 6_000],
    batches: [128, 128, 32, 16],
    learning_rate: 1e-3,
};

const SMALL: Sizes = Sizes {
    sides: [64, 64, 8],
    context_length: 48,
    d_embedding: 256,
    clip_layers: [6, 6],
    prior: [384, 6],
    channels: &[128, 256, 384],
    num_res_blocks: 2,
    attention_resolutions: &[32, 16],
    upsampler_channels: &[64, 128],
    steps: [20_000, 40_000, 200_000, 40_000],
    batches: [256, 256, 64, 32],
    learning_rate: 3e-4,
};

impl Sizes {
    fn tower(&self, n_layers: usize) -> TransformerConfig {
        let own = recipe::text_encoder(0).transformer;
        let d_model = self.d_embedding;
        TransformerConfig { d_model, n_layers, n_heads: d_model / 32, d_hidden: 4 * d_model, ..own }
    }

    fn clip(&self) -> ClipPlan {
        let [text_layers, image_layers] = self.clip_layers;
        let [_, image_size, patch_size] = self.sides;
        let Self { context_length, d_embedding, .. } = *self;
        let text = recipe::text_encoder(0);
        let image = recipe::image_encoder();
        ClipPlan {
            from: None,
            text: unclip_clip::TextEncoderConfig {
                context_length,
                d_embedding,
                transformer: self.tower(text_layers),
                ..text
            },
            image: unclip_clip::ImageEncoderConfig {
                image_size,
                patch_size,
                d_embedding,
                transformer: self.tower(image_layers),
                ..image
            },
            worn: 0.25,
            train: StageTraining { weight_decay: 0.05, ..self.training(0) },
        }
    }

    fn training(&self, stage: usize) -> StageTraining {
        training(self.steps[stage], self.batches[stage], self.learning_rate)
    }

    fn prior(&self) -> PriorPlan<unclip_prior::DiffusionPriorConfig> {
        let [d_model, n_layers] = self.prior;
        let own = recipe::prior();
        let transformer = TransformerConfig {
            d_model,
            n_layers,
            n_heads: d_model / 32,
            d_hidden: 4 * d_model,
            ..own.transformer
        };
        let Self { context_length, d_embedding, .. } = *self;
        let config = unclip_prior::DiffusionPriorConfig {
            d_embedding,
            d_text: d_embedding,
            context_length,
            transformer,
            ..own
        };
        let (drop_caption, weighting) = (DROP_CAPTION, Weighting::Even);
        PriorPlan { config, drop_caption, weighting, train: self.training(1) }
    }

    fn decoder(&self) -> DecoderPlan {
        let own = recipe::decoder();
        let unet = UNetConfig {
            image_size: self.sides[0],
            in_channels: 3,
            out_channels: 3,
            block_out_channels: self.channels.to_vec(),
            num_res_blocks: self.num_res_blocks,
            attention_resolutions: self.attention_resolutions.to_vec(),
            d_head: self.channels[0],
            d_context: Some(self.d_embedding),
            norm_groups: 8,
            scale_shift: true,
            coordinates: false,
            patch_size: 2,
            d_time: Some(4 * self.channels[0]),
            n_heads: None,
            d_sinusoid: None,
            attention: AttentionKind::Added,
            resampling: ResampleKind::Residual,
            norm_eps: 1e-5,
        };
        let config = unclip_decoder::DecoderConfig {
            d_embedding: self.d_embedding,
            d_text: Some(self.d_embedding),
            layout: None,
            unet: unet.into(),
            ..own
        };
        let (dropped, weighting) = (DROPPED, Weighting::MaxSnr(5.0));
        DecoderPlan { config, worn: 0.0, dropped, weighting, train: self.training(2) }
    }

    fn upsampler(&self) -> UpsamplerPlan {
        let [own, _] = recipe::upsamplers();
        let AnyUNetConfig::Adm(unet) = own.unet.clone() else { unreachable!("the recipe's") };
        let unet = UNetConfig {
            image_size: 4 * self.sides[0],
            block_out_channels: self.upsampler_channels.to_vec(),
            ..unet
        };
        let config = unclip_upsample::UpsamplerConfig { unet: unet.into(), ..own };
        upsampler(config, self.training(3))
    }

    fn plan(&self) -> Plan {
        Plan {
            data: DataPlan::default(),
            run: RunPlan::default(),
            evaluation: EvaluationPlan { held_out: 0.02, every: 1000, ..EvaluationPlan::default() },
            vocabulary: VocabularyPlan::default(),
            clip: self.clip(),
            embeddings: EmbeddingsPlan { enabled: true, ..EmbeddingsPlan::default() },
            prior: Some(self.prior()),
            ar_prior: None,
            noised_image_encoder: None,
            decoder: self.decoder(),
            upsampler: vec![self.upsampler()],
        }
    }
}

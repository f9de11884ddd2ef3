//! Plans of published sizes.
//!
//! How each stage is trained is what the paper's table 3 says of it, for batches and numbers of steps that
//! take many GPUs.

use unclip_clip::{ImageEncoderConfig, TextEncoderConfig};
use unclip_core::{
    BetaSchedule, Ddim, Ddpm, DiffusionConfig, Parameterization, VarianceType, Weighting,
};
use unclip_decoder::DecoderConfig;
use unclip_nn::{Activation, AttentionKind, ResampleKind, TransformerConfig, UNetConfig};
use unclip_prior::DiffusionPriorConfig;
use unclip_upsample::UpsamplerConfig;

use super::fields::{
    ClipPlan, DataPlan, DecoderPlan, EmbeddingsPlan, EvaluationPlan, Plan, PriorPlan, RunPlan,
    StageTraining, UpsamplerPlan, VocabularyPlan,
};
use crate::objective::Dropped;
use crate::{Adam, Degradation, Schedule, recipe};

/// A U-Net: its channels, blocks of a level, and sides at which it attends.
struct Sizes {
    channels: &'static [usize],
    blocks: usize,
    attention: &'static [usize],
}

/// A model: its CLIP, the layers of its prior, its decoder, and its upsamplers.
struct Model {
    clip: ClipPlan,
    prior_layers: usize,
    decoder: Sizes,
    upsamplers: Vec<(Sizes, Degradation, StageTraining)>,
}

/// Karlo's sizes, without its second network of the upsampler: prior 1.0 billion weights, decoder 0.9,
/// upsampler 0.7, on ViT-L/14.
pub(super) fn karlo() -> Plan {
    Model {
        clip: vit_l_14(),
        prior_layers: 20,
        decoder: Sizes { channels: &[320, 640, 960, 1280], blocks: 3, attention: &[32, 16, 8] },
        upsamplers: vec![(
            Sizes { channels: &[320, 640, 960, 1280], blocks: 3, attention: &[] },
            Degradation::Blur,
            FIRST_UPSAMPLER.training(),
        )],
    }
    .plan()
}

/// The paper's sizes (tables 2 and 3), on ViT-H/16: prior 1.2 billion weights, decoder 2.3, upsamplers 0.7 and
/// 0.3. The paper counts 3.5 billion in its decoder, which reads captions by a transformer of its own (24 layers
/// of width 2048: 1.2 billion); here prior and decoder read what CLIP's says. Its decoder and its first upsampler
/// have dropout; networks here have none.
pub(super) fn paper() -> Plan {
    Model {
        clip: vit_h_16(),
        prior_layers: 24,
        decoder: Sizes { channels: &[512, 1024, 1536, 2048], blocks: 3, attention: &[32, 16, 8] },
        upsamplers: vec![
            (
                Sizes { channels: &[320, 640, 960, 1280], blocks: 3, attention: &[] },
                Degradation::Blur,
                FIRST_UPSAMPLER.training(),
            ),
            (
                Sizes { channels: &[192, 192, 384, 384, 768, 768], blocks: 2, attention: &[] },
                Degradation::Bsr,
                SECOND_UPSAMPLER.training(),
            ),
        ],
    }
    .plan()
}

/// A column of table 3: steps, batch, learning rate, Adam's second decay rate and epsilon, decay of the
/// average, weight decay.
struct Column(u64, usize, f64, f64, f64, f64, f64);

const PRIOR: Column = Column(600_000, 4096, 1.1e-4, 0.96, 1e-6, 0.9999, 6e-2);
const DECODER: Column = Column(800_000, 2048, 1.2e-4, 0.999, 1e-8, 0.9999, 0.0);
const FIRST_UPSAMPLER: Column = Column(1_000_000, 1024, 1.2e-4, 0.999, 1e-8, 0.9999, 0.0);
const SECOND_UPSAMPLER: Column = Column(1_000_000, 512, 1.0e-4, 0.999, 1e-8, 0.9999, 0.0);
/// CLIP's own (Radford et al. 2021, tables 19 and 20), of ViT-L/14.
const CLIP: Column = Column(400_000, 32_768, 4e-4, 0.98, 1e-6, 0.999, 0.2);

impl Column {
    fn training(&self) -> StageTraining {
        let &Self(steps, batch, learning_rate, beta_2, epsilon, ema_decay, weight_decay) = self;
        StageTraining {
            steps,
            batch,
            accumulate: 1,
            learning_rate,
            schedule: Schedule::Constant,
            warmup: Some(1000),
            cooldown: Some(0),
            adam: Adam { beta_1: 0.9, beta_2, epsilon },
            weight_decay,
            max_norm: 1.0,
            ema_decay,
        }
    }
}

fn transformer(
    [d_model, n_layers, n_heads]: [usize; 3],
    activation: Activation,
) -> TransformerConfig {
    TransformerConfig {
        d_model,
        n_layers,
        n_heads,
        d_hidden: 4 * d_model,
        activation,
        norm_eps: 1e-5,
    }
}

/// OpenAI's, as every public unCLIP of its space has it.
fn vit_l_14() -> ClipPlan {
    clip(768, [768, 12, 12], (224, 14), [1024, 24, 16])
}

/// The paper's (appendix C).
fn vit_h_16() -> ClipPlan {
    clip(1024, [1024, 24, 16], (256, 16), [1280, 32, 16])
}

fn clip(
    d_embedding: usize,
    text: [usize; 3],
    (image_size, patch_size): (usize, usize),
    image: [usize; 3],
) -> ClipPlan {
    ClipPlan {
        from: None,
        text: TextEncoderConfig {
            context_length: 77,
            d_embedding,
            transformer: transformer(text, Activation::QuickGelu),
            ..recipe::text_encoder(0)
        },
        image: ImageEncoderConfig {
            image_size,
            patch_size,
            d_embedding,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
            transformer: transformer(image, Activation::QuickGelu),
            ..recipe::image_encoder()
        },
        worn: 0.0,
        train: StageTraining { schedule: Schedule::Cosine, ..CLIP.training() },
    }
}

impl Sizes {
    fn unet(&self, image_size: usize, [in_channels, out_channels]: [usize; 2]) -> UNetConfig {
        UNetConfig {
            image_size,
            in_channels,
            out_channels,
            block_out_channels: self.channels.to_vec(),
            num_res_blocks: self.blocks,
            attention_resolutions: self.attention.to_vec(),
            d_head: 64,
            d_context: None,
            norm_groups: 32,
            scale_shift: true,
            coordinates: false,
            patch_size: 1,
            d_time: None,
            n_heads: None,
            d_sinusoid: None,
            attention: AttentionKind::Added,
            resampling: ResampleKind::Residual,
            norm_eps: 1e-5,
        }
    }
}

impl Model {
    fn prior(&self) -> PriorPlan<DiffusionPriorConfig> {
        let text = &self.clip.text;
        PriorPlan {
            config: DiffusionPriorConfig {
                d_embedding: text.d_embedding,
                d_text: text.transformer.d_model,
                context_length: text.context_length,
                principal_components: false,
                transformer: transformer([2048, self.prior_layers, 32], Activation::Gelu),
                diffusion: DiffusionConfig {
                    clamp: Some(5.0),
                    sampler: Ddpm.into(),
                    steps: 64,
                    guidance_scale: 4.0,
                    ..DiffusionConfig::cosine(Parameterization::Sample)
                },
                ..recipe::prior()
            },
            drop_caption: 0.1,
            weighting: Weighting::Even,
            train: PRIOR.training(),
        }
    }

    fn decoder(&self) -> DecoderPlan {
        let text = &self.clip.text;
        let unet = UNetConfig {
            d_context: Some(self.decoder.channels[0] * 4 + 256),
            ..self.decoder.unet(64, [3, 6])
        };
        DecoderPlan {
            config: DecoderConfig {
                d_embedding: text.d_embedding,
                d_text: Some(text.transformer.d_model),
                whitened: false,
                layout: None,
                unet: unet.into(),
                diffusion: DiffusionConfig {
                    variance: VarianceType::LearnedRange,
                    sampler: Ddpm.into(),
                    steps: 250,
                    guidance_scale: 8.0,
                    ..DiffusionConfig::cosine(Parameterization::Epsilon)
                },
                ..recipe::decoder()
            },
            worn: 0.0,
            dropped: Dropped::PAPER,
            weighting: Weighting::Even,
            train: DECODER.training(),
        }
    }

    fn upsampler(
        place: usize,
        (sizes, degrade, train): &(Sizes, Degradation, StageTraining),
    ) -> UpsamplerPlan {
        let [own, _] = recipe::upsamplers();
        let unet = UNetConfig { scale_shift: false, ..sizes.unet(256 << (2 * place), [6, 3]) };
        let (steps, beta_schedule) = match place {
            0 => (27, BetaSchedule::SquaredCosine),
            _ => (15, BetaSchedule::Linear { start: 1e-4, end: 0.02 }),
        };
        UpsamplerPlan {
            config: UpsamplerConfig {
                residual: false,
                unet: unet.into(),
                diffusion: DiffusionConfig {
                    sampler: Ddim { eta: 0.0 }.into(),
                    beta_schedule,
                    steps,
                    ..DiffusionConfig::cosine(Parameterization::Epsilon)
                },
                ..own
            },
            // a quarter of the picture, on each side
            crop: 16 << (2 * place),
            degrade: *degrade,
            weighting: Weighting::Even,
            train: train.clone(),
        }
    }

    fn plan(self) -> Plan {
        let upsampler = self.upsamplers.iter().enumerate();
        Plan {
            data: DataPlan::default(),
            run: RunPlan { device: "cuda".into(), ..RunPlan::default() },
            evaluation: EvaluationPlan {
                held_out: 0.001,
                every: 5000,
                ..EvaluationPlan::default()
            },
            vocabulary: VocabularyPlan { merges: 48_894 },
            embeddings: EmbeddingsPlan { enabled: true, ..EmbeddingsPlan::default() },
            prior: Some(self.prior()),
            ar_prior: None,
            noised_image_encoder: None,
            decoder: self.decoder(),
            upsampler: upsampler.map(|(place, it)| Self::upsampler(place, it)).collect(),
            clip: self.clip,
        }
    }
}

//! The decoder's configuration: U-Nets, and how each is sampled.

use serde_json::json;
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{
    BetaSchedule, Ddim, Ddpm, DiffusionConfig, Parameterization, SamplerKind, Spacing, VarianceType,
};
use unclip_decoder::{CaptionKind, DecoderConfig};
use unclip_nn::LaionUNetConfig;
use unclip_nn::checkpoint::LoadError;
use unclip_upsample::{Resize, UpsamplerConfig};

use super::network::{Each, network};
use super::schedules::{betas, prediction};
use crate::layouts::diffusers::fields::Fields;

/// Fields of ours, and theirs.
pub(super) const NAMES: [(&str, &str); 9] = [
    ("channels", "dim"),
    ("block_out_channels", "dim_mults"),
    ("num_res_blocks", "num_resnet_blocks"),
    ("d_head", "attn_dim_head"),
    ("n_heads", "attn_heads"),
    ("d_context", "cond_dim"),
    ("time_tokens", "num_time_tokens"),
    ("image_tokens", "num_image_tokens"),
    ("norm_groups", "resnet_groups"),
];

/// Guidance of LAION's own programs.
const GUIDANCE: f64 = 1.7;

/// What says nothing about a decoder that draws.
const TRAINING: [&str; 17] = [
    "loss_type",
    "image_cond_drop_prob",
    "text_cond_drop_prob",
    "random_crop_sizes",
    "use_blur_for_lowres_cond",
    "lowres_downsample_first",
    "blur_prob",
    "blur_sigma",
    "blur_kernel_size",
    "lowres_noise_sample_level",
    "clip_denoised",
    "clip_x_start",
    "vb_loss_weight",
    "dynamic_thres_percentile",
    "p2_loss_weight_gamma",
    "p2_loss_weight_k",
    "clip_adapter_overrides",
];

/// One U-Net, what it reads, and how it is sampled.
#[derive(Debug)]
pub(super) struct Unet {
    /// Side of its pictures.
    pub(super) side: usize,
    network: LaionUNetConfig,
    image: Option<usize>,
    text: Option<usize>,
    image_tokens: usize,
    positions: usize,
    diffusion: DiffusionConfig,
    path: std::path::PathBuf,
}

impl Unet {
    /// Whether captions have a part in it.
    pub(super) fn reads_captions(&self) -> bool {
        self.text.is_some()
    }

    fn refused(&self, field: &str, found: &str, expected: &str) -> LoadError {
        let source = unclip_core::InvalidSetting::new(field, found, expected);
        LoadError::Config { path: self.path.clone(), source }
    }

    /// As what draws.
    pub(super) fn decoder(&self) -> Result<DecoderConfig, LoadError> {
        let field = "decoder.unets.0.image_embed_dim";
        let width = "the width of CLIP's embeddings";
        let d_embedding = self.image.ok_or_else(|| self.refused(field, "absent", width))?;
        if d_embedding == self.network.d_context {
            let expected =
                "another than cond_dim: the reference has no tokens of an embedding then";
            return Err(self.refused(field, &d_embedding.to_string(), expected));
        }
        Ok(DecoderConfig {
            channels: PICTURE_CHANNELS,
            d_embedding,
            d_text: self.text,
            captions: CaptionKind::Replaced { positions: self.positions },
            image_tokens: self.image_tokens,
            whitened: false,
            layout: None,
            augmentation: None,
            control: None,
            unet: self.network.clone().into(),
            diffusion: DiffusionConfig {
                guidance_scale: GUIDANCE,
                guided_variance: self.diffusion.variance.is_learned(),
                ..self.diffusion.clone()
            },
        })
    }

    /// As what enlarges pictures of another side.
    pub(super) fn upsampler(&self, from: usize) -> Result<UpsamplerConfig, LoadError> {
        if self.text.is_some() {
            let expected = "false of what enlarges: captions are read by what draws alone";
            return Err(self.refused("cond_on_text_encodings", "true", expected));
        }
        if from == 0 || !self.side.is_multiple_of(from) {
            let expected = format!("multiples of the side before each, here of {from}");
            return Err(self.refused("decoder.image_sizes", &self.side.to_string(), &expected));
        }
        let network = LaionUNetConfig {
            in_channels: 2 * PICTURE_CHANNELS,
            read_again: PICTURE_CHANNELS,
            ..self.network.clone()
        };
        Ok(UpsamplerConfig {
            resize: Resize::Nearest,
            ..UpsamplerConfig::new(self.side / from, network, self.diffusion.clone())
        })
    }
}

/// The U-Nets of the object `decoder` without its CLIP, the smallest pictures first.
pub(super) fn unets(mut fields: Fields) -> Result<Vec<Unet>, LoadError> {
    fields.ignore(&TRAINING);
    fields.expect_all([
        ("channels", json!(PICTURE_CHANNELS)),
        ("predict_x_start_for_latent_diffusion", json!(false)),
        ("learned_variance_constrain_frac", json!(false)),
        ("unconditional", json!(false)),
        ("auto_normalize_img", json!(true)),
        ("use_dynamic_thres", json!(false)),
        ("ddim_sampling_eta", json!(0)),
    ])?;
    let noised: Each<bool> = fields.take_or("use_noise_for_lowres_cond", Each::Same(false))?;
    if (0..64).filter_map(|place| noised.at(place)).any(|it| it) {
        let expected = "false: what enlarges is told no level of noise here";
        return Err(fields.error("use_noise_for_lowres_cond", true, expected));
    }
    let own = fields.objects("unets")?;
    let sides = sides(&mut fields, own.len())?;
    let schedules = Schedules::read(&mut fields, own.len())?;
    fields.rest_is_empty()?;
    let of = |(place, (mut own, side)): (usize, (Fields, usize))| {
        let diffusion = schedules.at(place, &fields)?;
        unet(&mut own, side, diffusion)
    };
    own.into_iter().zip(sides).enumerate().map(of).collect()
}

/// The sides of the pictures, smallest first.
fn sides(fields: &mut Fields, n: usize) -> Result<Vec<usize>, LoadError> {
    let one: Option<usize> = fields.take_optional("image_size")?;
    let several: Option<Vec<usize>> = fields.take_optional("image_sizes")?;
    let mut sides = match (one, several) {
        (_, Some(several)) => several,
        (Some(one), None) => vec![one],
        (None, None) => return Err(fields.error("image_sizes", "absent", "a side for each U-Net")),
    };
    sides.sort_unstable();
    sides.dedup();
    if n == 0 || sides.len() != n {
        let expected = format!("a side for each of the {n} U-Nets, of which there is at least one");
        return Err(fields.error("image_sizes", format!("{sides:?}"), &expected));
    }
    Ok(sides)
}

/// How each U-Net is sampled.
struct Schedules {
    n: usize,
    timesteps: usize,
    betas: Option<Each<String>>,
    steps: Option<Each<Option<usize>>>,
    learned: Each<bool>,
    x_start: Each<bool>,
    v: Each<bool>,
}

impl Schedules {
    fn read(fields: &mut Fields, n: usize) -> Result<Self, LoadError> {
        Ok(Self {
            n,
            timesteps: fields.take_or("timesteps", 1000)?,
            betas: fields.take_optional("beta_schedule")?,
            steps: fields.take_optional("sample_timesteps")?,
            learned: fields.take_or("learned_variance", Each::Same(true))?,
            x_start: fields.take_or("predict_x_start", Each::Same(false))?,
            v: fields.take_or("predict_v", Each::Same(false))?,
        })
    }

    fn at(&self, place: usize, fields: &Fields) -> Result<DiffusionConfig, LoadError> {
        let timesteps = self.timesteps;
        let asked = self.steps.as_ref().and_then(|it| it.at(place)).flatten();
        let (sampler, steps, spacing): (SamplerKind, usize, Spacing) = match asked {
            Some(0) => return Err(fields.error("sample_timesteps", 0, "at least 1")),
            Some(steps) if steps > timesteps => {
                let expected = format!("at most {timesteps}");
                return Err(fields.error("sample_timesteps", steps, &expected));
            }
            Some(steps) if steps < timesteps => {
                (Ddim { eta: 0.0 }.into(), steps, Spacing::Between { with_first: false })
            }
            _ => (Ddpm.into(), timesteps, Spacing::Even),
        };
        let [x_start, v] = [&self.x_start, &self.v].map(|it| it.at(place).unwrap_or(false));
        // one value is that of the first alone
        let is_learned = match &self.learned {
            Each::Same(learned) => *learned && place == 0,
            Each::Own(_) => self.learned.at(place).unwrap_or(false),
        };
        let kind: Parameterization = prediction(x_start, v);
        Ok(DiffusionConfig {
            num_train_timesteps: timesteps,
            beta_schedule: self.betas(place, fields)?,
            // by DDIM, the reference ends at the noise of the first timestep
            set_alpha_to_one: asked.is_none_or(|steps| steps == timesteps),
            variance: if is_learned {
                VarianceType::LearnedRange
            } else {
                VarianceType::FixedSmall
            },
            sampler,
            steps,
            spacing,
            ..DiffusionConfig::cosine(kind)
        })
    }

    /// A cosine for all but the last of several, if nothing is said.
    fn betas(&self, place: usize, fields: &Fields) -> Result<BetaSchedule, LoadError> {
        let name = match &self.betas {
            Some(given) => given.at(place).ok_or_else(|| {
                let expected = format!("one for each of the {} U-Nets", self.n);
                fields.error("beta_schedule", "a shorter list", &expected)
            })?,
            None if place > 0 && place + 1 == self.n => "linear".into(),
            None => "cosine".into(),
        };
        betas(fields, &name, self.timesteps)
    }
}

/// An object of `unets`.
fn unet(fields: &mut Fields, side: usize, diffusion: DiffusionConfig) -> Result<Unet, LoadError> {
    fields.expect_all([
        ("self_cond", json!(false)),
        ("lowres_noise_cond", json!(false)),
        ("cross_embed_downsample", json!(false)),
        ("combine_upsample_fmaps", json!(false)),
        ("add_image_embeds_to_time", json!(true)),
        ("channels", json!(PICTURE_CHANNELS)),
    ])?;
    // what the decoder decides, what the reference does not use, and training
    fields.ignore(&[
        "lowres_cond",
        "channels_out",
        "out_dim",
        "cond_on_image_embeds",
        "attend_at_middle",
        "cross_embed_downsample_kernel_sizes",
        "checkpoint_during_training",
    ]);
    let reads: Option<bool> = fields.take_optional("cond_on_text_encodings")?;
    let width: Option<usize> = fields.take_optional("text_embed_dim")?;
    let text = reads.unwrap_or(false).then_some(width);
    let text = match text {
        Some(None) => {
            let expected = "the width of CLIP's tokens: captions are read";
            return Err(fields.error("text_embed_dim", "absent", expected));
        }
        other => other.flatten(),
    };
    let parsed = Unet {
        side,
        image: fields.take_optional("image_embed_dim")?,
        text,
        image_tokens: fields.take_or("num_image_tokens", 4)?,
        positions: fields.take_or("max_text_len", 256)?,
        network: network(fields, side, &diffusion)?,
        diffusion,
        path: fields.path().into(),
    };
    fields.rest_is_empty()?;
    Ok(parsed)
}

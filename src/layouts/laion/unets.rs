//! The decoder's configuration: U-Nets, and how each is sampled.

use std::path::PathBuf;

use serde_json::json;
use unclip_core::image::PICTURE_CHANNELS;
use unclip_core::{
    BetaSchedule, Ddim, Ddpm, DiffusionConfig, EarlyDdim, Parameterization, SamplerKind, Spacing,
    VarianceType,
};
use unclip_decoder::{CaptionKind, DecoderConfig};
use unclip_nn::checkpoint::LoadError;
use unclip_nn::{LaionRelease, LaionUNetConfig};
use unclip_upsample::{Resize, UpsamplerConfig};

use super::network::{Each, network};
use super::refused;
use super::schedules::{betas, prediction};
use crate::layouts::diffusers::fields::Fields;

/// Fields of ours, and theirs.
pub(super) const NAMES: [(&str, &str); 17] = [
    ("image_size", "decoder.image_sizes"),
    ("factor", "decoder.image_sizes"),
    ("num_train_timesteps", "decoder.timesteps"),
    ("steps", "decoder.sample_timesteps"),
    ("kernels", "init_cross_embed_kernel_sizes"),
    ("last_kernel", "final_conv_kernel_size"),
    ("d_embedding", "image_embed_dim"),
    ("positions", "max_text_len"),
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
const TRAINING: [&str; 15] = [
    "loss_type",
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
    guidance: f64,
    /// Its place in the file, for errors.
    within: String,
    path: PathBuf,
}

impl Unet {
    /// Whether captions have a part in it.
    pub(super) fn reads_captions(&self) -> bool {
        self.text.is_some()
    }

    /// How it is sampled.
    pub(super) fn diffusion(&self) -> &DiffusionConfig {
        &self.diffusion
    }

    fn refused(&self, field: &str, found: impl ToString, expected: &str) -> LoadError {
        refused(&self.path, &format!("{}{field}", self.within), found, expected)
    }

    /// As what draws.
    pub(super) fn decoder(&self) -> Result<DecoderConfig, LoadError> {
        let field = "image_embed_dim";
        let width = "the width of CLIP's embeddings";
        let d_embedding = self.image.ok_or_else(|| self.refused(field, "absent", width))?;
        if d_embedding == self.network.d_context {
            let expected =
                "another than cond_dim: the reference has no tokens of an embedding then";
            return Err(self.refused(field, d_embedding, expected));
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
                guidance_scale: self.guidance,
                guided_variance: self.diffusion.variance.is_learned(),
                ..self.diffusion.clone()
            },
        })
    }

    /// As what enlarges pictures of another side.
    pub(super) fn upsampler(&self, from: usize) -> Result<UpsamplerConfig, LoadError> {
        if self.text.is_some() {
            let expected = "false of what enlarges: captions are read by what draws alone";
            return Err(self.refused("cond_on_text_encodings", true, expected));
        }
        if from == 0 || !self.side.is_multiple_of(from) {
            let expected = format!("multiples of the side before each, here of {from}");
            return Err(refused(&self.path, "decoder.image_sizes", self.side, expected));
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

/// The U-Nets of the object `decoder` without its CLIP, the smallest pictures first, all of one release.
pub(super) fn unets(mut fields: Fields, release: LaionRelease) -> Result<Vec<Unet>, LoadError> {
    fields.ignore(&TRAINING);
    fields.expect_all([
        ("channels", json!(PICTURE_CHANNELS)),
        ("predict_x_start_for_latent_diffusion", json!(false)),
        ("learned_variance_constrain_frac", json!(false)),
        ("unconditional", json!(false)),
        ("auto_normalize_img", json!(true)),
        ("use_dynamic_thres", json!(false)),
    ])?;
    let noised: Option<Each<bool>> = fields.take_optional("use_noise_for_lowres_cond")?;
    if noised.is_some_and(|it| it.any(|noised| *noised)) {
        let expected = "false: what enlarges is told no level of noise here";
        return Err(fields.error("use_noise_for_lowres_cond", true, expected));
    }
    let drops = ["image_cond_drop_prob", "text_cond_drop_prob"];
    let [image, text] = [fields.take_or(drops[0], 0.1)?, fields.take_or(drops[1], 0.5)?];
    // one that always had its condition does not know what to be led away from
    let guidance = if image > 0.0 || text > 0.0 { GUIDANCE } else { 1.0 };
    let own = fields.objects("unets")?;
    let sides = sides(&mut fields, own.len())?;
    let schedules = Schedules::read(&mut fields, own.len())?;
    fields.rest_is_empty()?;
    let of = |(place, (mut own, side)): (usize, (Fields, usize))| {
        let diffusion = schedules.at(place, release, &fields)?;
        let unet = unet(&mut own, side, (diffusion, release))?;
        Ok(Unet { guidance, within: format!("decoder.unets.{place}."), ..unet })
    };
    own.into_iter().zip(sides).enumerate().map(of).collect()
}

/// The sides of the pictures, smallest first.
fn sides(fields: &mut Fields, n: usize) -> Result<Vec<usize>, LoadError> {
    let one: Option<usize> = fields.take_optional("image_size")?;
    let several: Option<Vec<usize>> = fields.take_optional("image_sizes")?;
    let mut sides = match (one, several) {
        (Some(one), Some(_)) => {
            return Err(fields.error("image_size", one, "absent beside image_sizes"));
        }
        (None, Some(several)) => several,
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
    eta: Option<f64>,
}

impl Schedules {
    fn read(fields: &mut Fields, n: usize) -> Result<Self, LoadError> {
        Ok(Self {
            n,
            timesteps: fields.take_or("timesteps", 1000)?,
            betas: Each::of(fields, "beta_schedule", n)?,
            steps: Each::of(fields, "sample_timesteps", n)?,
            learned: fields.take_or("learned_variance", Each::Same(true))?,
            x_start: Each::of(fields, "predict_x_start", n)?.unwrap_or(Each::Same(false)),
            v: Each::of(fields, "predict_v", n)?.unwrap_or(Each::Same(false)),
            eta: eta(fields)?,
        })
    }

    fn at(
        &self,
        place: usize,
        release: LaionRelease,
        fields: &Fields,
    ) -> Result<DiffusionConfig, LoadError> {
        let timesteps = self.timesteps;
        if timesteps == 0 {
            return Err(fields.error("timesteps", 0, "at least 1"));
        }
        let asked = self.steps.as_ref().and_then(|it| it.at(place)).flatten();
        let (sampler, steps, spacing): (SamplerKind, usize, Spacing) = match asked {
            Some(0) => return Err(fields.error("sample_timesteps", 0, "at least 1")),
            Some(steps) if steps > timesteps => {
                let expected = format!("at most {timesteps}, which is timesteps");
                return Err(fields.error("sample_timesteps", steps, &expected));
            }
            Some(steps) if steps < timesteps => {
                (self.ddim(release, fields)?, steps, Spacing::Between { with_first: false })
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
            // by their DDIM, the later releases end at the noise of the first timestep
            set_alpha_to_one: release == LaionRelease::V1_0
                || asked.is_none_or(|steps| steps == timesteps),
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

    /// The DDIM of a release, without randomness in the later ones.
    fn ddim(&self, release: LaionRelease, fields: &Fields) -> Result<SamplerKind, LoadError> {
        match (release, self.eta) {
            (LaionRelease::V1_0, eta) => Ok(EarlyDdim { eta: eta.unwrap_or(1.0) }.into()),
            (LaionRelease::V1_15, None | Some(0.0)) => Ok(Ddim { eta: 0.0 }.into()),
            (LaionRelease::V1_15, Some(eta)) => {
                let expected = "0; other values are not supported for releases from 1.10 on";
                Err(fields.error("ddim_sampling_eta", eta, expected))
            }
        }
    }

    /// A cosine for all but the last of several, if nothing is said.
    fn betas(&self, place: usize, fields: &Fields) -> Result<BetaSchedule, LoadError> {
        let name = match &self.betas {
            Some(given) => given.at(place).unwrap_or_default(),
            None if place > 0 && place + 1 == self.n => "linear".into(),
            None => "cosine".into(),
        };
        betas(fields, &name, self.timesteps)
    }
}

fn eta(fields: &mut Fields) -> Result<Option<f64>, LoadError> {
    let eta: Option<f64> = fields.take_optional("ddim_sampling_eta")?;
    match eta.filter(|eta| !(0.0..=1.0).contains(eta)) {
        Some(eta) => Err(fields.error("ddim_sampling_eta", eta, "0 to 1")),
        None => Ok(eta),
    }
}

/// An object of `unets`.
fn unet(
    fields: &mut Fields,
    side: usize,
    (diffusion, release): (DiffusionConfig, LaionRelease),
) -> Result<Unet, LoadError> {
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
        network: network(fields, side, (&diffusion, release))?,
        diffusion,
        guidance: 1.0,
        within: String::new(),
        path: fields.path().into(),
    };
    fields.rest_is_empty()?;
    Ok(parsed)
}

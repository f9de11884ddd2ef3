//! What each stage is trained to do on the shapes world: a step number to a loss.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use unclip_clip::loss::contrastive_loss;
use unclip_clip::{
    ImageEncoder, ImageEncoderConfig, TextEncoder, TextEncoderConfig, Tokenizer, preprocess,
};
use unclip_core::{ImageEmbedding, InvalidSetting, NoiseSchedule, TextEmbedding};
use unclip_decoder::{Condition, Decoder, DecoderConfig};
use unclip_prior::{DiffusionPrior, DiffusionPriorConfig};
use unclip_upsample::degrade::gaussian_blur;
use unclip_upsample::{Upsampler, UpsamplerConfig};

use crate::data::{Draws, batch, pictures, whole_pictures};
use crate::shapes::{Region, Sample, ShapesWorld};

/// Where a step's data and draws come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The pictures and captions.
    pub world: ShapesWorld,
    /// Items of a step.
    pub batch: usize,
    /// Seed of the draws.
    pub seed: u64,
    /// Where tensors go.
    pub device: Device,
}

impl Source {
    fn step(&self, step: u64) -> (Vec<Sample>, Draws) {
        (batch(&self.world, step, self.batch), Draws::new(self.seed, step))
    }
}

/// The captions of a batch, each left empty with the given probability.
fn captions(samples: &[Sample], drop: f64, draws: &mut Draws) -> Vec<String> {
    let keep = |sample: &Sample| match draws.chance(drop) {
        true => String::new(),
        false => sample.caption.clone(),
    };
    samples.iter().map(keep).collect()
}

/// Both towers of CLIP in training.
#[derive(Module, Debug)]
pub struct ClipTowers {
    /// The text tower.
    pub text: TextEncoder,
    /// The image tower.
    pub image: ImageEncoder,
    /// Logarithm of the inverse temperature.
    pub logit_scale: Param<Tensor<1>>,
}

impl ClipTowers {
    /// Towers with fresh weights, and the temperature of CLIP's paper, 0.07.
    pub fn new(text: &TextEncoderConfig, image: &ImageEncoderConfig, device: &Device) -> Self {
        Self {
            text: text.init(device),
            image: image.init(device),
            logit_scale: Initializer::Constant { value: (1.0f64 / 0.07).ln() }.init([1], device),
        }
    }
}

/// Contrastive training of CLIP.
#[derive(Debug)]
pub struct ClipObjective {
    /// Data and draws.
    pub source: Source,
    /// Reads the captions.
    pub tokenizer: Tokenizer,
    /// How the image tower wants its pictures.
    pub image: ImageEncoderConfig,
}

impl ClipObjective {
    /// Loss of one step.
    pub fn loss(&self, towers: &ClipTowers, step: u64) -> Tensor<1> {
        let (samples, mut draws) = self.source.step(step);
        let device = &self.source.device;
        let tokens = self.tokenizer.encode(&captions(&samples, 0.0, &mut draws));
        let images = whole_pictures(&samples, self.image.image_size as u32, device);
        let text = towers.text.forward(&tokens, device);
        let image = towers.image.forward(preprocess(&self.image, images));
        contrastive_loss(image.0, text.pooled, towers.logit_scale.val())
    }
}

/// A trained CLIP, which the other stages learn from.
#[derive(Debug, Clone)]
pub struct FrozenClip {
    /// Reads the captions.
    pub tokenizer: Tokenizer,
    /// The text tower.
    pub text: TextEncoder,
    /// The image tower.
    pub image: ImageEncoder,
    /// How the image tower wants its pictures.
    pub image_config: ImageEncoderConfig,
    /// Where both towers are.
    pub device: Device,
}

impl FrozenClip {
    /// Embeddings of captions.
    pub fn embed_captions<S: AsRef<str>>(&self, captions: &[S]) -> TextEmbedding {
        self.text.forward(&self.tokenizer.encode(captions), &self.device)
    }

    /// Embeddings of pictures, `[batch, 3, height, width]` in [−1, 1].
    pub fn embed_images(&self, images: Tensor<4>) -> ImageEmbedding {
        self.image.forward(preprocess(&self.image_config, images))
    }

    /// Embeddings of the pictures of samples.
    pub fn embed_samples(&self, samples: &[Sample]) -> ImageEmbedding {
        let side = self.image_config.image_size as u32;
        self.embed_images(whole_pictures(samples, side, &self.device))
    }
}

/// Training of the diffusion prior, with 10 % of the captions dropped (paper, section 2.2).
#[derive(Debug)]
pub struct PriorObjective {
    source: Source,
    clip: FrozenClip,
    config: DiffusionPriorConfig,
    schedule: NoiseSchedule,
}

impl PriorObjective {
    /// # Errors
    /// A schedule that cannot be built.
    pub fn new(
        source: Source,
        clip: FrozenClip,
        config: DiffusionPriorConfig,
    ) -> Result<Self, InvalidSetting> {
        let schedule = config.diffusion.training_schedule()?;
        Ok(Self { source, clip, config, schedule })
    }

    /// Loss of one step.
    pub fn loss(&self, prior: &DiffusionPrior, step: u64) -> Tensor<1> {
        const DROP_CAPTION: f64 = 0.1;
        let (samples, mut draws) = self.source.step(step);
        let device = &self.source.device;
        let image = self.clip.embed_samples(&samples);
        let text = self.clip.embed_captions(&captions(&samples, DROP_CAPTION, &mut draws));
        let batch = unclip_prior::train::TrainingBatch {
            epsilon: draws.normal(image.0.dims(), device),
            indices: draws.below(samples.len(), self.schedule.len()),
            image,
            text,
        };
        unclip_prior::train::loss(prior, &self.config, &self.schedule, batch)
    }
}

/// Training of the decoder, with 10 % of the embeddings and 50 % of the captions dropped (paper,
/// section 2.1).
#[derive(Debug)]
pub struct DecoderObjective {
    source: Source,
    clip: FrozenClip,
    config: DecoderConfig,
    schedule: NoiseSchedule,
}

impl DecoderObjective {
    /// # Errors
    /// A schedule that cannot be built.
    pub fn new(
        source: Source,
        clip: FrozenClip,
        config: DecoderConfig,
    ) -> Result<Self, InvalidSetting> {
        let schedule = config.diffusion.training_schedule()?;
        Ok(Self { source, clip, config, schedule })
    }

    /// Loss of one step.
    pub fn loss(&self, decoder: &Decoder, step: u64) -> Tensor<1> {
        const DROP_CAPTION: f64 = 0.5;
        const DROP_IMAGE: f64 = 0.1;
        let (samples, mut draws) = self.source.step(step);
        let device = &self.source.device;
        let images = whole_pictures(&samples, self.config.unet.image_size as u32, device);
        let condition = Condition {
            image: self.clip.embed_samples(&samples),
            text: self.clip.embed_captions(&captions(&samples, DROP_CAPTION, &mut draws)),
        };
        let batch = unclip_decoder::train::TrainingBatch {
            keep_image: draws.keep(samples.len(), DROP_IMAGE, device),
            epsilon: draws.normal(images.dims(), device),
            indices: draws.below(samples.len(), self.schedule.len()),
            images,
            condition,
        };
        unclip_decoder::train::loss(decoder, &self.config, &self.schedule, batch)
    }
}

/// Training of an upsampler on crops, of which half are blurred (paper, section 2.3).
#[derive(Debug)]
pub struct UpsamplerObjective {
    source: Source,
    config: UpsamplerConfig,
    schedule: NoiseSchedule,
    low_side: u32,
    low_crop: u32,
}

impl UpsamplerObjective {
    /// `low_side` is the side of whole small pictures, `low_crop` that of the crops.
    ///
    /// # Errors
    /// A schedule that cannot be built, or a crop larger than the picture.
    pub fn new(
        source: Source,
        config: UpsamplerConfig,
        low_side: u32,
        low_crop: u32,
    ) -> Result<Self, InvalidSetting> {
        if low_crop < 2 || low_crop > low_side {
            return Err(InvalidSetting::new("crop", low_crop, format!("2 to {low_side}")));
        }
        let schedule = config.diffusion.training_schedule()?;
        Ok(Self { source, config, schedule, low_side, low_crop })
    }

    /// Loss of one step.
    pub fn loss(&self, upsampler: &Upsampler, step: u64) -> Tensor<1> {
        let (samples, mut draws) = self.source.step(step);
        let device = &self.source.device;
        let corners = draws.below(2 * samples.len(), (self.low_side - self.low_crop + 1) as usize);
        let crops = |scale: u32| {
            let region = |(sample, corner): (_, &[usize])| {
                let sample: &Sample = sample;
                (&sample.scene, self.region(corner, scale))
            };
            let parts: Vec<_> = samples.iter().zip(corners.chunks(2)).map(region).collect();
            pictures(&parts, device)
        };
        let (images, low_res) = (crops(self.config.factor as u32), crops(1));
        let keep: Tensor<4> = draws.keep(samples.len(), 0.5, device).unsqueeze_dims(&[-1, -1]);
        let blurred = gaussian_blur(low_res.clone(), 3, 0.6);
        let batch = unclip_upsample::train::TrainingBatch {
            low_res: blurred.clone() + (low_res - blurred) * keep,
            epsilon: draws.normal(images.dims(), device),
            indices: draws.below(samples.len(), self.schedule.len()),
            images,
        };
        unclip_upsample::train::loss(upsampler, &self.config, &self.schedule, batch)
    }

    fn region(&self, corner: &[usize], scale: u32) -> Region {
        Region {
            side: self.low_side * scale,
            x: corner[0] as u32 * scale,
            y: corner[1] as u32 * scale,
            width: self.low_crop * scale,
            height: self.low_crop * scale,
        }
    }
}

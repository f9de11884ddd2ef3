//! What each stage is trained to do on the shapes world: a step number to a loss.

use std::ops::Range;

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use unclip_clip::loss::{MAX_LOGIT_SCALE, contrastive_loss};
use unclip_clip::{
    ImageEncoder, ImageEncoderConfig, TextEncoder, TextEncoderConfig, Tokenizer, preprocess,
};
use unclip_core::loss::{Noised, training_loss};
use unclip_core::{ImageEmbedding, InvalidSetting, NoiseSchedule, Stage, TextEmbedding};
use unclip_decoder::{Condition, Decoder, DecoderConfig};
use unclip_prior::{DiffusionPrior, DiffusionPriorConfig};
use unclip_upsample::degrade::gaussian_blur;
use unclip_upsample::{Upsampler, UpsamplerConfig};

use crate::data::{Draws, contrasting_batch, kept, mixed_batch, pictures, whole_pictures};
use crate::{ClipScore, worn_pictures};
use unclip_shapes::{Region, Sample, Scene, ShapesWorld};

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
        (mixed_batch(&self.world, step, self.batch), Draws::new(self.seed, step))
    }
}

/// The captions of a batch, empty where dropped.
fn captions<'a>(samples: &'a [Sample], dropped: &[bool]) -> Vec<&'a str> {
    let said = |(sample, &dropped): (&'a Sample, _)| if dropped { "" } else { &sample.caption };
    samples.iter().zip(dropped).map(said).collect()
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

impl ClipTowers {
    /// The same towers, with the temperature where it may be; a training step may have led out.
    #[must_use]
    pub fn within_bounds(self) -> Self {
        let clamp = |scale: Tensor<1>| {
            let scale = Tensor::from_inner(scale.inner().clamp(0.0, MAX_LOGIT_SCALE));
            scale.require_grad()
        };
        Self { logit_scale: self.logit_scale.map(clamp), ..self }
    }
}

/// Contrastive training of CLIP, on scenes beside those that differ from them in one thing
/// ([`contrasting_batch`]), half of the pictures worn ([`worn_pictures`]).
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
        let Source { world, batch, seed, device } = &self.source;
        let samples = contrasting_batch(world, step, *batch);
        let captions: Vec<&str> = samples.iter().map(|sample| sample.caption.as_str()).collect();
        let tokens = self.tokenizer.encode(&captions);
        let side = self.image.image_size as u32;
        let images = worn_pictures(&samples, side, &mut Draws::new(*seed, step), device);
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

    /// What this CLIP sees, by `n` scenes for each question.
    pub fn score(&self, world: &ShapesWorld, n: usize) -> ClipScore {
        let side = self.image_config.image_size as u32;
        let embed = |scenes: &[Scene], captions: &[String]| {
            let parts: Vec<_> = scenes.iter().map(|scene| (scene, Region::whole(side))).collect();
            let images = self.embed_images(pictures(&parts, &self.device));
            Ok::<_, std::convert::Infallible>((images, self.embed_captions(captions)))
        };
        let Ok(score) = ClipScore::measure(world, n, embed);
        score
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
    /// The objective of these data, this CLIP and these sizes.
    ///
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
        let image = self.clip.embed_samples(&samples);
        let dropped = draws.chances(samples.len(), DROP_CAPTION);
        let text = self.clip.embed_captions(&captions(&samples, &dropped));
        let x_0 = self.config.sample_of(prior, &image);
        let noised = noised(&self.schedule, x_0, &mut draws);
        training_loss(&self.config, prior, &text, &self.schedule, &noised, f64::INFINITY).mean()
    }
}

/// Training of the decoder. Each of its two inputs is dropped from some rows, so that it learns to
/// draw from both, from either, and from none: a tenth has neither, a fifth the caption alone, a
/// quarter the embedding alone. (The paper, section 2.1, drops 10 % of the embeddings and 50 % of
/// the captions, and a twentieth of its rows have the caption alone; of many millions that is
/// enough.) The embeddings are of pictures of which half are worn.
#[derive(Debug)]
pub struct DecoderObjective {
    source: Source,
    clip: FrozenClip,
    config: DecoderConfig,
    schedule: NoiseSchedule,
}

impl DecoderObjective {
    /// The objective of these data, this CLIP and these sizes.
    ///
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
        const MAX_SNR: f64 = 5.0;
        let (samples, mut draws) = self.source.step(step);
        let device = &self.source.device;
        let images = whole_pictures(&samples, self.config.unet.image_size as u32, device);
        let lots: Vec<f32> = samples.iter().map(|_| draws.within(0.0..1.0)).collect();
        let dropped = |range: Range<f32>| lots.iter().map(|lot| range.contains(lot)).collect();
        let no_image: Vec<bool> = dropped(0.0..0.3);
        let no_caption: Vec<bool> = dropped(0.2..0.55);
        let side = self.clip.image_config.image_size as u32;
        let condition = Condition {
            image: self.clip.embed_images(worn_pictures(&samples, side, &mut draws, device)),
            text: self.clip.embed_captions(&captions(&samples, &no_caption)),
        };
        let kept = kept(&no_image, device);
        let condition =
            Condition { image: decoder.drop_images(&condition.image, kept), ..condition };
        let noised = noised(&self.schedule, images, &mut draws);
        training_loss(&self.config, decoder, &condition, &self.schedule, &noised, MAX_SNR).mean()
    }
}

/// Training of an upsampler on crops, most of them around the edge of an object, of which half are
/// blurred (paper, section 2.3) and most have a grain: what comes out is sharp and clean.
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
    /// A schedule that cannot be built, a crop larger than the picture, or a second network for the
    /// last step: it learns from a discriminator, which is not here.
    pub fn new(
        source: Source,
        config: UpsamplerConfig,
        low_side: u32,
        low_crop: u32,
    ) -> Result<Self, InvalidSetting> {
        if low_crop < 2 || low_crop > low_side {
            return Err(InvalidSetting::new("crop", low_crop, format!("2 to {low_side}")));
        }
        if config.last_step_network {
            let expected = "false: the network of the last step is trained with an adversarial \
                            loss, which is not here; train an upsampler without one";
            return Err(InvalidSetting::new("last_step_network", true, expected));
        }
        let schedule = config.diffusion.training_schedule()?;
        Ok(Self { source, config, schedule, low_side, low_crop })
    }

    /// Loss of one step.
    pub fn loss(&self, upsampler: &Upsampler, step: u64) -> Tensor<1> {
        let (samples, mut draws) = self.source.step(step);
        let device = &self.source.device;
        let corners: Vec<[u32; 2]> =
            samples.iter().map(|sample| self.corner(&sample.scene, &mut draws)).collect();
        let crops = |scale: u32| {
            let part = |(sample, &corner): (_, _)| {
                let sample: &Sample = sample;
                (&sample.scene, self.region(corner, scale))
            };
            pictures(&samples.iter().zip(&corners).map(part).collect::<Vec<_>>(), device)
        };
        let (images, low_res) = (crops(self.config.factor as u32), crops(1));
        let low_res = degraded(low_res, &mut draws);
        let noised = noised(&self.schedule, images, &mut draws);
        let loss = training_loss(
            &self.config,
            upsampler,
            &low_res,
            &self.schedule,
            &noised,
            f64::INFINITY,
        );
        loss.mean()
    }

    /// Where a crop begins: three of four lie around a point near the outline of an object, since
    /// most of a picture is flat.
    fn corner(&self, scene: &Scene, draws: &mut Draws) -> [u32; 2] {
        let objects = scene.objects();
        let object = &objects[draws.below(1, objects.len())[0]];
        let anywhere = draws.chance(0.25);
        let space = (self.low_side - self.low_crop) as f32;
        object.center.map(|center| {
            if anywhere {
                return draws.within(0.0..space + 1.0).min(space) as u32;
            }
            let at = center + object.radius * draws.within(-1.2..1.2);
            let corner = at * self.low_side as f32 - self.low_crop as f32 / 2.0;
            corner.round().clamp(0.0, space) as u32
        })
    }

    fn region(&self, [x, y]: [u32; 2], scale: u32) -> Region {
        Region {
            side: self.low_side * scale,
            x: x * scale,
            y: y * scale,
            width: self.low_crop * scale,
            height: self.low_crop * scale,
        }
    }
}

/// A batch under noise, of levels that are spread over the schedule.
fn noised<const D: usize>(
    schedule: &NoiseSchedule,
    x_0: Tensor<D>,
    draws: &mut Draws,
) -> Noised<D> {
    let epsilon = draws.normal(x_0.dims(), &x_0.device());
    let indices = draws.spread(x_0.dims()[0], schedule.len());
    Noised::new(schedule, x_0, epsilon, indices)
}

/// Small pictures as a decoder makes them: half of them blurred, most with some grain.
fn degraded(low_res: Tensor<4>, draws: &mut Draws) -> Tensor<4> {
    const GRAIN: f32 = 0.06;
    let device = low_res.device();
    let shape = low_res.dims();
    let batch = shape[0];
    let blurs = draws.chances(batch, 0.5);
    let keep: Tensor<4> = kept(&blurs, &device).unsqueeze_dims(&[-1, -1]);
    let blurred = gaussian_blur(low_res.clone(), 3, 0.6);
    let grain: Vec<f32> = (0..batch).map(|_| draws.within(-GRAIN / 3.0..GRAIN).max(0.0)).collect();
    let grain = Tensor::<1>::from_floats(grain.as_slice(), &device).reshape([batch, 1, 1, 1]);
    blurred.clone() + (low_res - blurred) * keep + draws.normal(shape, &device) * grain
}

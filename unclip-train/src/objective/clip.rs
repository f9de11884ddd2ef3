//! CLIP: captions and pictures into one space.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use unclip_clip::loss::{MAX_LOGIT_SCALE, contrastive_loss};
use unclip_clip::{
    ImageEncoder, ImageEncoderConfig, TextEncoder, TextEncoderConfig, Tokenizer, Tokens,
    standardize,
};

use super::batch::Batch;
use super::contract::Objective;
use super::pairs::{Among, Pairs};
use super::source::Source;
use crate::evaluation::{Evaluation, HeldOut, mean_loss, retrieval};
use crate::shown::Lesson;
use crate::{TrainError, worn_pictures};

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

    /// The same towers with the factor that similarities were scaled by, the inverse of a temperature; at least 1.
    #[must_use]
    pub fn with_logit_scale(self, logit_scale: f64) -> Self {
        let device = self.logit_scale.device();
        let value = logit_scale.max(1.0).ln();
        Self { logit_scale: Initializer::Constant { value }.init([1], &device), ..self }
    }

    /// The same towers, with the temperature where it may be; a training step may have led out.
    #[must_use]
    pub fn within_bounds(self) -> Self {
        let clamp = |scale: Tensor<1>| {
            let strategy = scale.gradient_checkpointing_strategy();
            let scale = Tensor::from_inner(scale.inner().clamp(0.0, MAX_LOGIT_SCALE));
            let scale = match strategy {
                Some(strategy) => scale.with_gradient_checkpointing_strategy(strategy),
                None => scale,
            };
            scale.require_grad()
        };
        Self { logit_scale: self.logit_scale.map(clamp), ..self }
    }
}

/// Contrastive training of CLIP, a share of the pictures worn ([`worn_pictures`]).
#[derive(Debug)]
pub struct ClipObjective {
    /// Data and draws.
    pub source: Source,
    /// Reads the captions.
    pub tokenizer: Tokenizer,
    /// How the image tower wants its pictures.
    pub image: ImageEncoderConfig,
    /// The share of pictures that are worn.
    pub worn: f64,
}

/// Captions and their pictures.
#[derive(Debug)]
pub struct ClipBatch {
    tokens: Tokens,
    images: TensorData,
}

impl Batch for ClipBatch {
    fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            tokens: self.tokens.narrow(start, len),
            images: Batch::narrow(&self.images, start, len),
        }
    }
}

impl ClipObjective {
    fn with(&self, source: Source) -> Self {
        let (tokenizer, image) = (self.tokenizer.clone(), self.image.clone());
        Self { source, tokenizer, image, ..*self }
    }

    fn embed(&self, towers: &ClipTowers, batch: ClipBatch) -> Pairs {
        let text = towers.text.forward(&batch.tokens, &self.source.device).pooled;
        let images = standardize(&self.image, self.source.tensor(batch.images));
        Pairs { text, image: towers.image.forward(images).0 }
    }
}

impl Objective for ClipObjective {
    type Network = ClipTowers;
    type Batch = ClipBatch;

    fn batch(&self, step: u64) -> Result<ClipBatch, TrainError> {
        let side = self.image.image_size as u32;
        let (items, mut draws) = self.source.step(step, side, Lesson::Contrast)?;
        let captions: Vec<&str> = items.iter().map(|item| item.caption()).collect();
        Ok(ClipBatch {
            tokens: self.tokenizer.encode(&captions),
            images: worn_pictures(&items, side, self.worn, &mut draws),
        })
    }

    fn loss(&self, towers: &ClipTowers, batch: ClipBatch) -> Tensor<1> {
        let Pairs { text, image } = self.embed(towers, batch);
        contrastive_loss(image, text, towers.logit_scale.val())
    }

    fn evaluate(&self, towers: &ClipTowers, held_out: &HeldOut) -> Result<Evaluation, TrainError> {
        // as they are, not worn
        let own = Self { worn: 0.0, ..self.with(held_out.source.clone()) };
        let (mut text, mut image) = (Vec::new(), Vec::new());
        for step in held_out.steps() {
            let pairs = own.embed(towers, own.batch(step)?);
            text.push(pairs.text);
            image.push(pairs.image);
        }
        let evaluation = mean_loss(&own, towers, held_out)?;
        Ok(retrieval(evaluation, Tensor::cat(text, 0), Tensor::cat(image, 0)))
    }

    fn on(&self, device: &Device) -> Self {
        self.with(self.source.on(device))
    }

    const CONTRASTS: bool = true;

    fn pairs(&self, towers: &ClipTowers, part: ClipBatch) -> Option<Pairs> {
        Some(self.embed(towers, part))
    }

    fn loss_among(&self, towers: &ClipTowers, part: ClipBatch, among: &Among) -> Tensor<1> {
        let Pairs { text, image } = self.embed(towers, part);
        let (text, image) = among.joined(text, image);
        let own = towers.logit_scale.val();
        // all parts have it in common: the first one teaches it, and the others have a gradient of 0, since
        // devices that sum among themselves need the same gradients everywhere
        let logit_scale = if among.is_first() { own } else { own.clone() * 0.0 + own.detach() };
        among.share(contrastive_loss(image, text, logit_scale))
    }
}

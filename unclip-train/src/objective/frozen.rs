//! A trained CLIP, which the other stages learn from.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use unclip_clip::{ImageEncoder, ImageEncoderConfig, TextEncoder, Tokenizer, Tokens, standardize};
use unclip_core::{ImageEmbedding, TextEmbedding};
use unclip_shapes::{Region, Scene, ShapesWorld};

use super::batch::Batch;
use super::source::Source;
use crate::data::{pictures, scenes, whole_pictures};
use crate::draws::Draws;
use crate::embeddings::{Embeddings, KeptCaptions};
use crate::shown::{Embeddable, Items, Lesson, Numbered};
use crate::{ClipScore, TrainError};

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
    /// What it has said of the data already; it is not asked again.
    pub kept: Option<Arc<Embeddings>>,
}

/// What CLIP says of pictures, or is to be asked.
#[derive(Debug)]
pub(super) enum Views {
    Pictures(TensorData),
    Kept(TensorData),
}

/// What CLIP says of captions, or is to be asked.
#[derive(Debug)]
pub(super) enum Captions {
    Tokens(Tokens),
    Kept(Box<KeptCaptions>),
}

impl Batch for Views {
    fn narrow(&self, start: usize, len: usize) -> Self {
        match self {
            Self::Pictures(data) => Self::Pictures(Batch::narrow(data, start, len)),
            Self::Kept(data) => Self::Kept(Batch::narrow(data, start, len)),
        }
    }
}

impl Batch for Captions {
    fn narrow(&self, start: usize, len: usize) -> Self {
        match self {
            Self::Tokens(tokens) => Self::Tokens(tokens.narrow(start, len)),
            Self::Kept(kept) => Self::Kept(Box::new(kept.narrow(start, len))),
        }
    }
}

/// Pictures and captions of a step as CLIP sees them, with which captions are dropped.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) views: Views,
    pub(super) captions: Captions,
    pub(super) dropped: Vec<bool>,
}

impl FrozenClip {
    /// Side of the pictures that its image tower reads.
    pub fn side(&self) -> u32 {
        self.image_config.image_size as u32
    }

    /// Width of its space.
    pub fn d_embedding(&self) -> usize {
        self.image_config.d_embedding
    }

    /// Embeddings of captions.
    pub fn embed_captions(&self, tokens: &Tokens) -> TextEmbedding {
        self.text.forward(tokens, &self.device)
    }

    /// Embeddings of pictures, `[batch, 3, height, width]` in [−1, 1].
    pub fn embed_images(&self, images: TensorData) -> ImageEmbedding {
        let images: Tensor<4> = Tensor::from_data(images, &self.device);
        self.image.forward(standardize(&self.image_config, images))
    }

    /// Embeddings of the pictures of items.
    pub fn embed_items(&self, items: &Items) -> ImageEmbedding {
        self.embed_images(whole_pictures(items, self.side()))
    }

    /// Embeddings of the pictures of items with all their captions.
    pub(crate) fn embed_shown(&self, items: &[&Embeddable]) -> ImageEmbedding {
        let whole = Region::whole(self.side());
        let parts: Vec<_> = items.iter().map(|it| (it.picture.as_ref(), whole)).collect();
        self.embed_images(pictures(&parts))
    }

    /// Pictures and captions of a step, captions dropped with a probability, and the draws that are left.
    pub(super) fn hear(
        &self,
        source: &Source,
        step: u64,
        drop_caption: f64,
    ) -> Result<(Heard, Draws), TrainError> {
        let Some(kept) = &self.kept else {
            let (items, mut draws) = source.step(step, self.side(), Lesson::Mixed)?;
            let dropped = draws.chances(items.len(), drop_caption);
            let views = Views::Pictures(whole_pictures(&items, self.side()));
            let captions = self.captions(&items, &dropped)?;
            return Ok((Heard { views, captions, dropped }, draws));
        };
        let usable = |item| kept.is_usable(item);
        let numbers = source.data.numbers(step, source.batch, &usable)?;
        let mut draws = Draws::new(source.seed, step);
        let dropped = draws.chances(numbers.len(), drop_caption);
        let captions = Captions::Kept(Box::new(kept.captions(&numbers, &dropped)?));
        let views = Views::Kept(kept.images(&numbers)?);
        Ok((Heard { views, captions, dropped }, draws))
    }

    /// What it says of the captions of items, of empty ones where they are dropped.
    pub(super) fn captions(&self, items: &Items, dropped: &[bool]) -> Result<Captions, TrainError> {
        if let Some((kept, numbers)) = self.kept_of(items) {
            return Ok(Captions::Kept(Box::new(kept.captions(&numbers, dropped)?)));
        }
        let said = items.iter().map(|item| item.caption()).zip(dropped);
        let said: Vec<&str> =
            said.map(|(caption, &dropped)| if dropped { "" } else { caption }).collect();
        Ok(Captions::Tokens(self.tokenizer.encode(&said)))
    }

    /// What it has said of the pictures of items, if it has.
    pub(super) fn kept_views(&self, items: &Items) -> Result<Option<Views>, TrainError> {
        let kept = self.kept_of(items);
        kept.map(|(kept, numbers)| Ok(Views::Kept(kept.images(&numbers)?))).transpose()
    }

    fn kept_of(&self, items: &Items) -> Option<(&Embeddings, Vec<Numbered>)> {
        let numbers: Option<Vec<Numbered>> = items.iter().map(|item| item.number()).collect();
        self.kept.as_deref().zip(numbers)
    }

    /// Embeddings of what there is of pictures.
    pub(super) fn image(&self, views: Views) -> ImageEmbedding {
        match views {
            Views::Pictures(pictures) => self.embed_images(pictures),
            Views::Kept(kept) => ImageEmbedding(Tensor::from_data(kept, &self.device)),
        }
    }

    /// Embeddings of what there is of captions.
    pub(super) fn text(&self, captions: Captions) -> TextEmbedding {
        match captions {
            Captions::Tokens(tokens) => self.embed_captions(&tokens),
            Captions::Kept(kept) => kept.on(&self.device),
        }
    }

    /// The same, which is asked again whatever it has said.
    pub(super) fn asked(&self) -> Self {
        Self { kept: None, ..self.clone() }
    }

    /// The same on another device.
    pub(super) fn on(&self, device: &Device) -> Self {
        Self {
            text: self.text.clone().to_device(device),
            image: self.image.clone().to_device(device),
            device: device.clone(),
            ..self.clone()
        }
    }

    /// What this CLIP sees, by `n` scenes for each question.
    pub fn score(&self, world: &ShapesWorld, n: usize) -> ClipScore {
        let whole = Region::whole(self.side());
        let embed = |shown: &[Scene], captions: &[String]| {
            let parts: Vec<_> = shown.iter().map(|scene| (scene, whole)).collect();
            let text = self.embed_captions(&self.tokenizer.encode(captions));
            Ok::<_, std::convert::Infallible>((self.embed_images(scenes(&parts)), text))
        };
        let Ok(score) = ClipScore::measure(world, n, embed);
        score
    }
}

//! A model on disk or inside the program: its stages, opened and checked to fit together.
//!
//! Opening reads and checks configurations and headers; weights are read when a stage is loaded.
//! How a model's files are laid out is the business of `layouts`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use unclip_autoencoder::AutoencoderConfig;
use unclip_clip::{
    Fit, ImageEncoderConfig, NoisedImageEncoderConfig, Padding, TextEncoderConfig, Tokenizer,
};
use unclip_core::InvalidSetting;
use unclip_decoder::{ClassifierConfig, DecoderConfig};
use unclip_nn::checkpoint::{LoadError, StageConfig, StageFiles};
use unclip_nn::{Placement, Precision};
use unclip_prior::{ArPriorConfig, DiffusionPriorConfig};
use unclip_upsample::UpsamplerConfig;

use crate::{Error, Slot, StageId, StageSettings};

/// Largest side of a picture, in pixels.
pub(crate) const MAX_SIDE: usize = 1 << 13;

/// An opened model, checked to be complete and consistent.
#[derive(Debug)]
pub struct Bundle {
    /// Where it came from.
    pub origin: PathBuf,
    /// What the decoder's captions are read by: CLIP's text tower, or the decoder's own. Absent from a
    /// model of classes.
    pub text: Option<TextReader>,
    /// CLIP's text tower, of a model whose decoder reads captions by another one.
    pub prior_text: Option<TextReader>,
    /// Names of the classes of which it draws things, if the model has such and says so.
    pub class_names: Vec<String>,
    /// What guides the decoder to a class, if there is such.
    pub classifier: Option<Slot<ClassifierConfig>>,
    /// CLIP's image tower, if the model has one.
    pub image_encoder: Option<Slot<ImageEncoderConfig>>,
    /// An image tower for noised pictures, if the model has one; it guides the decoder.
    pub noised_image_encoder: Option<Slot<NoisedImageEncoderConfig>>,
    /// The diffusion prior, if the model has one; without any prior, only tasks that start from a
    /// picture work.
    pub prior: Option<Slot<DiffusionPriorConfig>>,
    /// The autoregressive prior, if the model has one.
    pub ar_prior: Option<Slot<ArPriorConfig>>,
    /// The decoder.
    pub decoder: Slot<DecoderConfig>,
    /// What turns the decoder's latents into pictures, if it samples latents.
    pub autoencoder: Option<Slot<AutoencoderConfig>>,
    /// The upsamplers, in order.
    pub upsamplers: Vec<Slot<UpsamplerConfig>>,
    /// For each upsampler, the text tower by which it reads captions, if it does; all of them read
    /// what the decoder's tokenizer gives.
    pub upsampler_texts: Vec<Option<Slot<TextEncoderConfig>>>,
}

/// A text tower and its tokenizer.
#[derive(Debug)]
pub struct TextReader {
    /// Where the tokenizer's files lie.
    pub(crate) words: PathBuf,
    /// Turns captions into tokens.
    pub tokenizer: Tokenizer,
    /// The tower.
    pub encoder: Slot<TextEncoderConfig>,
}

/// The same as a layout opens it.
#[derive(Debug)]
pub(crate) struct TextFiles {
    pub(crate) words: PathBuf,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) encoder: StageFiles<TextEncoderConfig>,
}

impl TextFiles {
    fn slot(self, id: StageId) -> TextReader {
        let Self { words, tokenizer, encoder } = self;
        TextReader { words, tokenizer, encoder: Slot::new(id, encoder) }
    }
}

/// An upsampler, and the text tower by which it reads captions.
pub(crate) type Upsampling = (StageFiles<UpsamplerConfig>, Option<StageFiles<TextEncoderConfig>>);

/// The stages of a model as a layout opens them.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) text: Option<TextFiles>,
    pub(crate) prior_text: Option<TextFiles>,
    pub(crate) class_names: Vec<String>,
    pub(crate) classifier: Option<StageFiles<ClassifierConfig>>,
    pub(crate) image_encoder: Option<StageFiles<ImageEncoderConfig>>,
    pub(crate) noised_image_encoder: Option<StageFiles<NoisedImageEncoderConfig>>,
    pub(crate) prior: Option<StageFiles<DiffusionPriorConfig>>,
    pub(crate) ar_prior: Option<StageFiles<ArPriorConfig>>,
    pub(crate) decoder: StageFiles<DecoderConfig>,
    pub(crate) autoencoder: Option<StageFiles<AutoencoderConfig>>,
    pub(crate) upsamplers: Vec<Upsampling>,
}

impl Parts {
    /// A decoder, and nothing else yet.
    pub(crate) fn of(decoder: StageFiles<DecoderConfig>) -> Self {
        Self {
            text: None,
            prior_text: None,
            class_names: Vec::new(),
            classifier: None,
            image_encoder: None,
            noised_image_encoder: None,
            prior: None,
            ar_prior: None,
            decoder,
            autoencoder: None,
            upsamplers: Vec::new(),
        }
    }
}

/// Settings on which implementations of the same model differ. `None` means what the model's own
/// folder says, or else what its layout's own code does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Which token pads a caption, and how a `!` in it is read. Where only the prior's tokenizer has a
    /// choice (Kandinsky 2.1), it is that tokenizer's.
    pub padding: Option<Padding>,
    /// The same for the prior's captions, of a model whose prior has a tokenizer of its own.
    pub prior_padding: Option<Padding>,
    /// How pictures are fitted to the image encoder's square.
    pub fit: Option<Fit>,
    /// The folder of the prior, of a model that is published without: Kandinsky's, or Karlo's for
    /// Stable unCLIP with CLIP ViT-L.
    pub prior_model: Option<PathBuf>,
}

impl Bundle {
    /// Puts a model together, and checks that its stages belong to each other.
    pub(crate) fn of(origin: &Path, parts: Parts) -> Result<Self, Error> {
        let (upsamplers, texts): (Vec<_>, Vec<_>) = parts.upsamplers.into_iter().unzip();
        let (upsamplers, texts) = (upsamplers.into_iter(), texts.into_iter());
        let text = |(n, it): (usize, Option<StageFiles<TextEncoderConfig>>)| {
            it.map(|it| Slot::new(StageId::UpsamplerTextEncoder(n), it))
        };
        let bundle = Self {
            origin: origin.into(),
            text: parts.text.map(|it| it.slot(StageId::TextEncoder)),
            prior_text: parts.prior_text.map(|it| it.slot(StageId::PriorTextEncoder)),
            class_names: parts.class_names,
            classifier: parts.classifier.map(|it| Slot::new(StageId::Classifier, it)),
            image_encoder: parts.image_encoder.map(|it| Slot::new(StageId::ImageEncoder, it)),
            noised_image_encoder: parts
                .noised_image_encoder
                .map(|it| Slot::new(StageId::NoisedImageEncoder, it)),
            prior: parts.prior.map(|prior| Slot::new(StageId::Prior, prior)),
            ar_prior: parts.ar_prior.map(|prior| Slot::new(StageId::ArPrior, prior)),
            decoder: Slot::new(StageId::Decoder, parts.decoder),
            autoencoder: parts.autoencoder.map(|it| Slot::new(StageId::Autoencoder, it)),
            upsamplers: (upsamplers.enumerate())
                .map(|(n, it)| Slot::new(StageId::Upsampler(n), it))
                .collect(),
            upsampler_texts: texts.enumerate().map(text).collect(),
        };
        bundle.check()?;
        Ok(bundle)
    }

    /// Reads the weights of every stage, which stay in memory from now on.
    pub(crate) fn keep(&mut self, placement: &Placement) -> Result<(), Error> {
        let texts = self.text.iter_mut().chain(&mut self.prior_text);
        texts.map(|it| &mut it.encoder).try_for_each(|it| it.keep(placement))?;
        self.classifier.iter_mut().try_for_each(|it| it.keep(placement))?;
        self.image_encoder.iter_mut().try_for_each(|stage| stage.keep(placement))?;
        self.noised_image_encoder.iter_mut().try_for_each(|stage| stage.keep(placement))?;
        self.prior.iter_mut().try_for_each(|stage| stage.keep(placement))?;
        self.ar_prior.iter_mut().try_for_each(|stage| stage.keep(placement))?;
        self.decoder.keep(placement)?;
        self.autoencoder.iter_mut().try_for_each(|stage| stage.keep(placement))?;
        self.upsampler_texts.iter_mut().flatten().try_for_each(|it| it.keep(placement))?;
        Ok(self.upsamplers.iter_mut().try_for_each(|stage| stage.keep(placement))?)
    }

    /// Bytes of the weights of every stage, as they are in memory in a number format.
    pub(crate) fn weights_of_all(&self, precision: Precision) -> u64 {
        let texts = self.text.iter().chain(&self.prior_text).map(|it| it.encoder.parameters());
        let towers = self.image_encoder.iter().map(Slot::parameters);
        let noised = self.noised_image_encoder.iter().map(Slot::parameters);
        let classifier = self.classifier.iter().map(Slot::parameters);
        let prior = self.prior.iter().map(Slot::parameters);
        let ar_prior = self.ar_prior.iter().map(Slot::parameters);
        let decoder = std::iter::once(self.decoder.parameters());
        let autoencoder = self.autoencoder.iter().map(Slot::parameters);
        let upsamplers = self.upsamplers.iter().map(Slot::parameters);
        let captions = self.upsampler_texts.iter().flatten().map(Slot::parameters);
        let all = texts.chain(towers).chain(noised).chain(classifier).chain(prior).chain(ar_prior);
        let all = all.chain(decoder).chain(autoencoder).chain(upsamplers).chain(captions);
        all.fold(0, u64::saturating_add).saturating_mul(precision.bytes_each())
    }

    /// Width of CLIP's image embeddings; of a model whose decoder reads none, that of the timestep
    /// embedding.
    pub fn d_embedding(&self) -> usize {
        self.decoder.config().d_embedding
    }

    /// What the decoder's captions are read by.
    ///
    /// # Errors
    /// [`Error::MissingStage`] of a model of classes.
    pub fn text(&self) -> Result<&TextReader, Error> {
        self.text.as_ref().ok_or_else(|| missing(&self.origin, StageId::TextEncoder))
    }

    /// CLIP's text tower and its tokenizer.
    ///
    /// # Errors
    /// [`Error::MissingStage`] of a model that has only a tower for its decoder's captions, or none.
    pub fn clip_text(&self) -> Result<&TextReader, Error> {
        let is_of_clip = |it: &&TextReader| it.encoder.config().is_of_clip();
        let found = self.prior_text.as_ref().or(self.text.as_ref().filter(is_of_clip));
        found.ok_or_else(|| self.lacks(StageId::PriorTextEncoder))
    }

    /// Whether the negative prompt leads the prior as well. That of Stable unCLIP is led away from the
    /// empty caption, as by the reference.
    pub(crate) fn prior_reads_negative(&self) -> bool {
        self.decoder.config().augmentation.is_none()
    }

    /// Refuses guidance of a prior that has nothing to be led away from.
    pub(crate) fn check_prior_guidance(&self, asked: &StageSettings) -> Result<(), InvalidSetting> {
        let is_plain = self.prior.as_ref().is_some_and(|it| !it.config().can_be_guided());
        if !is_plain || !asked.is_guided() {
            return Ok(());
        }
        let expected = "1: the prior of this model was not trained for guidance";
        Err(InvalidSetting::new("prior guidance", asked.guidance_scale, expected))
    }

    /// The diffusion prior.
    ///
    /// # Errors
    /// [`Error::MissingStage`] if the model has none.
    pub fn prior(&self) -> Result<&Slot<DiffusionPriorConfig>, Error> {
        self.prior.as_ref().ok_or_else(|| self.lacks(StageId::Prior))
    }

    /// The autoregressive prior.
    ///
    /// # Errors
    /// [`Error::MissingStage`] if the model has none.
    pub fn ar_prior(&self) -> Result<&Slot<ArPriorConfig>, Error> {
        self.ar_prior.as_ref().ok_or_else(|| self.lacks(StageId::ArPrior))
    }

    /// CLIP's image tower.
    ///
    /// # Errors
    /// [`Error::MissingStage`] if the model has none.
    pub fn image_encoder(&self) -> Result<&Slot<ImageEncoderConfig>, Error> {
        self.image_encoder.as_ref().ok_or_else(|| self.lacks(StageId::ImageEncoder))
    }

    /// CLIP's image tower for noised pictures.
    ///
    /// # Errors
    /// [`Error::MissingStage`] if the model has none.
    pub fn noised_image_encoder(&self) -> Result<&Slot<NoisedImageEncoderConfig>, Error> {
        let absent = || self.lacks(StageId::NoisedImageEncoder);
        self.noised_image_encoder.as_ref().ok_or_else(absent)
    }

    /// The error for a stage that a task needs: that it is missing, or that this kind of model has none.
    pub(crate) fn lacks(&self, stage: StageId) -> Error {
        if self.decoder.config().reads_images() {
            return missing(&self.origin, stage);
        }
        let found = format!("{}, without {stage}", self.origin.display());
        let expected = "one whose decoder reads image embeddings: that of this kind (GLIDE, ADM) reads \
                        none, and takes captions or classes alone";
        InvalidSetting::new("model", found, expected).into()
    }

    /// The model's name: its name on a hub if a hub client made its folder, else the folder's name.
    /// The rest of the path stays private.
    pub fn name(&self) -> String {
        let real = self.origin.canonicalize().unwrap_or_else(|_| self.origin.clone());
        let names: Vec<_> = real.iter().rev().map(|name| name.to_string_lossy()).collect();
        match names.as_slice() {
            [_, snapshots, hub, ..] if snapshots == "snapshots" && hub.starts_with("models--") => {
                hub.replacen("models--", "", 1).replace("--", "/")
            }
            [name, ..] => name.clone().into_owned(),
            [] => String::new(),
        }
    }

    /// How the model was opened, as far as it matters for a picture that the image encoder has a
    /// part in, or not.
    pub(crate) fn opened(&self, of_picture: bool) -> OpenOptions {
        let encoder = self.image_encoder.as_ref().filter(|_| of_picture);
        let fit = encoder.map(|encoder| encoder.config().fit);
        OpenOptions {
            // one that has no choice says nothing
            padding: self
                .text
                .as_ref()
                .map(|it| it.tokenizer.padding())
                .filter(|it| it.is_choice()),
            prior_padding: self.prior_text.as_ref().map(|it| it.tokenizer.padding()),
            fit,
            prior_model: None,
        }
    }

    /// Names of the weights of the stages that have a part in a picture: the text encoder, the
    /// decoder, the upsamplers, and those of `others` that the model has.
    pub(crate) fn fingerprints(
        &self,
        others: &[StageId],
    ) -> Result<BTreeMap<String, String>, LoadError> {
        let mut all = BTreeMap::new();
        add(&mut all, self.text.as_ref().map(|it| &it.encoder))?;
        let has = |id: StageId| others.contains(&id);
        let prior_text = self.prior_text.as_ref().map(|it| &it.encoder);
        add(&mut all, prior_text.filter(|it| has(it.id())))?;
        add(&mut all, self.prior.as_ref().filter(|it| has(it.id())))?;
        add(&mut all, self.ar_prior.as_ref().filter(|it| has(it.id())))?;
        add(&mut all, self.image_encoder.as_ref().filter(|it| has(it.id())))?;
        add(&mut all, self.noised_image_encoder.as_ref().filter(|it| has(it.id())))?;
        add(&mut all, self.classifier.as_ref().filter(|it| has(it.id())))?;
        add(&mut all, Some(&self.decoder))?;
        add(&mut all, self.autoencoder.as_ref())?;
        self.upsampler_texts.iter().flatten().try_for_each(|it| add(&mut all, Some(it)))?;
        self.upsamplers.iter().try_for_each(|upsampler| add(&mut all, Some(upsampler)))?;
        Ok(all)
    }

    /// Names of the weights of CLIP, as far as the model has it: its text tower, and its image
    /// tower.
    pub(crate) fn clip_space(&self) -> Result<BTreeMap<String, String>, LoadError> {
        let mut all = BTreeMap::new();
        add(&mut all, self.clip_text().ok().map(|it| &it.encoder))?;
        add(&mut all, self.image_encoder.as_ref())?;
        Ok(all)
    }

    /// Names of the weights to which latents mean something: those of CLIP's image tower, if there
    /// is one, of the decoder, and of its autoencoder, if there is one.
    pub(crate) fn latent_space(&self) -> Result<BTreeMap<String, String>, LoadError> {
        let mut all = BTreeMap::new();
        add(&mut all, self.image_encoder.as_ref())?;
        add(&mut all, Some(&self.decoder))?;
        add(&mut all, self.autoencoder.as_ref())?;
        Ok(all)
    }

    /// Side of the pictures that the decoder makes, with its autoencoder, in pixels.
    pub fn small_size(&self) -> usize {
        let factor = self.autoencoder.as_ref().map_or(1, |it| it.config().factor());
        self.decoder.config().unet.image_size() * factor
    }

    /// Side of the final pictures, in pixels.
    pub fn image_size(&self) -> usize {
        let factors = self.upsamplers.iter().map(|stage| stage.config().factor);
        self.small_size() * factors.product::<usize>()
    }
}

/// Adds the name of a stage's weights, if there is the stage.
fn add<T: StageConfig>(
    names: &mut BTreeMap<String, String>,
    stage: Option<&Slot<T>>,
) -> Result<(), LoadError> {
    if let Some(stage) = stage {
        names.insert(stage.id().to_string(), stage.fingerprint()?.into());
    }
    Ok(())
}

/// The error for a stage that a task needs and the model lacks.
pub(crate) fn missing(model: &Path, stage: impl ToString) -> Error {
    Error::MissingStage { model: model.into(), stage: stage.to_string() }
}

/// Checks that two stages have the same value.
pub(crate) fn agree(
    first: impl ToString,
    found_first: &str,
    second: impl ToString,
    found_second: &str,
    field: &'static str,
) -> Result<(), Error> {
    if found_first == found_second {
        return Ok(());
    }
    Err(Error::Incompatible {
        first: first.to_string(),
        second: second.to_string(),
        field,
        found_first: found_first.into(),
        found_second: found_second.into(),
    })
}

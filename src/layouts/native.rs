//! The layout of this crate: what training writes, and the bundled model.
//!
//! ```text
//! tokenizer/      vocab.json, merges.txt; or tokenizer.json of XLM-RoBERTa's
//! text_encoder/   config.json, model.safetensors
//! prior_tokenizer/, prior_text_encoder/  …  (of a decoder that reads captions by a tower of its own)
//! image_encoder/  …  (only for tasks that start from a picture)
//! noised_image_encoder/  …  (guides the decoder, if there is one)
//! prior/          …
//! ar_prior/       …  (either prior, or both)
//! decoder/        …
//! autoencoder/    …  (of a decoder of latents)
//! upsampler.0/    …  (and upsampler.1, …: as many as there are)
//! upsampler_text_encoder.0/  …  (of an upsampler that reads captions)
//! classifier/     …  (of a model of classes, in the place of the text encoder; guides the decoder)
//! classes.txt     their names, a line each  (if they have such)
//! ```

use std::path::Path;

use unclip_clip::{
    ImageEncoderConfig, Padding, TextEncoderConfig, TextTower, Tokenizer, TokenizerOptions,
};
use unclip_core::InvalidSetting;
use unclip_decoder::DecoderConfig;
use unclip_nn::Precision;
use unclip_nn::checkpoint::{LoadError, StageConfig, StageFiles, save_stage};

use super::classes::{class_names, write_class_names};
use super::diffusers::files::INDEX;
use super::layout::{Layout, Target, Writer, learned_padding};
use crate::bundle::{Parts, TextFiles, TextReader, Upsampling, missing};
use crate::{Bundle, Error, OpenOptions, Slot, StageId};

/// Upsamplers that a model may have.
const MAX_UPSAMPLERS: usize = 8;

pub(super) struct Native;

impl Layout for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    /// Any: of a folder that nobody knows, this layout's errors say what is missing.
    fn recognizes(&self, _: &Path) -> bool {
        true
    }

    fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Parts, Error> {
        check_index(folder)?;
        let decoder: StageFiles<DecoderConfig> = stage(folder, StageId::Decoder)?;
        let own = (StageId::TextEncoder, "tokenizer", options.padding);
        let text = match text_of(folder, own)? {
            None if decoder.manifest.config.classes().is_none() => {
                return Err(missing(folder, StageId::TextEncoder));
            }
            text => text,
        };
        let mut image_encoder: Option<StageFiles<ImageEncoderConfig>> =
            optional_stage(folder, StageId::ImageEncoder)?;
        if let (Some(files), Some(fit)) = (&mut image_encoder, options.fit) {
            files.manifest.config.fit = fit;
        }
        let of_prior = (StageId::PriorTextEncoder, "prior_tokenizer", options.prior_padding);
        Ok(Parts {
            text,
            prior_text: text_of(folder, of_prior)?,
            class_names: class_names(folder)?,
            classifier: optional_stage(folder, StageId::Classifier)?,
            image_encoder,
            noised_image_encoder: optional_stage(folder, StageId::NoisedImageEncoder)?,
            prior: optional_stage(folder, StageId::Prior)?,
            ar_prior: optional_stage(folder, StageId::ArPrior)?,
            autoencoder: optional_stage(folder, StageId::Autoencoder)?,
            upsamplers: upsamplers(folder)?,
            ..Parts::of(decoder)
        })
    }

    fn is_written(&self) -> bool {
        true
    }

    fn writer<'a>(&self, bundle: &'a Bundle, _: Precision) -> Result<Writer<'a>, Error> {
        check_origin(bundle)?;
        Ok(Box::new(|target| {
            for (text, words) in
                [(&bundle.text, "tokenizer"), (&bundle.prior_text, "prior_tokenizer")]
            {
                if let Some(text) = text {
                    target.copy_words(&text.words, words)?;
                    write_text(text, target)?;
                }
            }
            write_class_names(&bundle.class_names, target)?;
            bundle.classifier.iter().try_for_each(|stage| write(stage, target))?;
            bundle.image_encoder.iter().try_for_each(|stage| write(stage, target))?;
            bundle.noised_image_encoder.iter().try_for_each(|stage| write(stage, target))?;
            bundle.prior.iter().try_for_each(|stage| write(stage, target))?;
            bundle.ar_prior.iter().try_for_each(|stage| write(stage, target))?;
            write(&bundle.decoder, target)?;
            bundle.autoencoder.iter().try_for_each(|stage| write(stage, target))?;
            bundle.upsampler_texts.iter().flatten().try_for_each(|it| write(it, target))?;
            bundle.upsamplers.iter().try_for_each(|stage| write(stage, target))
        }))
    }
}

/// Refuses a model whose tokenizer is no file.
pub(super) fn check_origin(bundle: &Bundle) -> Result<(), Error> {
    if bundle.origin.is_dir() {
        return Ok(());
    }
    let expected = "a model from a folder, whose tokenizer's files can be copied";
    Err(InvalidSetting::new("model to write", bundle.origin.display(), expected).into())
}

/// The name of a CLIP's space where it is written alone.
pub(super) fn clip_space(bundle: &Bundle) -> Result<String, Error> {
    let image = bundle.image_encoder()?;
    Ok(match image.embedding_space() {
        "" => format!("clip-{}", image.fingerprint()?),
        named => named.to_string(),
    })
}

/// What writes a model's CLIP alone. Its space has a name by its weights, where the layout gave it none.
pub(super) fn clip_writer(bundle: &Bundle) -> Result<Writer<'_>, Error> {
    let text = bundle.clip_text()?;
    let image = bundle.image_encoder()?;
    let space = clip_space(bundle)?;
    Ok(Box::new(move |target| {
        target.copy_words(&text.words, "tokenizer")?;
        let own = (StageId::TextEncoder, space.as_str());
        write_in(&text.encoder, &padded(text), own, target)?;
        write_in(image, image.config(), (StageId::ImageEncoder, &space), target)
    }))
}

fn write<T: StageConfig>(stage: &Slot<T>, target: &Target<'_>) -> Result<(), Error> {
    write_as(stage, stage.config(), target)
}

/// A text tower, with how its tokenizer pads.
fn write_text(text: &TextReader, target: &Target<'_>) -> Result<(), Error> {
    write_as(&text.encoder, &padded(text), target)
}

/// A text tower's configuration with how its tokenizer pads, where that is a choice.
fn padded(text: &TextReader) -> TextEncoderConfig {
    let padding = text.tokenizer.padding();
    let is_said = padding.is_choice() && padding != TokenizerOptions::PADDING;
    let padding = is_said.then_some(padding);
    TextEncoderConfig { padding, ..text.encoder.config().clone() }
}

fn write_as<T: StageConfig>(stage: &Slot<T>, config: &T, target: &Target<'_>) -> Result<(), Error> {
    write_in(stage, config, (stage.id(), stage.embedding_space()), target)
}

fn write_in<T: StageConfig>(
    stage: &Slot<T>,
    config: &T,
    (id, space): (StageId, &str),
    target: &Target<'_>,
) -> Result<(), Error> {
    let network = stage.load(target.device)?;
    let folder = target.folder.join(id.to_string());
    Ok(save_stage(&folder, space, config, &network, target.format)?)
}

/// Names what is missing of a folder in one of diffusers' layouts: this layout has no such parts.
fn check_index(folder: &Path) -> Result<(), LoadError> {
    const PARTS: [&str; 5] = ["unet", "vae", "text_proj", "scheduler", "decoder_scheduler"];
    let path = folder.join(INDEX);
    match std::fs::metadata(&path) {
        Err(source) if PARTS.iter().any(|part| folder.join(part).is_dir()) => {
            Err(LoadError::Io { path, source })
        }
        _ => Ok(()),
    }
}

/// A text tower with the tokenizer of this name, if there is one.
fn text_of(
    folder: &Path,
    (id, words, padding): (StageId, &str, Option<Padding>),
) -> Result<Option<TextFiles>, Error> {
    let Some(encoder) = optional_stage(folder, id)? else { return Ok(None) };
    let words = folder.join(words);
    let tokenizer = Tokenizer::from_folder(&words, tokenizer_options(&encoder, padding)?)?;
    Ok(Some(TextFiles { words, tokenizer, encoder }))
}

/// How a tower's tokenizer reads, if nothing else is asked for; GLIDE's has no choice.
fn tokenizer_options(
    text: &StageFiles<TextEncoderConfig>,
    padding: Option<Padding>,
) -> Result<TokenizerOptions, InvalidSetting> {
    let TextEncoderConfig { context_length, tower, padding: own, .. } = text.manifest.config;
    let padding =
        if tower == TextTower::Glide { learned_padding(padding)? } else { padding.or(own) };
    Ok(TokenizerOptions { context_length, padding })
}

fn optional_stage<T: StageConfig>(
    folder: &Path,
    stage: StageId,
) -> Result<Option<StageFiles<T>>, Error> {
    let path = folder.join(stage.to_string());
    // a link to nowhere is there too, and refused when it is opened
    match path.symlink_metadata() {
        Ok(_) => Ok(Some(StageFiles::open(&path)?)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LoadError::Io { path, source }.into()),
    }
}

fn stage<T: StageConfig>(folder: &Path, stage: StageId) -> Result<StageFiles<T>, Error> {
    optional_stage(folder, stage)?.ok_or_else(|| missing(folder, stage))
}

/// upsampler.0, upsampler.1 and so on, without a gap.
fn upsamplers(folder: &Path) -> Result<Vec<Upsampling>, Error> {
    let io = |source| LoadError::Io { path: folder.into(), source };
    let mut places = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let name = name.to_string_lossy();
        if let Ok(stage @ StageId::Upsampler(place)) = name.parse()
            && stage.to_string() == name
        {
            places.push(place);
        }
    }
    places.sort_unstable();
    if places.len() > MAX_UPSAMPLERS {
        let expected = format!("at most {MAX_UPSAMPLERS}");
        return Err(InvalidSetting::new("upsamplers", places.len(), expected).into());
    }
    match (0..).zip(&places).find(|(expected, place)| expected != *place) {
        Some((expected, _)) => Err(missing(folder, StageId::Upsampler(expected))),
        None => (places.iter())
            .map(|&place| {
                let text = optional_stage(folder, StageId::UpsamplerTextEncoder(place))?;
                Ok((stage(folder, StageId::Upsampler(place))?, text))
            })
            .collect(),
    }
}

/// A stage of the bundled model.
#[cfg(feature = "bundled")]
macro_rules! embedded {
    ($stage:literal) => {
        StageFiles::embedded(
            $stage,
            include_bytes!(concat!("../../assets/shapes/", $stage, "/config.json")),
            include_bytes!(concat!("../../assets/shapes/", $stage, "/model.safetensors")),
        )
    };
}

/// The bundled shapes model.
#[cfg(feature = "bundled")]
pub(crate) fn shapes() -> Result<Parts, Error> {
    let text_encoder: StageFiles<TextEncoderConfig> = embedded!("text_encoder")?;
    let reading = tokenizer_options(&text_encoder, None)?;
    let tokenizer = Tokenizer::from_bytes(
        Path::new("tokenizer"),
        include_bytes!("../../assets/shapes/tokenizer/vocab.json"),
        include_bytes!("../../assets/shapes/tokenizer/merges.txt"),
        reading,
    )?;
    Ok(Parts {
        text: Some(TextFiles { words: "tokenizer".into(), tokenizer, encoder: text_encoder }),
        image_encoder: Some(embedded!("image_encoder")?),
        prior: Some(embedded!("prior")?),
        ar_prior: Some(embedded!("ar_prior")?),
        upsamplers: vec![(embedded!("upsampler.0")?, None), (embedded!("upsampler.1")?, None)],
        ..Parts::of(embedded!("decoder")?)
    })
}

//! GLIDE in the files of its own code, converted to safetensors.
//!
//! ```text
//! tokenizer/                GPT-2's: vocab.json, merges.txt; or encoder.json, vocab.bpe
//! base.safetensors          64 pixels: a text tower and a U-Net; or base_inpaint
//! upsample.safetensors      64 to 256 pixels, likewise; or upsample_inpaint
//! ```
//! There are no configurations: the sizes are in source files. Sizes that tensor shapes reveal are
//! taken from them; the rest is what GLIDE published.

mod names;
mod networks;

use std::path::Path;

use unclip_clip::{TextEncoderConfig, Tokenizer, TokenizerOptions};
use unclip_core::InvalidSetting;
use unclip_decoder::DecoderConfig;
use unclip_nn::UNetConfig;
use unclip_nn::checkpoint::{StageFiles, Weights};

use super::layout::{Layout, learned_padding};
use super::original::shapes::Shapes;
use super::original::unet::{HEADS, unet};
use super::original::{is_there, stage, weights};
use crate::bundle::{Parts, TextFiles, Upsampling};
use crate::{Error, OpenOptions};
use networks::{BASE_SIDE, FACTOR};

/// What draws 64 pixels, and what enlarges them.
const DRAWING: [&str; 2] = ["base", "upsample"];
/// The same for parts of pictures.
const INPAINTING: [&str; 2] = ["base_inpaint", "upsample_inpaint"];

pub(super) struct Glide;

impl Layout for Glide {
    fn name(&self) -> &'static str {
        "glide"
    }

    /// Whether it has any of the files, converted or not.
    fn recognizes(&self, folder: &Path) -> bool {
        DRAWING.iter().chain(&INPAINTING).any(|name| is_there(folder, name))
    }

    fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Parts, Error> {
        let [base, upsample] = names_in(folder)?;
        let (text_encoder, decoder) = base_of(folder, base)?;
        let reading = TokenizerOptions {
            context_length: text_encoder.manifest.config.context_length,
            padding: learned_padding(options.padding)?,
        };
        let upsampler = is_there(folder, upsample).then(|| upsampler(folder, upsample));
        let words = folder.join("tokenizer");
        let text = TextFiles {
            tokenizer: Tokenizer::from_folder(&words, reading)?,
            words,
            encoder: text_encoder,
        };
        Ok(Parts {
            text: Some(text),
            upsamplers: upsampler.transpose()?.into_iter().collect(),
            ..Parts::of(decoder)
        })
    }
}

/// The names of the files of the one model that a folder holds.
fn names_in(folder: &Path) -> Result<[&'static str; 2], InvalidSetting> {
    let has = |names: &[&str; 2]| names.iter().any(|name| is_there(folder, name));
    match (has(&DRAWING), has(&INPAINTING)) {
        (true, true) => {
            let found =
                format!("{}: files of {} and of {}", folder.display(), DRAWING[0], INPAINTING[0]);
            let expected = "those of one model: put base and upsample into one folder, base_inpaint \
                            and upsample_inpaint into another, each with a tokenizer";
            Err(InvalidSetting::new("model", found, expected))
        }
        (false, true) => Ok(INPAINTING),
        _ => Ok(DRAWING),
    }
}

/// The text tower of a file, the sizes of its U-Net for pictures of this side, and that one's weights.
fn parts_of(
    folder: &Path,
    name: &str,
    side: usize,
) -> Result<(StageFiles<TextEncoderConfig>, UNetConfig, Weights), Error> {
    let [text, whole] = [weights(folder, name)?, weights(folder, name)?];
    let shapes = Shapes::of(&whole, "");
    let text = stage(networks::text_encoder(&shapes)?, names::text_encoder(text)?)?;
    let names = shapes.unet_names(HEADS)?;
    let config = unet(&shapes, &names, side)?;
    Ok((text, config, names::unet(whole, &names)?))
}

/// The text tower and the U-Net that draws.
fn base_of(
    folder: &Path,
    name: &str,
) -> Result<(StageFiles<TextEncoderConfig>, StageFiles<DecoderConfig>), Error> {
    let (text, unet, weights) = parts_of(folder, name, BASE_SIDE)?;
    let config = networks::decoder(unet, &text.manifest.config);
    Ok((text, stage(config, weights)?))
}

/// The same of an upsampler's file.
fn upsampler(folder: &Path, name: &str) -> Result<Upsampling, Error> {
    let (text, unet, weights) = parts_of(folder, name, BASE_SIDE * FACTOR)?;
    let config = networks::upsampler(unet, &text.manifest.config);
    Ok((stage(config, weights)?, Some(text)))
}

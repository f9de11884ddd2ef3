//! Models in the files of Karlo's own code, converted to safetensors.
//!
//! ```text
//! tokenizer/                                            vocab.json, merges.txt of CLIP
//! ViT-L-14.safetensors                                  CLIP, in any of its layouts
//! ViT-L-14_stats.safetensors                            mean, std of its image embeddings
//! prior-ckpt-step=01000000-of-01000000.safetensors
//! decoder-ckpt-step=01000000-of-01000000.safetensors
//! improved-sr-ckpt-step=1.2M.safetensors                two networks: all steps, and the last
//! ```
//! There are no configurations: the sizes are in source files. Sizes that tensor shapes reveal are
//! taken from them, as OpenAI's CLIP loader does; the rest is what Karlo published.

mod names;
mod networks;

use std::path::Path;

use unclip_clip::{Fit, Padding, Tokenizer, TokenizerOptions};
use unclip_decoder::DecoderConfig;
use unclip_nn::checkpoint::{StageFiles, Weights};
use unclip_prior::DiffusionPriorConfig;
use unclip_upsample::UpsamplerConfig;

use super::layout::Layout;
use super::original::clip::{image_encoder, text_encoder};
use super::original::shapes::Shapes;
use super::original::unet::{D_HEAD, HEADS, unet};
use super::original::{is_there, stage, weights};
use crate::bundle::{Parts, TextFiles};
use crate::{Error, OpenOptions};
use networks::{DECODER_SIDE, FACTOR};

/// CLIP.
const CLIP: &str = "ViT-L-14";
/// Statistics of CLIP's image embeddings.
const STATISTICS: &str = "ViT-L-14_stats";
/// The prior.
const PRIOR: &str = "prior-ckpt-step=01000000-of-01000000";
/// The decoder, text projection included.
const DECODER: &str = "decoder-ckpt-step=01000000-of-01000000";
/// Both networks of the super-resolution stage.
const UPSAMPLER: &str = "improved-sr-ckpt-step=1.2M";

pub(super) struct Karlo;

impl Layout for Karlo {
    fn name(&self) -> &'static str {
        "karlo"
    }

    /// Whether it has any of the files, converted or not.
    fn recognizes(&self, folder: &Path) -> bool {
        let names = [CLIP, STATISTICS, PRIOR, DECODER, UPSAMPLER];
        names.iter().any(|name| is_there(folder, name))
    }

    fn open(&self, folder: &Path, options: &OpenOptions) -> Result<Parts, Error> {
        let text_encoder = text_encoder(folder, CLIP, false)?;
        let reading = TokenizerOptions {
            context_length: text_encoder.manifest.config.context_length,
            padding: Some(options.padding.unwrap_or(Padding::Zero)),
        };
        let words = folder.join("tokenizer");
        let text = TextFiles {
            tokenizer: Tokenizer::from_folder(&words, reading)?,
            words,
            encoder: text_encoder,
        };
        Ok(Parts {
            text: Some(text),
            image_encoder: image_encoder(folder, CLIP, options.fit.unwrap_or(Fit::Squash), false)?,
            prior: Some(prior(folder)?),
            upsamplers: vec![(upsampler(folder)?, None)],
            ..Parts::of(decoder(folder)?)
        })
    }
}

/// The converter may leave a prefix that all names have, or strip it.
fn prefix(weights: &Weights, prefix: &'static str) -> &'static str {
    if weights.keys().iter().any(|key| key.starts_with(prefix)) { prefix } else { "" }
}

fn prior(folder: &Path) -> Result<StageFiles<DiffusionPriorConfig>, Error> {
    let [weights, statistics] = [weights(folder, PRIOR)?, weights(folder, STATISTICS)?];
    // later the two are one, under the name of the prior's file
    for key in ["mean", "std"] {
        Shapes::of(&statistics, "").sides::<1>(key)?;
    }
    let prefix = prefix(&weights, names::PREFIX);
    let config = networks::prior(&Shapes::of(&weights, prefix))?;
    stage(config, names::prior(weights, statistics, D_HEAD)?)
}

fn decoder(folder: &Path) -> Result<StageFiles<DecoderConfig>, Error> {
    let weights = weights(folder, DECODER)?;
    let prefix = prefix(&weights, names::PREFIX);
    let shapes = Shapes::of(&weights, prefix);
    let names = shapes.unet_names(HEADS)?;
    let config = networks::decoder(&shapes, &names)?;
    stage(config, names::decoder(weights, &names)?)
}

/// Both networks have the sizes of the first: the loader refuses a second that differs.
fn upsampler(folder: &Path) -> Result<StageFiles<UpsamplerConfig>, Error> {
    const FIRST: &str = "model_first_steps.";
    const LAST: &str = "model_last_step.";
    let weights = weights(folder, UPSAMPLER)?;
    let shapes = Shapes::of(&weights, FIRST);
    let names = shapes.unet_names(HEADS)?;
    let config = networks::upsampler(unet(&shapes, &names, DECODER_SIDE * FACTOR)?);
    stage(config, names.rename(weights, &[(FIRST, "unet."), (LAST, "last_step.")])?)
}

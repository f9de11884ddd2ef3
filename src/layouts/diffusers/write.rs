//! A model written in the folder layout of diffusers, for the Python world.

use serde_json::Value;
use unclip_nn::checkpoint::{StageConfig, save_part};

use super::super::layout::Target;
use super::files::{MODEL, NETWORK};
use crate::{Bundle, Error, Slot};

/// Writes configurations, tokenizer and weights.
pub(in crate::layouts) fn write(
    bundle: &Bundle,
    configs: &[(&str, Value)],
    target: &Target<'_>,
) -> Result<(), Error> {
    target.configs(configs)?;
    let text = bundle.text()?;
    target.copy_words(&text.words, "tokenizer")?;
    stage(&text.encoder, target, &[("", "text_encoder", MODEL)])?;
    if let Some(image_encoder) = &bundle.image_encoder {
        stage(image_encoder, target, &[("", "image_encoder", MODEL)])?;
    }
    if let Some(prior) = &bundle.prior {
        stage(prior, target, &[("", "prior", NETWORK)])?;
    }
    let parts = [("text_proj.", "text_proj", NETWORK), ("unet.", "decoder", NETWORK)];
    stage(&bundle.decoder, target, &parts)?;
    let parts = [("unet.", "super_res_first", NETWORK), ("last_step.", "super_res_last", NETWORK)];
    bundle.upsamplers.iter().try_for_each(|upsampler| stage(upsampler, target, &parts))
}

/// Writes a stage's weights in parts: how the keys of each begin, its folder, its file.
pub(in crate::layouts) fn stage<T: StageConfig>(
    stage: &Slot<T>,
    target: &Target<'_>,
    parts: &[(&str, &str, &str)],
) -> Result<(), Error> {
    let network = stage.load(target.device)?;
    for (prefix, folder, name) in parts {
        let path = target.place(&format!("{folder}/{name}.safetensors"))?;
        save_part(&network, prefix, &path, &T::KEYS, target.format)?;
    }
    Ok(())
}

//! Kandinsky 2.1 and 2.2 written as they are published: the folders `decoder` and `prior`.

use serde_json::{Value, json};
use unclip_core::{InvalidSetting, Parameterization};
use unclip_decoder::{CaptionKind, Control};
use unclip_nn::Precision;

use super::LATENT_CHANNELS;
use super::family::{Family, KANDINSKY_2_1, KANDINSKY_2_2, XLM_ROBERTA};
use crate::layouts::diffusers::autoencoder::described as autoencoder;
use crate::layouts::diffusers::describe::{DIFFUSERS, network, one_text_tower, prior, scheduler};
use crate::layouts::diffusers::describe_clip::{image_encoder, text_tower, words};
use crate::layouts::diffusers::described::{adm, refused, require};
use crate::layouts::diffusers::files::{INDEX, MODEL, NETWORK};
use crate::layouts::diffusers::unets::{self, DECODER_BLOCKS};
use crate::layouts::diffusers::write::stage;
use crate::layouts::diffusers::{mclip, schedulers};
use crate::layouts::layout::Target;
use crate::{Bundle, Error, TextReader};

/// The version that a model is of.
fn family(bundle: &Bundle) -> &'static Family {
    match bundle.decoder.config().captions {
        CaptionKind::Whole => &KANDINSKY_2_1,
        // what it cannot hold of others is refused field by field
        CaptionKind::Masked
        | CaptionKind::Alone
        | CaptionKind::Classes(_)
        | CaptionKind::Replaced { .. } => &KANDINSKY_2_2,
    }
}

/// Every configuration file of a model, but for the tokenizers' lists of tokens.
pub(super) fn configs(bundle: &Bundle, format: Precision) -> Result<Vec<(String, Value)>, Error> {
    let family = family(bundle);
    if !family.reads_captions {
        one_text_tower(bundle, family.name)?;
    }
    // a tower and a prior that are not there are named
    bundle.image_encoder()?;
    bundle.prior()?;
    let mut all = text(bundle, family, format)?;
    let mut files = image_encoder(bundle, format)?;
    files.extend(prior(bundle, scheduler)?);
    all.extend(files.into_iter().map(|(name, value)| (in_prior(name), value)));
    all.extend(decoder(bundle, family).map_err(|error| refused(bundle, "decoder", error))?);
    all.extend(index(bundle, family));
    Ok(all)
}

/// The text towers, and what says how their captions are read.
fn text(
    bundle: &Bundle,
    family: &Family,
    format: Precision,
) -> Result<Vec<(String, Value)>, Error> {
    let TextReader { tokenizer, encoder: slot, .. } = bundle.clip_text()?;
    let own = bundle.text()?;
    let described = || {
        let [marks, config] = words(tokenizer, slot.config().context_length)?;
        let mut files = vec![
            ("prior/text_encoder/config.json", text_tower(slot, tokenizer, format)?),
            ("prior/tokenizer/special_tokens_map.json", marks),
            ("prior/tokenizer/tokenizer_config.json", config),
        ];
        if family.reads_captions {
            let own = mclip::described(&own.encoder, &own.tokenizer, format)?;
            files.push(("decoder/text_encoder/config.json", own));
        }
        Ok(files)
    };
    let files = described().map_err(|error| refused(bundle, "text_encoder", error))?;
    Ok(files.into_iter().map(|(name, value)| (name.into(), value)).collect())
}

/// Where a file of Karlo's layout lies in the prior's folder.
fn in_prior(name: &str) -> String {
    let name = name.replace("prior_scheduler", "scheduler");
    format!("prior/{}", name.replace("feature_extractor", "image_processor"))
}

fn decoder(bundle: &Bundle, family: &Family) -> Result<Vec<(String, Value)>, InvalidSetting> {
    let pipeline = family.name;
    let config = bundle.decoder.config();
    let unet = adm(&config.unet)?;
    if family.reads_captions {
        require("d_embedding", config.d_embedding, unet.d_context.unwrap_or_default(), pipeline)?;
    } else {
        require("d_text", config.d_text, None, pipeline)?;
    }
    require("channels", config.channels, LATENT_CHANNELS, pipeline)?;
    require("image_tokens", config.image_tokens, family.image_tokens, pipeline)?;
    // its pipeline splits a variance off in any case
    let out_channels = 2 * LATENT_CHANNELS;
    require("unet.out_channels", unet.out_channels, out_channels, pipeline)?;
    let epsilon = Parameterization::Epsilon;
    require("diffusion.parameterization", config.diffusion.parameterization, epsilon, pipeline)?;
    require("upsamplers", bundle.upsamplers.len(), 0, pipeline)?;
    let Some(slot) = &bundle.autoencoder else {
        let expected = "one: the decoder of this layout samples latents";
        return Err(InvalidSetting::new("autoencoder", "absent", expected));
    };
    if unet.attention_resolutions.is_empty() {
        let expected = "at least one: the middle of diffusers' decoder has attention";
        return Err(InvalidSetting::new("unet.attention_resolutions", "[]", expected));
    }
    let mut network = network(unet, &DECODER_BLOCKS, unet.image_size)?;
    let has_hint = config.control == Some(Control::Hint);
    let (added, tokens, width) = match config.d_text {
        Some(d_text) => (unets::CAPTION_ADDED, unets::CAPTION_TOKENS, d_text),
        None if has_hint => (unets::WITH_HINT, unets::IMAGE_TOKENS, config.d_embedding),
        None => (unets::WITHOUT_HINT, unets::IMAGE_TOKENS, config.d_embedding),
    };
    network["addition_embed_type"] = json!(added);
    network["cross_attention_dim"] = json!(unet.d_context);
    network["encoder_hid_dim"] = json!(width);
    network["encoder_hid_dim_type"] = json!(tokens);
    network["mid_block_type"] = json!(DECODER_BLOCKS.middle);
    let files = [
        ("decoder/unet/config.json", network),
        ("decoder/scheduler/scheduler_config.json", schedulers::described(&config.diffusion)?),
        ("decoder/movq/config.json", autoencoder(slot.config())?),
    ];
    Ok(files.map(|(name, value)| (name.into(), value)).into())
}

fn index(bundle: &Bundle, family: &Family) -> [(String, Value); 2] {
    // the first is of pictures, the others of what a decoder is told beside
    let place = match bundle.control() {
        None => 0,
        Some(Control::Kept) => 1,
        Some(Control::Hint) => 2,
    };
    let mut decoder = json!({
        "_class_name": family.decoders[place],
        "_diffusers_version": DIFFUSERS,
        "movq": ["diffusers", "VQModel"],
        "scheduler": ["diffusers", schedulers::class(&bundle.decoder.config().diffusion)],
        "unet": ["diffusers", "UNet2DConditionModel"],
    });
    if family.reads_captions {
        decoder["text_encoder"] = json!(["kandinsky", mclip::CLASS]);
        decoder["tokenizer"] = json!(["transformers", XLM_ROBERTA]);
    }
    let prior = json!({
        "_class_name": family.priors[0],
        "_diffusers_version": DIFFUSERS,
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "image_processor": ["transformers", "CLIPImageProcessor"],
        "prior": ["diffusers", "PriorTransformer"],
        "scheduler": ["diffusers", "UnCLIPScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    });
    [(format!("decoder/{INDEX}"), decoder), (format!("prior/{INDEX}"), prior)]
}

/// Writes configurations, tokenizers and weights.
pub(super) fn write(
    bundle: &Bundle,
    configs: &[(String, Value)],
    target: &Target<'_>,
) -> Result<(), Error> {
    target.configs(configs)?;
    let clip = bundle.clip_text()?;
    target.copy_words(&clip.words, "prior/tokenizer")?;
    stage(&clip.encoder, target, &[("", "prior/text_encoder", MODEL)])?;
    if bundle.prior_text.is_some() {
        let own = bundle.text()?;
        target.copy_words(&own.words, "decoder/tokenizer")?;
        stage(&own.encoder, target, &[("", "decoder/text_encoder", MODEL)])?;
    }
    stage(bundle.image_encoder()?, target, &[("", "prior/image_encoder", MODEL)])?;
    stage(bundle.prior()?, target, &[("", "prior/prior", NETWORK)])?;
    stage(&bundle.decoder, target, &[("unet.", "decoder/unet", NETWORK)])?;
    bundle
        .autoencoder
        .iter()
        .try_for_each(|slot| stage(slot, target, &[("", "decoder/movq", NETWORK)]))
}

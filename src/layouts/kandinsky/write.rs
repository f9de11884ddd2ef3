//! Kandinsky 2.2 written as it is published: the folders `decoder` and `prior`.

use serde_json::{Value, json};
use unclip_core::{InvalidSetting, Parameterization};
use unclip_decoder::Control;
use unclip_nn::Precision;

use super::{IMAGE_TOKENS, LATENT_CHANNELS};
use crate::layouts::diffusers::autoencoder::described as autoencoder;
use crate::layouts::diffusers::describe::{DIFFUSERS, network, one_text_tower, prior, scheduler};
use crate::layouts::diffusers::describe_clip::{image_encoder, text_encoder, tokenizer};
use crate::layouts::diffusers::described::{refused, require};
use crate::layouts::diffusers::files::{INDEX, MODEL, NETWORK};
use crate::layouts::diffusers::schedulers;
use crate::layouts::diffusers::unets::{DECODER_BLOCKS, WITH_HINT, WITHOUT_HINT};
use crate::layouts::diffusers::write::stage;
use crate::layouts::layout::Target;
use crate::{Bundle, Error};

/// Every configuration file of a model, but for the tokenizer's lists of tokens.
pub(super) fn configs(bundle: &Bundle, format: Precision) -> Result<Vec<(String, Value)>, Error> {
    one_text_tower(bundle)?;
    // a tower and a prior that are not there are named
    bundle.image_encoder()?;
    bundle.prior()?;
    let mut files = vec![text_encoder(bundle, format)?];
    files.extend(tokenizer(bundle)?);
    files.extend(image_encoder(bundle, format)?);
    files.extend(prior(bundle, scheduler)?);
    let mut all: Vec<(String, Value)> =
        files.into_iter().map(|(name, value)| (in_prior(name), value)).collect();
    all.extend(decoder(bundle).map_err(|error| refused(bundle, "decoder", error))?);
    all.extend(index(bundle));
    Ok(all)
}

/// Where a file of Karlo's layout lies in the prior's folder.
fn in_prior(name: &str) -> String {
    let name = name.replace("prior_scheduler", "scheduler");
    format!("prior/{}", name.replace("feature_extractor", "image_processor"))
}

fn decoder(bundle: &Bundle) -> Result<Vec<(String, Value)>, InvalidSetting> {
    const PIPELINE: &str = "Kandinsky 2.2";
    let config = bundle.decoder.config();
    let unet = &config.unet;
    require("d_text", config.d_text, None, PIPELINE)?;
    require("channels", config.channels, LATENT_CHANNELS, PIPELINE)?;
    require("image_tokens", config.image_tokens, IMAGE_TOKENS, PIPELINE)?;
    // its pipeline splits a variance off in any case
    let out_channels = 2 * LATENT_CHANNELS;
    require("unet.out_channels", unet.out_channels, out_channels, PIPELINE)?;
    let epsilon = Parameterization::Epsilon;
    require("diffusion.parameterization", config.diffusion.parameterization, epsilon, PIPELINE)?;
    require("upsamplers", bundle.upsamplers.len(), 0, PIPELINE)?;
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
    network["addition_embed_type"] = json!(if has_hint { WITH_HINT } else { WITHOUT_HINT });
    network["cross_attention_dim"] = json!(unet.d_context);
    network["encoder_hid_dim"] = json!(config.d_embedding);
    network["encoder_hid_dim_type"] = json!("image_proj");
    network["mid_block_type"] = json!(DECODER_BLOCKS.middle);
    let files = [
        ("decoder/unet/config.json", network),
        ("decoder/scheduler/scheduler_config.json", schedulers::described(&config.diffusion)?),
        ("decoder/movq/config.json", autoencoder(slot.config())?),
    ];
    Ok(files.map(|(name, value)| (name.into(), value)).into())
}

/// The pipeline that runs a decoder.
fn pipeline(control: Option<Control>) -> &'static str {
    match control {
        None => "KandinskyV22Pipeline",
        Some(Control::Kept) => "KandinskyV22InpaintPipeline",
        Some(Control::Hint) => "KandinskyV22ControlnetPipeline",
    }
}

fn index(bundle: &Bundle) -> [(String, Value); 2] {
    let decoder = json!({
        "_class_name": pipeline(bundle.control()),
        "_diffusers_version": DIFFUSERS,
        "movq": ["diffusers", "VQModel"],
        "scheduler": ["diffusers", schedulers::class(&bundle.decoder.config().diffusion)],
        "unet": ["diffusers", "UNet2DConditionModel"],
    });
    let prior = json!({
        "_class_name": "KandinskyV22PriorPipeline",
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

/// Writes configurations, tokenizer and weights.
pub(super) fn write(
    bundle: &Bundle,
    configs: &[(String, Value)],
    target: &Target<'_>,
) -> Result<(), Error> {
    target.configs(configs)?;
    target.copy_words(&bundle.words, "prior/tokenizer")?;
    stage(&bundle.text_encoder, target, &[("", "prior/text_encoder", MODEL)])?;
    stage(bundle.image_encoder()?, target, &[("", "prior/image_encoder", MODEL)])?;
    stage(bundle.prior()?, target, &[("", "prior/prior", NETWORK)])?;
    stage(&bundle.decoder, target, &[("unet.", "decoder/unet", NETWORK)])?;
    bundle
        .autoencoder
        .iter()
        .try_for_each(|slot| stage(slot, target, &[("", "decoder/movq", NETWORK)]))
}

//! CLIP's towers, its tokenizer and its preprocessing in transformers' words.

use serde_json::{Value, json};
use unclip_clip::{Fit, Padding, TextEncoderConfig, TextTower, Tokenizer};
use unclip_core::InvalidSetting;
use unclip_nn::{Precision, TransformerConfig};

use super::clip::EndMark;
use super::described::{File, refused, require};
use crate::{Bundle, Error, Slot};

/// The classes of text towers: that of CLIP, and that which only reads captions for others.
pub(in crate::layouts) const PROJECTED: &str = "CLIPTextModelWithProjection";
pub(in crate::layouts) const UNPROJECTED: &str = "CLIPTextModel";

/// Version of transformers whose fields are written.
pub(super) const TRANSFORMERS: &str = "4.25.0";

/// How transformers calls a format of weights.
pub(super) fn dtype(format: Precision) -> &'static str {
    match format {
        Precision::F32 => "float32",
        Precision::F16 => "float16",
        Precision::BF16 => "bfloat16",
    }
}

/// The fields that both of CLIP's towers have.
fn tower(kind: &str, class: &str, tower: &TransformerConfig, format: Precision) -> Value {
    json!({
        "architectures": [class],
        "attention_dropout": 0.0,
        "dropout": 0.0,
        "hidden_act": tower.activation,
        "hidden_size": tower.d_model,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": tower.d_hidden,
        "layer_norm_eps": tower.norm_eps,
        "model_type": kind,
        "num_attention_heads": tower.n_heads,
        "num_hidden_layers": tower.n_layers,
        "torch_dtype": dtype(format),
        "transformers_version": TRANSFORMERS,
    })
}

/// The tower for captions.
pub(in crate::layouts) fn text_encoder(bundle: &Bundle, format: Precision) -> Result<File, Error> {
    let text = bundle.text()?;
    let config = text_tower(&text.encoder, &text.tokenizer, format);
    let config = config.map_err(|error| refused(bundle, "text_encoder", error))?;
    Ok(("text_encoder/config.json", config))
}

/// A tower for captions.
pub(in crate::layouts) fn text_tower(
    slot: &Slot<TextEncoderConfig>,
    tokenizer: &Tokenizer,
    format: Precision,
) -> Result<Value, InvalidSetting> {
    let TextEncoderConfig {
        vocab_size,
        context_length,
        tower: kind,
        d_embedding,
        projected,
        transformer,
        unit_length,
        ..
    } = slot.config();
    require("tower", *kind, TextTower::Clip, "CLIPTextModel")?;
    require("unit_length", *unit_length, false, "CLIPTextModel")?;
    let end = EndMark::of(tokenizer)?;
    let class = if *projected { PROJECTED } else { UNPROJECTED };
    let mut config = tower("clip_text_model", class, transformer, format);
    config["vocab_size"] = json!(vocab_size);
    config["max_position_embeddings"] = json!(context_length);
    if *projected {
        config["projection_dim"] = json!(d_embedding);
    }
    config["eos_token_id"] = json!(end.0);
    // as published; nothing reads them
    config["bos_token_id"] = json!(0);
    config["pad_token_id"] = json!(1);
    Ok(config)
}

/// The two files beside the lists of tokens.
pub(in crate::layouts) fn tokenizer(bundle: &Bundle) -> Result<[File; 2], Error> {
    let text = bundle.text()?;
    let length = text.encoder.config().context_length;
    let [marks, config] =
        words(&text.tokenizer, length).map_err(|error| refused(bundle, "tokenizer", error))?;
    Ok([("tokenizer/special_tokens_map.json", marks), ("tokenizer/tokenizer_config.json", config)])
}

/// The two files beside the lists of tokens: `special_tokens_map.json` and `tokenizer_config.json`.
pub(in crate::layouts) fn words(
    tokenizer: &Tokenizer,
    length: usize,
) -> Result<[Value; 2], InvalidSetting> {
    let pad = match tokenizer.padding() {
        Padding::Exclamation => "!",
        Padding::End => "<|endoftext|>",
        other @ (Padding::Zero | Padding::Pad | Padding::Learned) => {
            let expected = "exclamation or end, as which the model can be opened: the padding of \
                            transformers' tokenizer is a token of its own";
            return Err(InvalidSetting::new("padding", other, expected));
        }
    };
    let token = |content: &str| {
        let mut token = json!({ "content": content, "normalized": true });
        for flag in ["lstrip", "rstrip", "single_word"] {
            token[flag] = json!(false);
        }
        token
    };
    let typed = |content: &str| {
        let mut token = token(content);
        token["__type"] = json!("AddedToken");
        token
    };
    let (start, end) = ("<|startoftext|>", "<|endoftext|>");
    let marks = json!({
        "bos_token": token(start),
        "eos_token": token(end),
        "pad_token": pad,
        "unk_token": token(end),
    });
    let config = json!({
        "add_prefix_space": false,
        "bos_token": typed(start),
        "do_lower_case": true,
        "eos_token": typed(end),
        "errors": "replace",
        "model_max_length": length,
        "pad_token": pad,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": typed(end),
    });
    Ok([marks, config])
}

/// The tower and its preprocessing, if there is one.
pub(in crate::layouts) fn image_encoder(
    bundle: &Bundle,
    format: Precision,
) -> Result<Vec<File>, Error> {
    let Some(files) = &bundle.image_encoder else {
        return Ok(Vec::new());
    };
    let config = files.config();
    require("fit", config.fit, Fit::Crop, "CLIPImageProcessor in this layout")
        .and_then(|()| require("unit_length", config.unit_length, false, "CLIPVisionModel"))
        .map_err(|error| refused(bundle, "image_encoder", error))?;
    let side = config.image_size;
    let mut network =
        tower("clip_vision_model", "CLIPVisionModelWithProjection", &config.transformer, format);
    network["image_size"] = json!(side);
    network["num_channels"] = json!(3);
    network["patch_size"] = json!(config.patch_size);
    network["projection_dim"] = json!(config.d_embedding);
    let processor = json!({
        "crop_size": { "height": side, "width": side },
        "do_center_crop": true,
        "do_convert_rgb": true,
        "do_normalize": true,
        "do_rescale": true,
        "do_resize": true,
        "image_mean": config.mean.map(decimal),
        "image_processor_type": "CLIPImageProcessor",
        "image_std": config.std.map(decimal),
        "resample": 3,
        "rescale_factor": 1.0 / 255.0,
        "size": { "shortest_edge": side },
    });
    Ok(vec![
        ("image_encoder/config.json", network),
        ("feature_extractor/preprocessor_config.json", processor),
    ])
}

/// The shortest decimal number that is read as this one, in place of all its digits.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}

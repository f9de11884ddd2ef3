//! M-CLIP's text tower and its tokenizer, as diffusers writes them for Kandinsky 2.1.

use std::path::Path;

use serde_json::{Value, json};
use unclip_clip::{Padding, TextEncoderConfig, TextTower, Tokenizer, TokenizerOptions};
use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::{LoadError, Part, Weights};
use unclip_nn::{Activation, Precision, TransformerConfig};

use super::clip::{IGNORED, is_there};
use super::describe_clip::{TRANSFORMERS, dtype};
use super::described::require;
use super::fields::Fields;
use super::files::MODEL;
use super::{required, stage};
use crate::bundle::{TextFiles, agree};
use crate::{Error, Slot, StageId};

/// Positions of a caption: the pipeline says so, no file does.
const CONTEXT_LENGTH: usize = 77;

/// The class of the tower.
pub(in crate::layouts) const CLASS: &str = "MultilingualCLIP";

/// The file that is read of a tokenizer, and the one that older programs write.
const WORDS: &str = "tokenizer.json";
const SENTENCEPIECE: &str = "sentencepiece.bpe.model";

/// The tower and its tokenizer.
pub(in crate::layouts) fn text(folder: &Path) -> Result<TextFiles, Error> {
    let path = required(folder, &StageId::TextEncoder.to_string())?;
    let words = required(folder, "tokenizer")?;
    check_words(&words)?;
    let (config, end) = text_encoder(&path)?;
    let reading =
        TokenizerOptions { context_length: config.context_length, padding: Some(Padding::Pad) };
    let tokenizer = Tokenizer::from_folder(&words, reading)?;
    let (tower, found) = (end.to_string(), tokenizer.end().to_string());
    agree(StageId::TextEncoder, &tower, "tokenizer", &found, "eos_token_id")?;
    // buffers that some versions wrote down
    const BUFFERS: [&str; 2] =
        ["transformer.embeddings.position_ids", "transformer.embeddings.token_type_ids"];
    let is_buffer = |key: &str| BUFFERS.contains(&key);
    let kept = |key: &str, _: &[usize]| {
        if is_buffer(key) { Vec::new() } else { vec![(key.into(), Part::default())] }
    };
    let weights = Weights::open_in(&path, MODEL)?.renamed(kept)?;
    let encoder = stage(&path, config, weights, "num_hidden_layers")?;
    Ok(TextFiles { words, tokenizer, encoder })
}

/// Says what to do where there is another tokenizer, or this one in its older form alone.
fn check_words(folder: &Path) -> Result<(), Error> {
    let (is_there, is_clip) = (folder.join(WORDS).exists(), folder.join("vocab.json").exists());
    if is_there && !is_clip {
        return Ok(check_padding(folder)?);
    }
    let name = format!("{WORDS} in {}", folder.display());
    let found = if is_there { "beside vocab.json" } else { "absent" };
    let expected = if folder.join(SENTENCEPIECE).exists() {
        format!(
            "beside {SENTENCEPIECE}, which is not read: transformers' \
             XLMRobertaTokenizerFast.from_pretrained(folder).save_pretrained(folder) writes it"
        )
    } else {
        "XLM-RoBERTa's tokenizer alone".into()
    };
    Err(InvalidSetting::new(name, found, expected).into())
}

/// Checks that what says how captions are padded is whole, and says what is done.
fn check_padding(folder: &Path) -> Result<(), LoadError> {
    const FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];
    for path in FILES.map(|name| folder.join(name)).iter().filter(|path| is_there(path)) {
        let mut fields = Fields::read(path, None)?;
        // some write the token, some a description of it
        let pad: Option<Value> = fields.take_optional("pad_token")?;
        let pad = pad.as_ref().map(|pad| pad.get("content").unwrap_or(pad));
        if let Some(pad) = pad.filter(|pad| **pad != json!("<pad>")) {
            return Err(fields.error("pad_token", pad, "\"<pad>\""));
        }
    }
    Ok(())
}

/// The configuration, and the number of the mark after a caption.
fn text_encoder(folder: &Path) -> Result<(TextEncoderConfig, u32), LoadError> {
    let mut fields = Fields::read(&folder.join("config.json"), None)?;
    let activation: String = fields.take("hidden_act")?;
    if activation != "gelu" {
        return Err(fields.error("hidden_act", activation, "\"gelu\""));
    }
    fields.expect_all([
        ("position_embedding_type", json!("absolute")),
        ("type_vocab_size", json!(1)),
        ("is_decoder", false.into()),
        ("add_cross_attention", false.into()),
        ("pruned_heads", json!({})),
    ])?;
    let d_model: usize = fields.take("hidden_size")?;
    fields.expect("transformerDimensions", d_model)?;
    let config = TextEncoderConfig {
        unit_length: false,
        padding: None,
        logit_scale: TextEncoderConfig::MOST,
        transformer: TransformerConfig {
            d_model,
            n_layers: fields.take("num_hidden_layers")?,
            n_heads: fields.take("num_attention_heads")?,
            d_hidden: fields.take("intermediate_size")?,
            activation: Activation::Gelu,
            norm_eps: fields.take("layer_norm_eps")?,
        },
        vocab_size: fields.take("vocab_size")?,
        context_length: CONTEXT_LENGTH,
        tower: TextTower::Multilingual {
            positions: fields.take("max_position_embeddings")?,
            padding: fields.take_optional("pad_token_id")?.unwrap_or(1),
        },
        d_embedding: fields.take("numDims")?,
        projected: true,
    };
    let end = fields.take_optional("eos_token_id")?.unwrap_or(2);
    fields.ignore(&IGNORED);
    // of training, of other tasks, and where the tower comes from
    fields.ignore(&[
        "attention_probs_dropout_prob",
        "hidden_dropout_prob",
        "classifier_dropout",
        "output_past",
        "modelBase",
    ]);
    let names = [
        ("d_model", "hidden_size"),
        ("n_layers", "num_hidden_layers"),
        ("n_heads", "num_attention_heads"),
        ("d_hidden", "intermediate_size"),
        ("norm_eps", "layer_norm_eps"),
        ("positions", "max_position_embeddings"),
        ("padding", "pad_token_id"),
        ("d_embedding", "numDims"),
    ];
    config.validate().map_err(|error| fields.invalid(&error, &names))?;
    fields.finish()?;
    Ok((config, end))
}

/// The configuration of a tower.
pub(in crate::layouts) fn described(
    slot: &Slot<TextEncoderConfig>,
    tokenizer: &Tokenizer,
    format: Precision,
) -> Result<Value, InvalidSetting> {
    let config = slot.config();
    let TextTower::Multilingual { positions, padding } = config.tower else {
        let expected = "multilingual: the decoder of this layout reads captions by M-CLIP's tower";
        return Err(InvalidSetting::new("tower", "clip", expected));
    };
    let transformer = &config.transformer;
    require("context_length", config.context_length, CONTEXT_LENGTH, CLASS)?;
    require("transformer.activation", transformer.activation, Activation::Gelu, CLASS)?;
    Ok(json!({
        "architectures": [CLASS],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "eos_token_id": tokenizer.end(),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": transformer.d_model,
        "initializer_range": 0.02,
        "intermediate_size": transformer.d_hidden,
        "layer_norm_eps": transformer.norm_eps,
        "max_position_embeddings": positions,
        "model_type": "M-CLIP",
        "numDims": config.d_embedding,
        "num_attention_heads": transformer.n_heads,
        "num_hidden_layers": transformer.n_layers,
        "output_past": true,
        "pad_token_id": padding,
        "position_embedding_type": "absolute",
        "torch_dtype": dtype(format),
        "transformerDimensions": transformer.d_model,
        "transformers_version": TRANSFORMERS,
        "type_vocab_size": 1,
        "use_cache": true,
        "vocab_size": config.vocab_size,
    }))
}

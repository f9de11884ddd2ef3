//! transformers' configurations of CLIP's towers, its tokenizer and its preprocessing.

use std::path::Path;

use serde_json::{Value, json};
use unclip_clip::{Fit, ImageEncoderConfig, Padding, TextEncoderConfig, TextTower, Tokenizer};
use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::LoadError;
use unclip_nn::{Activation, TransformerConfig};

use super::fields::Fields;

/// Fields of training, of other tasks, and of what a call returns beside the embedding.
pub(super) const IGNORED: [&str; 51] = [
    "architectures",
    "attention_dropout",
    "dropout",
    "hidden_dropout",
    "initializer_factor",
    "initializer_range",
    "logit_scale_init_value",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "return_dict",
    "use_return_dict",
    "output_hidden_states",
    "output_attentions",
    "use_cache",
    "torchscript",
    "use_bfloat16",
    "gradient_checkpointing",
    "chunk_size_feed_forward",
    "tie_word_embeddings",
    "tie_encoder_decoder",
    "problem_type",
    "finetuning_task",
    "task_specific_params",
    "id2label",
    "label2id",
    "num_labels",
    "tokenizer_class",
    "bos_token_id",
    "sep_token_id",
    // how transformers' text generation works
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "remove_invalid_values",
    "tf_legacy_loss",
];

/// Our names of fields, and transformers'.
const NAMES: [(&str, &str); 7] = [
    ("d_model", "hidden_size"),
    ("n_layers", "num_hidden_layers"),
    ("n_heads", "num_attention_heads"),
    ("d_hidden", "intermediate_size"),
    ("norm_eps", "layer_norm_eps"),
    ("context_length", "max_position_embeddings"),
    ("d_embedding", "projection_dim"),
];

fn tower(fields: &mut Fields) -> Result<TransformerConfig, LoadError> {
    let activation: Option<String> = fields.take_optional("hidden_act")?;
    let activation = match activation.as_deref() {
        None | Some("quick_gelu") => Activation::QuickGelu,
        Some("gelu") => Activation::Gelu,
        Some(other) => {
            return Err(fields.error("hidden_act", other, "\"quick_gelu\" or \"gelu\""));
        }
    };
    fields.ignore(&IGNORED);
    fields.expect_all([
        ("is_decoder", false.into()),
        ("is_encoder_decoder", false.into()),
        ("add_cross_attention", false.into()),
        ("pruned_heads", json!({})),
    ])?;
    Ok(TransformerConfig {
        d_model: fields.take("hidden_size")?,
        n_layers: fields.take("num_hidden_layers")?,
        n_heads: fields.take("num_attention_heads")?,
        d_hidden: fields.take("intermediate_size")?,
        activation,
        norm_eps: fields.take_optional("layer_norm_eps")?.unwrap_or(1e-5),
    })
}

/// The number of the end mark, as a text encoder's configuration has it.
#[derive(Debug, Clone, Copy)]
pub(in crate::layouts) struct EndMark(pub(in crate::layouts) usize);

impl EndMark {
    /// What old files say; the token with the largest number is then taken for the end mark.
    const LEGACY: usize = 2;

    /// The mark of this tokenizer, as old versions of transformers understand it too if possible.
    pub(in crate::layouts) fn of(tokenizer: &Tokenizer) -> Result<Self, InvalidSetting> {
        match tokenizer.end() as usize {
            end if end + 1 == tokenizer.vocab_size() => Ok(Self(Self::LEGACY)),
            Self::LEGACY => {
                let expected = "another number, or the last: transformers takes 2 for the last";
                Err(InvalidSetting::new("number of the end mark", Self::LEGACY, expected))
            }
            end => Ok(Self(end)),
        }
    }

    /// Whether it is the mark of this tokenizer.
    pub(in crate::layouts) fn is_of(self, tokenizer: &Tokenizer) -> bool {
        let end = tokenizer.end() as usize;
        self.0 == end || (self.0 == Self::LEGACY && end + 1 == tokenizer.vocab_size())
    }
}

/// A `CLIPTextModelWithProjection`, or a `CLIPTextModel` without, and its end mark.
pub(in crate::layouts) fn text_encoder(
    folder: &Path,
    projected: bool,
) -> Result<(TextEncoderConfig, EndMark), LoadError> {
    let mut fields = Fields::read(&folder.join("config.json"), None)?;
    let transformer = tower(&mut fields)?;
    let d_embedding = if projected { fields.take("projection_dim")? } else { transformer.d_model };
    // of the projection that there is not
    fields.ignore(&["projection_dim"]);
    let config = TextEncoderConfig {
        unit_length: false,
        padding: None,
        logit_scale: TextEncoderConfig::MOST,
        transformer,
        vocab_size: fields.take("vocab_size")?,
        context_length: fields.take_optional("max_position_embeddings")?.unwrap_or(77),
        d_embedding,
        tower: TextTower::Clip,
        projected,
    };
    let end = fields.take_optional("eos_token_id")?.unwrap_or(EndMark::LEGACY);
    fields.ignore(&["pad_token_id"]);
    config.validate().map_err(|error| fields.invalid(&error, &NAMES))?;
    fields.finish()?;
    Ok((config, EndMark(end)))
}

/// A `CLIPVisionModelWithProjection`, and the `CLIPImageProcessor` before it.
pub(in crate::layouts) fn image_encoder(
    folder: &Path,
    processor: &Path,
) -> Result<ImageEncoderConfig, LoadError> {
    let mut fields = Fields::read(&folder.join("config.json"), None)?;
    fields.expect("num_channels", 3)?;
    let transformer = tower(&mut fields)?;
    let image_size = fields.take_optional("image_size")?.unwrap_or(224);
    let (mean, std) = image_processor(processor, image_size)?;
    let config = ImageEncoderConfig {
        unit_length: false,
        image_size,
        patch_size: fields.take_optional("patch_size")?.unwrap_or(32),
        d_embedding: fields.take("projection_dim")?,
        transformer,
        mean,
        std,
        fit: Fit::Crop,
    };
    config.validate().map_err(|error| fields.invalid(&error, &NAMES))?;
    fields.finish()?;
    Ok(config)
}

/// Mean and standard deviation of a `CLIPImageProcessor`, which must do what CLIP's does.
fn image_processor(folder: &Path, side: usize) -> Result<([f32; 3], [f32; 3]), LoadError> {
    const BICUBIC: i32 = 3;
    let mut fields = Fields::read(&folder.join("preprocessor_config.json"), None)?;
    for name in ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"] {
        fields.expect(name, true)?;
    }
    fields.expect("resample", BICUBIC)?;
    let factor: Option<f64> = fields.take_optional("rescale_factor")?;
    if let Some(factor) = factor.filter(|factor| (factor * 255.0 - 1.0).abs() > 1e-6) {
        return Err(fields.error("rescale_factor", factor, "1/255"));
    }
    // old files give a number, new ones name the sides
    let sizes = [
        ("size", json!({ "shortest_edge": side })),
        ("crop_size", json!({ "height": side, "width": side })),
    ];
    for (name, expected) in sizes {
        let found: Option<Value> = fields.take_optional(name)?;
        if let Some(found) = found.filter(|found| *found != expected && *found != json!(side)) {
            return Err(fields.error(name, found, &expected.to_string()));
        }
    }
    let statistics = (fields.take("image_mean")?, fields.take("image_std")?);
    for name in ["do_pad", "default_to_square", "use_square_size"] {
        // null is no
        let found: Option<Value> = fields.take_optional(name)?;
        if let Some(found) = found.filter(|found| *found != json!(false)) {
            return Err(fields.error(name, found, "false"));
        }
    }
    fields.ignore(&[
        "image_processor_type",
        "feature_extractor_type",
        "processor_class",
        // what a call is given and gives back, and where it works
        "data_format",
        "input_data_format",
        "return_tensors",
        "device",
        "disable_grouping",
        "pad_size",
    ]);
    fields.finish()?;
    Ok(statistics)
}

/// The token that a file says rows are filled up with.
fn padding(fields: &mut Fields) -> Result<Option<Padding>, LoadError> {
    // some write the token, some a description of it
    let pad: Option<Value> = fields.take_optional("pad_token")?;
    let pad = pad.as_ref().map(|pad| pad.get("content").unwrap_or(pad));
    match pad.and_then(Value::as_str) {
        None => Ok(None),
        Some("!") => Ok(Some(Padding::Exclamation)),
        Some("<|endoftext|>") => Ok(Some(Padding::End)),
        Some(other) => Err(fields.error("pad_token", other, "\"!\" or \"<|endoftext|>\"")),
    }
}

/// Whether there is something, were it a link to nothing: that is half of a download.
pub(super) fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// What a tokenizer's folder says beside vocabulary and merges: how rows are filled up, and how
/// long they are.
pub(in crate::layouts) fn tokenizer(
    folder: &Path,
) -> Result<(Option<Padding>, Option<usize>), LoadError> {
    let path = folder.join("tokenizer_config.json");
    if !is_there(&path) {
        return Ok((None, None));
    }
    let mut fields = Fields::read(&path, None)?;
    let added: Option<Value> = fields.take_optional("added_tokens_decoder")?;
    let mut padding = padding(&mut fields)?;
    // what transformers reads last, but for files that list all added tokens
    let marks = folder.join("special_tokens_map.json");
    if added.is_none() && is_there(&marks) {
        padding = self::padding(&mut Fields::read(&marks, None)?)?.or(padding);
    }
    let length: Option<f64> = fields.take_optional("model_max_length")?;
    if let Some(length) = length.filter(|length| length.fract() != 0.0 || *length < 0.0) {
        return Err(fields.error("model_max_length", length, "a whole number"));
    }
    // a number beyond all bounds stands for none
    let length = length.filter(|&length| length <= f64::from(u32::MAX));
    Ok((padding, length.map(|length| length as usize)))
}

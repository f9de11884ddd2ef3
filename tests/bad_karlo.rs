//! Configurations in diffusers' layout that cannot be used, and parts that do not belong together:
//! every one is refused with the file, the field, what was found and what was expected.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::{Value, json};
use unclip::{Bundle, Error, Residency, UnClip};

use crate::karlo_write::{KANDINSKY_2_1, Karlo};
use crate::support::{in_time, refused};

/// Opens a model and reads all its weights.
pub(crate) fn load(model: &Path) -> Result<UnClip, Error> {
    UnClip::new(Bundle::open(model)?, &Device::flex(), Residency::Resident)
}

/// Where Kandinsky's folders lie, from Karlo's.
const KANDINSKY: &str = "../kandinsky/model";

/// And Stable unCLIP's.
const STABLE: &str = "../stable/model";

/// Every file of configuration of which all fields are read, and the fields that say nothing about
/// the network.
fn configs() -> Vec<(&'static str, &'static str, Vec<&'static str>)> {
    let clip = "architectures attention_dropout bos_token_id dropout initializer_factor \
                initializer_range model_type pad_token_id torch_dtype dtype transformers_version";
    let text = "architectures attention_dropout bos_token_id dropout initializer_factor \
                initializer_range model_type pad_token_id torch_dtype dtype transformers_version \
                projection_dim";
    let multilingual = "architectures attention_probs_dropout_prob bos_token_id classifier_dropout \
                        hidden_dropout_prob initializer_range model_type output_past torch_dtype \
                        dtype transformers_version tie_word_embeddings use_cache";
    let unet = "downsample_padding upcast_attention addition_embed_type_num_heads dropout";
    let thresholding = "dynamic_thresholding_ratio sample_max_value";
    let files = [
        ("tiny", "model_index.json", ""),
        ("tiny", "text_encoder/config.json", clip),
        ("tiny", "prior/config.json", "dropout"),
        ("tiny", "prior_scheduler/scheduler_config.json", ""),
        ("tiny", "text_proj/config.json", ""),
        ("tiny", "decoder/config.json", unet),
        ("tiny", "decoder_scheduler/scheduler_config.json", ""),
        ("tiny", "super_res_first/config.json", unet),
        ("tiny", "super_res_last/config.json", unet),
        ("tiny", "super_res_scheduler/scheduler_config.json", ""),
        ("variation", "image_encoder/config.json", clip),
        ("variation", "feature_extractor/preprocessor_config.json", "image_processor_type"),
        (KANDINSKY, "decoder/model_index.json", ""),
        (KANDINSKY, "decoder/unet/config.json", unet),
        (KANDINSKY, "decoder/scheduler/scheduler_config.json", thresholding),
        (KANDINSKY, "decoder/movq/config.json", "force_upcast"),
        (KANDINSKY, "prior/model_index.json", ""),
        (KANDINSKY, "prior/text_encoder/config.json", clip),
        (KANDINSKY, "prior/image_encoder/config.json", clip),
        (KANDINSKY, "prior/image_processor/preprocessor_config.json", "image_processor_type"),
        (KANDINSKY, "prior/prior/config.json", "dropout"),
        (KANDINSKY, "prior/scheduler/scheduler_config.json", ""),
        (KANDINSKY_2_1, "decoder/model_index.json", ""),
        (KANDINSKY_2_1, "decoder/unet/config.json", unet),
        (KANDINSKY_2_1, "decoder/scheduler/scheduler_config.json", thresholding),
        (KANDINSKY_2_1, "decoder/text_encoder/config.json", multilingual),
        (KANDINSKY_2_1, "prior/model_index.json", ""),
        (STABLE, "model_index.json", ""),
        (STABLE, "text_encoder/config.json", text),
        (STABLE, "prior_text_encoder/config.json", clip),
        (STABLE, "image_encoder/config.json", clip),
        (STABLE, "image_normalizer/config.json", ""),
        (STABLE, "image_noising_scheduler/scheduler_config.json", thresholding),
        (STABLE, "prior/config.json", "dropout"),
        (STABLE, "prior_scheduler/scheduler_config.json", thresholding),
        (STABLE, "unet/config.json", unet),
        (STABLE, "scheduler/scheduler_config.json", ""),
        (STABLE, "vae/config.json", "force_upcast"),
    ];
    files.map(|(folder, file, free)| (folder, file, free.split_whitespace().collect())).into()
}

// configurations

#[test]
fn no_field_is_ignored_that_says_something() {
    for (folder, file, free) in configs() {
        let model = Karlo::new(folder);
        let good = fs::read(model.path(file)).unwrap();
        let fields: Value = serde_json::from_slice(&good).unwrap();
        for name in fields.as_object().unwrap().keys().filter(|name| !name.starts_with('_')) {
            model.edit(file, |json| json[name] = json!({ "surprise": [1] }));
            if free.contains(&name.as_str()) {
                drop(model.open().unwrap())
            } else {
                refused(model.open(), &[file, name, "surprise", "expected"])
            }
            fs::write(model.path(file), &good).unwrap();
        }
    }
}

#[test]
fn unknown_fields_and_classes_are_named() {
    for (folder, file, _) in configs() {
        let model = Karlo::new(folder);
        let good = fs::read(model.path(file)).unwrap();
        model.edit(file, |json| json["n_hedas"] = json!(4));
        refused(model.open(), &[file, "n_hedas is 4, expected no such field"]);
        fs::write(model.path(file), &good).unwrap();
        let class = serde_json::from_slice::<Value>(&good).unwrap()["_class_name"].clone();
        // of two folders, each is found by its index
        let is_found_by_it = [KANDINSKY, KANDINSKY_2_1, STABLE].contains(&folder)
            && file.ends_with("model_index.json");
        for other in [json!("StableDiffusionPipeline"), json!(7), Value::Null] {
            if is_found_by_it {
                continue;
            }
            model.edit(file, |json| json["_class_name"] = other.clone());
            match class.as_str() {
                Some(class) => refused(model.open(), &[file, "_class_name is", "expected", class]),
                None => drop(model.open().unwrap()), // transformers writes none
            }
        }
    }
}

#[test]
fn absent_fields_are_named_unless_their_default_is_known() {
    // absent, these mean something else than what is built
    let decided = ["add_attention", "class_embed_type", "mid_block_type"];
    let mut found = Vec::new();
    for (folder, file, _) in configs() {
        let model = Karlo::new(folder);
        let good = fs::read(model.path(file)).unwrap();
        let fields: Value = serde_json::from_slice(&good).unwrap();
        for name in fields.as_object().unwrap().keys().filter(|name| !name.starts_with('_')) {
            model.edit(file, |json| drop(json.as_object_mut().unwrap().remove(name)));
            let result = model.open();
            let absent = matches!(&result, Err(e) if e.to_string().contains("is absent"));
            if absent {
                refused(result, &[file, name, "expected"]);
                found.push(name.clone());
            }
            fs::write(model.path(file), &good).unwrap();
        }
    }
    assert!(decided.iter().all(|name| found.iter().any(|found| found == name)), "{found:?}");
}

#[test]
fn fields_that_contradict_are_named_as_their_file_has_them() {
    let decoder = "decoder/config.json";
    let sr = "super_res_first/config.json";
    let plain = json!(["ResnetDownsampleBlock2D"]);
    let cases = [
        (decoder, "sample_size", json!(9), ": sample_size is 9, expected a multiple of"),
        (
            decoder,
            "norm_num_groups",
            json!(3),
            "expected a multiple of norm_num_groups, which is 3",
        ),
        (decoder, "attention_head_dim", json!(3), "a multiple of attention_head_dim, which is 3"),
        (decoder, "layers_per_block", json!(0), ": layers_per_block is 0, expected 1 to"),
        (decoder, "cross_attention_dim", json!(0), ": cross_attention_dim is 0, expected 1 to"),
        (decoder, "cross_attention_dim", json!(20), "is 12, expected 20, as in the decoder"),
        (decoder, "out_channels", json!(3), ": out_channels is 3, expected 6"),
        (decoder, "in_channels", json!(4), ": in_channels is 4, expected 3"),
        (decoder, "down_block_types", plain, "expected 3 times ResnetDownsampleBlock2D or Simple"),
        (decoder, "block_out_channels", json!([4, 8]), "down_block_types is [\"Resnet"),
        (decoder, "act_fn", json!("gelu"), "act_fn is \"gelu\", expected \"silu\""),
        (decoder, "norm_eps", json!(0.0), ": norm_eps is 0, expected"),
        ("text_proj/config.json", "time_embed_dim", json!(20), "is 20, expected 16, as in the"),
        ("text_proj/config.json", "clip_extra_context_tokens", json!(0), "is 0, expected 1 to"),
        (sr, "sample_size", json!(48), "sample_size is 32, expected 48, as in super_res_first"),
        (sr, "norm_eps", json!(1e-4), "is 0.00001, expected 0.0001, as in super_res_first"),
        (sr, "add_attention", json!(true), "add_attention is true, expected false"),
        (
            "text_encoder/config.json",
            "num_attention_heads",
            json!(3),
            ": hidden_size is 16, expected",
        ),
        ("text_encoder/config.json", "hidden_act", json!("relu"), "\"quick_gelu\" or \"gelu\""),
        ("text_encoder/config.json", "max_position_embeddings", json!(2), "at least 3: two marks"),
        ("prior/config.json", "num_layers", json!(0), ": num_layers is 0, expected 1 to 1024"),
        ("prior/config.json", "num_attention_heads", json!(1u64 << 40), "* attention_head_dim is"),
        ("prior/config.json", "added_emb_type", json!("none"), "added_emb_type is \"none\", expe"),
        ("prior_scheduler/scheduler_config.json", "clip_sample_range", json!(-1.0), "range is -1"),
        ("prior_scheduler/scheduler_config.json", "variance_type", json!("learned_range"), "no va"),
        (
            "prior_scheduler/scheduler_config.json",
            "num_train_timesteps",
            json!(1),
            ": num_train_timesteps is 1",
        ),
        ("prior_scheduler/scheduler_config.json", "prediction_type", json!("v"), "or \"sample\""),
        ("model_index.json", "prior_scheduler", json!(["diffusers", "DDIMScheduler"]), "UnCLIPSc"),
        ("model_index.json", "prior", json!("PriorTransformer"), "expected another type"),
    ];
    let model = Karlo::new("tiny");
    for (file, field, value, words) in cases {
        let good = fs::read(model.path(file)).unwrap();
        model.edit(file, |json| json[field] = value);
        // the one that is named is the one that is read later
        let told = if words.contains("as in") { "config.json" } else { file };
        refused(model.open(), &[told, words]);
        fs::write(model.path(file), good).unwrap();
    }
}

#[test]
fn more_layers_than_tensors_are_refused_before_they_are_built() {
    for (name, stage, field) in [
        ("tiny", "text_encoder", "num_hidden_layers"),
        ("variation", "image_encoder", "num_hidden_layers"),
        ("tiny", "prior", "num_layers"),
        ("tiny", "decoder", "layers_per_block"),
    ] {
        let model = Karlo::new(name);
        let file = format!("{stage}/config.json");
        model.edit(&file, |json| json[field] = json!(1024));
        let told = format!("{file}: {field} is 1024, expected at most one layer for each of the");
        refused(model.open(), &[&told]);
    }
}

#[test]
fn more_levels_than_bits_are_refused() {
    let model = Karlo::new("tiny");
    model.edit("decoder/config.json", |json| {
        json["block_out_channels"] = json!(vec![4; 70]);
        json["down_block_types"] = json!(vec!["SimpleCrossAttnDownBlock2D"; 70]);
        json["up_block_types"] = json!(vec!["SimpleCrossAttnUpBlock2D"; 70]);
    });
    refused(model.open(), &["decoder/config.json", "a list of 70, expected 1 to 12 levels"]);
}

#[test]
fn configurations_that_are_no_objects_are_refused() {
    let texts = ["", "null", "[]", "{", &"[".repeat(100_000), &"{\"a\":".repeat(99_999)];
    for file in ["model_index.json", "decoder/config.json", "tokenizer/tokenizer_config.json"] {
        let model = Arc::new(Karlo::new("tiny"));
        for text in texts {
            fs::write(model.path(file), text).unwrap();
            let model = model.clone();
            refused(in_time(move || model.open()), &[file, "line"]);
        }
        fs::write(model.path(file), vec![b' '; (1 << 20) + 1]).unwrap();
        refused(model.open(), &[file, "1048577 bytes long, expected at most 1048576"]);
    }
}

// what does not belong together

#[test]
fn parts_of_different_models_are_told_apart() {
    let cases = [
        // another end mark than the tokenizer's
        ("text_encoder/config.json", "eos_token_id", json!(7), "eos_token_id is 7 in one and 553"),
        ("text_encoder/config.json", "vocab_size", json!(553), "vocab_size is 553 in one and 554"),
        (
            "text_encoder/config.json",
            "projection_dim",
            json!(20),
            "d_embedding is 20 in one and 16",
        ),
        ("text_proj/config.json", "clip_embeddings_dim", json!(20), "d_embedding is 16 in one and"),
        ("prior/config.json", "embedding_dim", json!(20), "d_embedding is 16 in one and 20"),
        ("prior/config.json", "num_embeddings", json!(12), "context_length is 10 in one and 12"),
        (
            "tokenizer/tokenizer_config.json",
            "model_max_length",
            json!(12),
            "context_length is 10 in",
        ),
    ];
    let model = Karlo::new("tiny");
    for (file, field, value, words) in cases {
        let good = fs::read(model.path(file)).unwrap();
        model.edit(file, |json| json[field] = value);
        refused(model.open(), &[words, "do not belong together"]);
        fs::write(model.path(file), good).unwrap();
    }
    let tokenizer = "tokenizer/tokenizer_config.json";
    for (length, found) in [(json!(-1), "-1"), (json!(10.5), "10.5")] {
        model.edit(tokenizer, |json| json["model_max_length"] = length);
        refused(model.open(), &[tokenizer, &format!("is {found}, expected a whole number")]);
    }
    model.edit(tokenizer, |json| json["model_max_length"] = json!(1e30));
    model.open().unwrap();
    model.edit(tokenizer, |json| json["pad_token"] = json!("<pad>"));
    refused(model.open(), &["tokenizer_config.json", "pad_token is <pad>, expected \"!\" or"]);
}

#[test]
fn super_resolution_of_another_size_is_refused() {
    for (side, found) in [(8, "sample_size is 8"), (20, "sample_size is 20"), (256, "is 256")] {
        let model = Karlo::new("tiny");
        for name in ["super_res_first", "super_res_last"] {
            model.edit(&format!("{name}/config.json"), |json| json["sample_size"] = json!(side));
        }
        let expected = "expected 2 to 16 times the decoder's, which is 8";
        refused(model.open(), &["super_res_first/config.json", found, expected]);
    }
}

#[test]
fn a_stage_in_the_place_of_another_is_told() {
    let model = Karlo::new("tiny");
    fs::copy(model.path("prior/config.json"), model.path("decoder/config.json")).unwrap();
    let words = ["decoder/config.json", "_class_name is PriorTransformer, expected UNet2DCond"];
    refused(model.open(), &words);
    let model = Karlo::new("tiny");
    let name = "diffusion_pytorch_model.safetensors";
    for (from, to, key) in [
        ("super_res_last", "decoder", " missing: down_blocks.1.attentions.0.group_norm.weight"),
        ("prior", "super_res_last", "not expected: "),
        ("decoder", "text_proj", "missing: learned_classifier_free_guidance_embeddings"),
    ] {
        let model = Karlo::new("tiny");
        fs::copy(model.path(&format!("{from}/{name}")), model.path(&format!("{to}/{name}")))
            .unwrap();
        refused(load(&model.path("")), &[&format!("{to}/{name}"), key, "another stage"]);
    }
    fs::remove_file(model.path("model_index.json")).unwrap();
    refused(model.open(), &["model_index.json", "No such file"]);
}

//! Folders as today's tools and yesterday's write them: what means nothing for the result is
//! accepted, what changes it is refused.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};
use unclip::{Bundle, Precision};

use crate::karlo_write::Karlo;
use crate::support::{Model, refused};

const CAPTIONS: [&str; 4] = ["", "in the thin tin!", "A  the\tIN", "<|endoftext|> in 'll 42 é"];

/// The tokens of a folder's tokenizer.
fn tokens(model: &Karlo) -> Vec<Vec<u32>> {
    let bundle = model.open().unwrap();
    let tokens = bundle.text().unwrap().tokenizer.encode(&CAPTIONS);
    (0..CAPTIONS.len()).map(|row| tokens.ids(row).to_vec()).collect()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn tokenizers_of_old_and_new_writers_are_the_same() {
    let model = Karlo::new("variation");
    let expected = tokens(&model);
    for writer in ["transformers_4", "transformers_5"] {
        copy(&Path::new("tests/fixtures/writers").join(writer), &model.path("tokenizer"));
        assert_eq!(tokens(&model), expected, "{writer}");
    }
    // what has one file is written with both
    let (bundle, out) = (model.open().unwrap(), model.beside("out"));
    bundle.save("diffusers", &out, Precision::F32, &Device::flex()).unwrap();
    assert!(out.join("tokenizer/merges.txt").exists());
    assert_eq!(
        Bundle::open(&out).unwrap().text().unwrap().tokenizer.encode(&CAPTIONS).ids(1),
        expected[1]
    );
}

#[test]
fn another_tokenizer_in_one_file_is_refused() {
    let model = Karlo::new("variation");
    copy(Path::new("tests/fixtures/writers/transformers_5"), &model.path("tokenizer"));
    let good = fs::read(model.path("tokenizer/tokenizer.json")).unwrap();
    let changes: [(&str, Value, &[&str]); 7] = [
        ("/model/type", json!("WordPiece"), &["model.type", "WordPiece", "BPE"]),
        ("/model/end_of_word_suffix", json!(""), &["end_of_word_suffix", "</w>"]),
        ("/model/dropout", json!(0.1), &["dropout is 0.1"]),
        ("/normalizer", json!(null), &["normalizer is []", "Lowercase"]),
        ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("\\w+"), &["pattern is \"\\\\w+\""]),
        ("/added_tokens/0/content", json!("<cat>"), &["added token \"<cat>\" with the id 0"]),
        (
            "/model/merges/0",
            json!(["qq", "zz"]),
            &["tokenizer.json", "\"qq\" is not in the vocabulary"],
        ),
    ];
    for (place, value, words) in changes {
        let mut json: Value = serde_json::from_slice(&good).unwrap();
        *json.pointer_mut(place).unwrap() = value;
        fs::write(model.path("tokenizer/tokenizer.json"), json.to_string()).unwrap();
        refused(model.open(), words);
    }
}

#[test]
fn fields_that_ask_for_nothing_are_accepted() {
    let accepted: [(&str, Value); 4] = [
        (
            "feature_extractor/preprocessor_config.json",
            json!({ "data_format": "channels_first", "device": null, "disable_grouping": null,
                "input_data_format": null, "pad_size": null, "return_tensors": null, "do_pad": null,
                "default_to_square": false, "use_square_size": null,
                "image_processor_type": "CLIPImageProcessorFast" }),
        ),
        ("model_index.json", json!({ "safety_checker": [null, null], "anything": null })),
        (
            "text_encoder/config.json",
            json!({ "tie_word_embeddings": false, "problem_type": null, "num_labels": 2,
                "chunk_size_feed_forward": 0, "output_hidden_states": true, "pruned_heads": {},
                "id2label": { "0": "LABEL_0" }, "is_decoder": false, "whatever": null }),
        ),
        ("image_encoder/config.json", json!({ "use_cache": true, "output_attentions": true })),
    ];
    for (file, fields) in accepted {
        let model = Karlo::new("variation");
        model.edit(file, |json| {
            json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        });
        drop(model.open().unwrap());
    }
    for (file, field, value) in [
        ("feature_extractor/preprocessor_config.json", "do_pad", json!(true)),
        ("feature_extractor/preprocessor_config.json", "do_resize", json!(null)),
        ("text_encoder/config.json", "is_decoder", json!(true)),
        ("text_encoder/config.json", "pruned_heads", json!({ "0": [1] })),
        ("text_encoder/config.json", "whatever", json!(false)),
        ("model_index.json", "safety_checker", json!(["a", "B"])),
        ("model_index.json", "anything", json!([])),
    ] {
        let model = Karlo::new("variation");
        model.edit(file, |json| json[field] = value);
        refused(model.open(), &[file, field]);
    }
}

#[test]
fn what_often_lies_in_the_place_of_a_text_is_named() {
    let kinds: [(&[u8], &[&str]); 2] = [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", &["git lfs pull"]),
        (b"<!DOCTYPE html><html>", &["HTML", "download the file itself"]),
    ];
    let (karlo, own) = (Karlo::new("tiny"), Model::new());
    for (bytes, words) in kinds {
        for name in ["model_index.json", "tokenizer/vocab.json", "tokenizer/merges.txt"] {
            let before = fs::read(karlo.path(name)).unwrap();
            fs::write(karlo.path(name), bytes).unwrap();
            refused(karlo.open(), &[&[name], words].concat());
            fs::write(karlo.path(name), before).unwrap();
        }
        fs::write(own.path("decoder/config.json"), bytes).unwrap();
        refused(own.open(), &[&["decoder/config.json"], words].concat());
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_file() {
    let mark = |path: &Path| {
        let bytes = fs::read(path).unwrap();
        fs::write(path, [b"\xef\xbb\xbf", bytes.as_slice()].concat()).unwrap();
    };
    let model = Karlo::new("tiny");
    let files =
        ["model_index.json", "prior/config.json", "decoder_scheduler/scheduler_config.json"];
    let files = files.iter().chain(&["tokenizer/vocab.json", "tokenizer/merges.txt"]);
    files.for_each(|file| mark(&model.path(file)));
    drop(model.open().unwrap());
    let model = Model::new();
    mark(&model.path("decoder/config.json"));
    drop(model.open().unwrap());
}

#[test]
fn the_only_variant_of_weights_is_read() {
    let model = Karlo::new("tiny");
    let rename = |stage: &str, from: &str, to: &str| {
        let path = |name: &str| model.path(&format!("{stage}/{name}"));
        fs::rename(path(from), path(to)).unwrap();
    };
    let fingerprint = |model: &Karlo| {
        let bundle = model.open().unwrap();
        bundle.decoder.fingerprint().unwrap().to_string()
    };
    let expected = fingerprint(&model);
    let (network, fp16) = ("diffusion_pytorch_model.safetensors", "fp16.safetensors");
    let variant = format!("diffusion_pytorch_model.{fp16}");
    rename("text_encoder", "model.safetensors", &format!("model.{fp16}"));
    for stage in ["prior", "text_proj", "decoder", "super_res_first", "super_res_last"] {
        rename(stage, network, &variant);
    }
    assert_eq!(fingerprint(&model), expected);
    // in shards
    let shard = "diffusion_pytorch_model.fp16-00001-of-00001.safetensors";
    rename("decoder", &variant, shard);
    let weights =
        unclip::unclip_nn::checkpoint::Weights::open(&model.path(&format!("decoder/{shard}")));
    let map: serde_json::Map<String, Value> =
        weights.unwrap().keys().into_iter().map(|key| (key, json!(shard))).collect();
    let index = "decoder/diffusion_pytorch_model.safetensors.index.fp16.json";
    fs::write(model.path(index), json!({ "weight_map": map }).to_string()).unwrap();
    assert_eq!(fingerprint(&model), expected);
    // several
    fs::copy(
        model.path(&format!("prior/{variant}")),
        model.path("prior/diffusion_pytorch_model.ema.safetensors"),
    )
    .unwrap();
    refused(
        model.open(),
        &["several variants", "ema.safetensors", "fp16.safetensors", "leave only one"],
    );
}

#[cfg(unix)]
#[test]
fn a_folder_that_a_hub_client_made_is_opened() {
    use std::os::unix::fs::symlink;

    let (model, root) = (Model::new(), tempfile::tempdir().unwrap());
    let hub = root.path().join("models--somebody--shapes");
    let snapshot = hub.join("snapshots/0123abcd");
    fs::create_dir_all(snapshot.join("decoder")).unwrap();
    fs::create_dir_all(hub.join("blobs")).unwrap();
    fs::create_dir_all(hub.join("refs")).unwrap();
    for entry in fs::read_dir(model.path("")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "decoder" {
            symlink(entry.path(), snapshot.join(entry.file_name())).unwrap();
        }
    }
    for file in ["config.json", "model.safetensors"] {
        fs::copy(model.path(&format!("decoder/{file}")), hub.join("blobs").join(file)).unwrap();
        symlink(format!("../../../blobs/{file}"), snapshot.join("decoder").join(file)).unwrap();
    }
    for folder in [&hub, &snapshot] {
        assert_eq!(Bundle::open(folder).unwrap().name(), "somebody/shapes");
    }
    fs::create_dir(hub.join("snapshots/ffff")).unwrap();
    refused(Bundle::open(&hub), &["revisions in", "snapshots is 2", "name its folder"]);
    fs::write(hub.join("refs/main"), "0123abcd\n").unwrap();
    drop(Bundle::open(&hub).unwrap());
    fs::remove_file(hub.join("blobs/model.safetensors")).unwrap();
    refused(
        Bundle::open(&hub),
        &["decoder/model.safetensors", "a link to", "blobs/model.safetensors", "not there"],
    );
}

#[test]
fn upsamplers_have_no_gap_and_an_end() {
    let model = Model::new();
    let rename = |from: &str, to: &str| fs::rename(model.path(from), model.path(to)).unwrap();
    rename("upsampler.1", "upsampler.8");
    refused(model.open(), &["has no upsampler.1"]);
    rename("upsampler.8", "upsampler.1");
    rename("upsampler.0", "upsampler.2");
    refused(model.open(), &["has no upsampler.0"]);
}

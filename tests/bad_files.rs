//! Checkpoints, configurations, tokenizer files and folders that cannot be used: every one is
//! refused with the file, what was found and what was expected; none panics, hangs, or is half
//! written.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};
use unclip::clip::{TextEncoderConfig, Tokenizer, TokenizerOptions};
use unclip::prior::DiffusionPriorConfig;
use unclip::unclip_core::{BetaSchedule, NoiseSchedule};
use unclip::unclip_nn::checkpoint::{SaveFormat, StageFiles, Weights, save_stage, write_whole};
use unclip::upsample::UpsamplerConfig;
use unclip::{Bundle, Error, GenerateOptions, StageOptions};

use crate::support::{
    Model, Numbers, RawTensor, SPACE, STAGES, files, in_time, names, prior, refused, safetensors,
    tensors_file, text_encoder,
};

/// Puts these bytes where a stage's weights should be, and opens the model.
fn open_with_weights(bytes: &[u8]) -> Result<Bundle, Error> {
    let model = Model::new();
    fs::write(model.path("prior/model.safetensors"), bytes).unwrap();
    model.open()
}

/// One tensor of two floats.
fn one_tensor() -> Vec<u8> {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    safetensors(header, &[0; 8])
}

// checkpoint: the file

#[test]
fn too_short_files_tell_their_length() {
    for len in [0, 1, 7] {
        let found = format!("{len} bytes long");
        let words = ["prior/model.safetensors", &found, "expected at least 8"];
        refused(open_with_weights(&vec![0; len]), &words);
    }
}

#[test]
fn impossible_header_lengths_are_refused_before_anything_is_allocated() {
    for len in [u64::MAX, u64::MAX - 7, 100_000_001, 55] {
        let mut file = one_tensor();
        file[..8].copy_from_slice(&len.to_le_bytes());
        let found = match len {
            55 => "header: ".into(), // reaches into the data
            _ => format!("header of {len} bytes, expected at most 62"),
        };
        refused(open_with_weights(&file), &["prior/model.safetensors", "damaged", &found]);
    }
    let mut file = one_tensor();
    file[..8].copy_from_slice(&0u64.to_le_bytes());
    refused(open_with_weights(&file), &["prior/model.safetensors", "header: "]);
}

#[test]
fn headers_that_are_no_maps_of_tensors_are_refused() {
    let nested = |bracket: &str| bracket.repeat(100_000);
    let headers = [
        "".to_string(),
        "hello".into(),
        "[]".into(),
        "null".into(),
        r#"{"a":1}"#.into(),
        r#"{"a":{}}"#.into(),
        r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#.into(),
        r#"{"a":{"dtype":"F31","shape":[2],"data_offsets":[0,8]}}"#.into(),
        nested("["),
        nested(r#"{"a":"#),
        format!(r#"{{"a":{}"#, nested("[")),
        format!(r#"{{"__metadata__":{}"#, nested("[")),
    ];
    for header in headers {
        let result = in_time(move || open_with_weights(&safetensors(&header, &[0; 8])));
        refused(result, &["prior/model.safetensors"]);
    }
    let mut latin = one_tensor();
    latin[10] = 0xff;
    refused(open_with_weights(&latin), &["prior/model.safetensors", "header: "]);
}

#[test]
fn a_file_truncated_at_any_byte_is_refused() {
    let whole = one_tensor();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, &whole).unwrap();
    assert_eq!(Weights::open(&path).unwrap().keys(), ["a"]);
    let file = fs::File::options().write(true).open(&path).unwrap();
    for len in (0..whole.len()).rev() {
        file.set_len(len as u64).unwrap();
        refused(Weights::open(&path), &["model.safetensors", "expected"]);
    }
}

#[test]
fn a_stage_truncated_anywhere_is_refused() {
    let weights = Vec::leak(Model::file("upsampler.0/model.safetensors").to_vec());
    let config = Model::file("upsampler.0/config.json");
    let open = |len: usize| {
        StageFiles::<UpsamplerConfig>::embedded("upsampler.0", config, &weights[..len])
    };
    open(weights.len()).unwrap();
    for len in (0..weights.len()).step_by(61).chain(weights.len() - 9..weights.len()) {
        refused(open(len), &["upsampler.0/model.safetensors", "expected"]);
    }
    for len in 0..config.trim_ascii().len() {
        let result =
            StageFiles::<UpsamplerConfig>::embedded("upsampler.0", &config[..len], weights);
        refused(result, &["upsampler.0/config.json", "line"]);
    }
}

#[test]
fn offsets_that_overlap_or_leave_gaps_are_refused() {
    let two = |a: &str, b: &str| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":{a}}},
                "b":{{"dtype":"F32","shape":[2],"data_offsets":{b}}}}}"#
        )
    };
    assert!(open_with_weights(&safetensors(&two("[0,8]", "[8,16]"), &[0; 16])).is_ok());
    let cases = [
        ("[0,8]", "[4,12]"),
        ("[0,8]", "[12,20]"),
        ("[4,12]", "[12,20]"),
        ("[8,0]", "[8,16]"),
        ("[0,8]", "[16,8]"),
        ("[0,8]", "[8,17]"),
        ("[0,8]", "[8,18446744073709551615]"),
        ("[0,8]", "[8,18446744073709551616]"),
        ("[0,8]", "[0,8]"),
    ];
    for (a, b) in cases {
        let file = safetensors(&two(a, b), &[0; 16]);
        refused(open_with_weights(&file), &["prior/model.safetensors", "header: "]);
    }
    let short = safetensors(&two("[0,8]", "[8,16]"), &[0; 15]);
    refused(open_with_weights(&short), &["15 bytes of data, expected 16"]);
    let long = safetensors(&two("[0,8]", "[8,16]"), &[0; 17]);
    refused(open_with_weights(&long), &["17 bytes of data, expected 16"]);
}

#[test]
fn shapes_that_overflow_or_do_not_fit_their_bytes_are_refused() {
    let shapes = [
        "[4294967296,4294967296]",
        "[9223372036854775807,2]",
        "[4611686018427387904]",
        "[3]",
        "[]",
        "[0]",
        "[2.0]",
    ];
    for shape in shapes {
        let header = format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,8]}}}}"#);
        refused(open_with_weights(&safetensors(&header, &[0; 8])), &["header: "]);
    }
}

#[test]
fn a_key_that_stands_there_twice_is_refused() {
    let tensor = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let header = format!(r#"{{"first.weight":{tensor},"first.weight":{tensor}}}"#);
    refused(open_with_weights(&safetensors(&header, &[0; 8])), &["first.weight", "twice"]);
}

#[test]
fn what_is_often_mistaken_for_weights_is_recognised() {
    let kinds: [(&[u8], &str, &str); 9] = [
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "pickle", "tools/convert_pickle.py"),
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.", "pickle", "tools/convert_pickle.py"),
        (b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl", "zip archive", "tools/convert_pickle.py"),
        (b"PK\x03\x04", "zip archive", "tools/convert_pickle.py"),
        (b"GGUF\x03\0\0\0\x10\0\0\0\0\0\0\0", "GGUF", "safetensors version"),
        (b"<!DOCTYPE html><html>", "HTML", "download the file itself"),
        (b"<html>{}</html>", "HTML", "download the file itself"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "git-LFS pointer",
            "git lfs pull",
        ),
        (b"{\"metadata\": {\"total_size\": 9}}", "shards", "one safetensors file"),
    ];
    for (bytes, kind, remedy) in kinds {
        refused(open_with_weights(bytes), &["prior/model.safetensors", kind, remedy]);
    }
}

#[test]
fn a_header_as_long_as_a_pickles_first_bytes_is_no_pickle() {
    let tensor = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    for len in [0x0280, 0x0380, 0x0480, 0x0580, 0x413c] {
        let file = Vec::leak(safetensors(&format!("{tensor:len$}"), &[0; 8]));
        assert_eq!(Weights::embedded("weights", file).unwrap().keys(), ["a"]);
        refused(Weights::embedded("weights", &file[..200]), &["header of", "expected at most"]);
    }
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_is_an_error() {
    let model = Model::new();
    let bundle = model.open().unwrap();
    let path = model.path("prior/model.safetensors");
    fs::File::options().write(true).open(path).unwrap().set_len(1000).unwrap();
    refused(bundle.prior.load(&Device::flex()), &["prior/model.safetensors"]);
}

#[test]
fn a_file_that_is_replaced_after_it_was_opened_does_no_harm() {
    let model = Model::new();
    let bundle = model.open().unwrap();
    write_whole(&model.path("prior/model.safetensors"), b"something else").unwrap();
    bundle.prior.load(&Device::flex()).unwrap();
}

// checkpoint: the tensors

#[test]
fn missing_tensors_are_listed() {
    let model = Model::new();
    model.edit_tensors("prior", |tensors| tensors.retain(|t| t.key != "proj_in.bias"));
    let words = ["prior/model.safetensors", "1 missing: proj_in.bias;", "another stage"];
    refused(model.load(), &words);
    model.edit_tensors("prior", |tensors| tensors.truncate(1));
    refused(model.load(), &["missing: ", " more;"]);
}

#[test]
fn tensors_too_many_are_listed() {
    let model = Model::new();
    model.edit_tensors("prior", |tensors| {
        tensors.extend((0..12).map(|i| RawTensor {
            key: format!("surprise.{i}"),
            dtype: "F32".into(),
            shape: vec![1],
            bytes: vec![0; 4],
        }));
    });
    refused(model.load(), &["12 not expected: surprise.0, ", "and 2 more"]);
}

#[test]
fn transposed_and_flattened_tensors_are_refused() {
    let key = "embedding_proj.weight";
    for (found, words) in [
        (vec![6, 8], "embedding_proj.weight (expected [8, 6], found [6, 8])"),
        (vec![48], "embedding_proj.weight (expected [8, 6], found [48])"),
        (vec![8, 6, 1], "embedding_proj.weight (expected [8, 6], found [8, 6, 1])"),
    ] {
        let model = Model::new();
        model.edit_tensors("prior", |tensors| {
            tensors.iter_mut().find(|t| t.key == key).unwrap().shape = found;
        });
        refused(model.load(), &["1 of another shape", words]);
    }
}

#[test]
fn number_formats_are_converted_or_refused() {
    let reformat = |dtype: &str, bytes: usize| {
        let model = Model::new();
        model.edit_tensors("prior", |tensors| {
            let tensor = tensors.iter_mut().find(|t| t.key == "proj_in.bias").unwrap();
            tensor.dtype = dtype.into();
            tensor.bytes = vec![0; 8 * bytes];
        });
        model.load()
    };
    for (dtype, bytes) in [("F32", 4), ("F16", 2), ("BF16", 2)] {
        reformat(dtype, bytes).unwrap();
    }
    for (dtype, bytes) in [("F64", 8), ("I64", 8), ("I32", 4), ("U8", 1), ("BOOL", 1)] {
        let found = format!("proj_in.bias ({dtype})");
        refused(reformat(dtype, bytes), &[&found, "other than F32, F16 and BF16"]);
    }
    refused(reformat("F8_E4M3", 1), &["proj_in.bias (F8_E4M3)"]);
}

#[test]
fn weights_that_are_not_finite_are_counted() {
    let bad: [(&str, [u8; 4]); 4] = [
        ("F32", f32::NAN.to_le_bytes()),
        ("F32", f32::NEG_INFINITY.to_le_bytes()),
        ("F16", [0x00, 0x7c, 0x00, 0x7e]),
        ("BF16", [0x80, 0x7f, 0xc0, 0x7f]),
    ];
    for (dtype, value) in bad {
        let model = Model::new();
        model.edit_tensors("prior", |tensors| {
            let tensor = tensors.iter_mut().find(|t| t.key == "proj_in.bias").unwrap();
            tensor.dtype = dtype.into();
            tensor.bytes.truncate(if dtype == "F32" { 32 } else { 16 });
            tensor.bytes[4..8].copy_from_slice(&value);
        });
        let count = if dtype == "F32" { "1 values" } else { "2 values" };
        refused(model.load(), &["prior/model.safetensors", "proj_in.bias", count, "NaN"]);
    }
}

// checkpoint: what is not a file

#[test]
fn missing_files_and_folders_are_named() {
    let model = Model::new();
    refused(Bundle::open(&model.path("nowhere")), &["nowhere", "No such file"]);
    refused(Bundle::open(Path::new("")), &["No such file"]);
    refused(Bundle::open(&model.path("prior/config.json")), &["prior/config.json"]);
    for file in ["prior/config.json", "decoder/model.safetensors", "tokenizer/vocab.json"] {
        let model = Model::new();
        fs::remove_file(model.path(file)).unwrap();
        refused(model.open(), &[file, "No such file"]);
    }
    let model = Model::new();
    fs::remove_dir_all(model.path("tokenizer")).unwrap();
    refused(model.open(), &["tokenizer/vocab.json"]);
}

#[test]
fn missing_stages_are_named() {
    for stage in ["text_encoder", "prior", "decoder"] {
        let model = Model::new();
        fs::remove_dir_all(model.path(stage)).unwrap();
        let (has_no, expected) = (format!("has no {stage}"), format!("a folder `{stage}`"));
        refused(model.open(), &[model.path("").to_str().unwrap(), &has_no, &expected]);
    }
    let model = Model::new();
    fs::remove_dir_all(model.path("upsampler.0")).unwrap();
    refused(model.open(), &["has no upsampler.0"]);
    fs::remove_dir_all(model.path("upsampler.1")).unwrap();
    assert_eq!(model.open().unwrap().image_size(), 8);
}

#[test]
fn folders_in_the_place_of_files_are_refused() {
    for file in ["prior/config.json", "prior/model.safetensors", "tokenizer/merges.txt"] {
        let model = Model::new();
        fs::remove_file(model.path(file)).unwrap();
        fs::create_dir(model.path(file)).unwrap();
        refused(model.open(), &[file, "this is a folder, expected a regular file"]);
    }
}

#[cfg(unix)]
#[test]
fn pipes_devices_and_loops_are_refused_without_being_read() {
    use std::os::unix::fs::symlink;
    for file in ["prior/config.json", "prior/model.safetensors", "tokenizer/vocab.json"] {
        let model = Model::new();
        fs::remove_file(model.path(file)).unwrap();
        crate::support::make_pipe(&model.path(file));
        refused(in_time(move || model.open()), &[file, "a pipe", "expected a regular file"]);

        let model = Model::new();
        fs::remove_file(model.path(file)).unwrap();
        symlink("/dev/zero", model.path(file)).unwrap();
        refused(in_time(move || model.open()), &[file, "a device", "expected a regular file"]);

        let model = Model::new();
        fs::remove_file(model.path(file)).unwrap();
        symlink(model.path(file), model.path(file)).unwrap();
        refused(in_time(move || model.open()), &[file, "symbolic links"]);
    }
    for stage in ["decoder", "image_encoder", "upsampler.1"] {
        let model = Model::new();
        fs::remove_dir_all(model.path(stage)).unwrap();
        symlink(model.path(stage), model.path(stage)).unwrap();
        refused(model.open(), &[stage, "symbolic links"]);
    }
}

#[cfg(unix)]
#[test]
fn unreadable_files_are_named() {
    use std::os::unix::fs::PermissionsExt;
    let model = Model::new();
    let path = model.path("prior/model.safetensors");
    fs::set_permissions(&path, fs::Permissions::from_mode(0)).unwrap();
    // the administrator may read everything
    if fs::File::open(&path).is_err() {
        refused(model.open(), &["prior/model.safetensors", "denied"]);
    }
}

// what does not belong together

#[test]
fn another_stage_or_version_is_told() {
    let model = Model::new();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(model.path("prior").join(name), model.path("decoder").join(name)).unwrap();
    }
    refused(model.open(), &["decoder/config.json", "stage is prior, expected decoder"]);

    let model = Model::new();
    model.edit_config("prior", |json| {
        json["format_version"] = json!(2);
        json["a_field_of_the_future"] = json!(true);
    });
    refused(model.open(), &["prior/config.json", "format_version is 2, expected 1"]);
}

#[test]
fn stages_of_different_models_are_told_apart() {
    for stage in ["image_encoder", "prior", "decoder"] {
        let model = Model::new();
        model.edit_config(stage, |json| json["embedding_space"] = json!("another"));
        let words = ["text_encoder", stage, "embedding_space is tiny", "another", "one model"];
        refused(model.open(), &words);
    }
    let widths = [
        ("prior", "d_embedding"),
        ("prior", "d_text"),
        ("prior", "context_length"),
        ("decoder", "d_embedding"),
        ("decoder", "d_text"),
        ("image_encoder", "d_embedding"),
        ("text_encoder", "vocab_size"),
    ];
    for (stage, field) in widths {
        let model = Model::new();
        model.edit_config(stage, |json| json["config"][field] = json!(7));
        refused(model.open(), &[stage, field, "7 in ", "do not belong together"]);
    }
    let model = Model::new();
    model.edit_config("prior", |json| json["config"]["transformer"]["d_hidden"] = json!(16));
    refused(model.load(), &["prior/model.safetensors", "expected [16, 8], found [12, 8]"]);
}

#[test]
fn upsamplers_that_cannot_take_the_decoders_size_are_told() {
    let model = Model::new();
    model.edit_config("decoder", |json| json["config"]["unet"]["image_size"] = json!(6));
    model.edit_config("decoder", |json| {
        json["config"]["unet"]["attention_resolutions"] = json!([3]);
    });
    model.edit_config("upsampler.0", |json| {
        json["config"]["unet"]["channel_mult"] = json!([1, 1, 1, 1]);
    });
    refused(model.open(), &["upsampler.0", "a picture side of 12", "a multiple of 8"]);
    let model = Model::new();
    model.edit_config("decoder", |json| {
        json["config"]["unet"]["image_size"] = json!(1 << 20);
        json["config"]["unet"]["attention_resolutions"] = json!([1 << 19]);
    });
    refused(model.open(), &["side of this model's pictures is 4194304, expected at most 8192"]);
}

// configurations

/// Where the whole numbers of a configuration are, as JSON pointers.
fn numbers(json: &Value, at: &str, found: &mut Vec<String>) {
    match json {
        Value::Object(fields) => {
            fields.iter().for_each(|(name, value)| numbers(value, &format!("{at}/{name}"), found));
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            items.for_each(|(i, value)| numbers(value, &format!("{at}/{i}"), found));
        }
        Value::Number(number) if number.is_u64() => found.push(at.into()),
        _ => {}
    }
}

#[test]
fn every_size_of_every_stage_is_checked() {
    let model = Model::new();
    for stage in STAGES {
        let path = model.path(stage).join("config.json");
        let good = fs::read(&path).unwrap();
        let json: Value = serde_json::from_slice(&good).unwrap();
        let mut fields = Vec::new();
        numbers(&json["config"], "", &mut fields);
        assert!(fields.len() >= 6, "{stage}: {fields:?}");
        let bad = [
            json!(0),
            json!(-1),
            json!(8.5),
            json!(1_000_000_000),
            json!(u64::MAX),
            json!(1e300),
            json!("8"),
            json!(null),
            json!([8]),
            json!({ "size": 8 }),
            json!(true),
        ];
        for (field, value) in fields.iter().flat_map(|f| bad.iter().map(move |v| (f, v))) {
            model.edit_config(stage, |json| {
                *json["config"].pointer_mut(field).unwrap() = value.clone();
            });
            let result = model.open();
            assert!(result.is_err(), "{stage} accepts {field} = {value}");
            let message = result.unwrap_err().to_string();
            let says = |word: &str| message.contains(word);
            let place = says(&format!("{stage}/config.json")) && says("expected");
            // a value of the wrong type is told by its line, one out of range by its field
            let typed = value.is_u64() || says(" at line ") || says("d_context is absent");
            assert!(place && typed, "{stage}{field} = {value}: {message}");
            fs::write(&path, &good).unwrap();
        }
    }
}

#[test]
fn many_layers_are_refused_before_they_are_built() {
    let cases =
        [("prior", "/config/transformer/n_layers"), ("decoder", "/config/unet/num_res_blocks")];
    for (stage, field) in cases {
        let model = Model::new();
        let most = json!(1 << 20);
        model.edit_config(stage, |json| *json.pointer_mut(field).unwrap() = most);
        let name = field.rsplit('/').next().unwrap();
        refused(in_time(move || model.open()), &[name, "is 1048576, expected 1 to 1024"]);
    }
}

#[test]
fn the_largest_sizes_are_compared_with_the_file_before_memory_is_taken() {
    let cases = [
        ("prior", vec!["/config/transformer/d_model", "/config/transformer/d_hidden"]),
        ("decoder", vec!["/config/image_tokens", "/config/unet/d_context"]),
        ("text_encoder", vec!["/config/transformer/d_hidden"]),
    ];
    for (stage, fields) in cases {
        let model = Model::new();
        model.edit_config(stage, |json| {
            fields.iter().for_each(|field| *json.pointer_mut(field).unwrap() = json!(1 << 20));
        });
        let weights = format!("{stage}/model.safetensors");
        refused(in_time(move || model.load()), &[&weights, "of another shape", "1048576"]);
    }
}

#[test]
fn sizes_that_do_not_go_together_name_their_fields() {
    let cases = [
        (
            "prior",
            "/config/transformer/n_heads",
            json!(3),
            "d_model is 8, expected a multiple of n_heads",
        ),
        ("prior", "/config/diffusion/steps", json!(101), "steps is 101, expected 1 to 100"),
        (
            "prior",
            "/config/diffusion/variance",
            json!("learned_range"),
            "the prior gives no variance",
        ),
        ("decoder", "/config/unet/norm_groups", json!(3), "multiple of norm_groups, which is 3"),
        ("decoder", "/config/unet/d_head", json!(5), "multiple of d_head, which is 5"),
        ("decoder", "/config/unet/image_size", json!(9), "image_size is 9, expected a multiple"),
        (
            "decoder",
            "/config/unet/attention_resolutions",
            json!([5]),
            "sides of levels, which are [8, 4]",
        ),
        ("decoder", "/config/unet/channel_mult", json!([]), "1 to 12 levels"),
        (
            "decoder",
            "/config/unet/channel_mult",
            json!(vec![1; 64]),
            "a list of 64, expected 1 to 12",
        ),
        ("decoder", "/config/unet/in_channels", json!(4), "unet.in_channels is 4, expected 3"),
        ("decoder", "/config/unet/out_channels", json!(3), "unet.out_channels is 3, expected 6"),
        ("decoder", "/config/unet/d_context", json!(null), "unet.d_context is absent"),
        ("upsampler.0", "/config/factor", json!(1), "factor is 1, expected 2 to 16"),
        ("upsampler.0", "/config/factor", json!(17), "factor is 17, expected 2 to 16"),
        ("upsampler.0", "/config/unet/attention_resolutions", json!([16]), "fully convolutional"),
        ("image_encoder", "/config/patch_size", json!(3), "multiple of patch_size, which is 3"),
        ("image_encoder", "/config/std", json!([0.5, 0.0, 0.5]), "std above 0"),
        ("image_encoder", "/config/std", json!([0.5, 0.5]), "line"),
        (
            "text_encoder",
            "/config/context_length",
            json!(2),
            "context_length is 2, expected at least 3",
        ),
    ];
    for (stage, field, value, words) in cases {
        let model = Model::new();
        model.edit_config(stage, |json| *json.pointer_mut(field).unwrap() = value);
        refused(model.open(), &[&format!("{stage}/config.json"), words]);
    }
}

#[test]
fn diffusion_settings_are_checked() {
    let cases = [
        ("num_train_timesteps", json!(0), "2 to 100000"),
        ("num_train_timesteps", json!(1), "2 to 100000"),
        ("num_train_timesteps", json!(100_001), "2 to 100000"),
        ("guidance_scale", json!(-1.0), "a number from 0 to 1000"),
        ("guidance_scale", json!(1e30), "a number from 0 to 1000"),
        ("guidance_scale", json!("2"), "expected f64 at line"),
        ("guidance_scale", json!(null), "expected f64 at line"),
        ("clamp", json!(0.0), "clamp is 0, expected a number from"),
        ("clamp", json!(-1.0), "clamp is -1, expected a number from"),
        ("sampler", json!("euler"), "`ddpm` or `ddim` at line"),
        ("parameterization", json!("noise"), "expected one of"),
        ("beta_schedule", json!("cosine"), "expected `linear` or `squaredcos_cap_v2`"),
        ("beta_schedule", json!({ "linear": { "start": 0.1 } }), "missing field `end`"),
        ("beta_schedule", json!({ "linear": { "start": -0.1, "end": 0.2 } }), "beta of the first"),
        ("beta_schedule", json!({ "linear": { "start": 0.1, "end": 1.0 } }), "beta of the last"),
        ("beta_schedule", json!({ "linear": { "start": 0.2, "end": 0.1 } }), "beta of the last"),
        ("beta_schedule", json!({ "linear": { "start": 0.9, "end": 0.99 } }), "fewer steps"),
    ];
    for (field, value, words) in cases {
        let model = Model::new();
        model.edit_config("decoder", |json| json["config"]["diffusion"][field] = value);
        refused(model.open(), &["decoder/config.json", words]);
    }
}

#[test]
fn schedules_that_cannot_be_inverted_are_refused() {
    let linear = |start, end| BetaSchedule::Linear { start, end };
    for (start, end) in [
        (f64::NAN, 0.02),
        (1e-4, f64::NAN),
        (0.0, 0.02),
        (-1e-4, 0.02),
        (1e-4, 1.0),
        (1e-4, f64::INFINITY),
        (0.02, 1e-4),
    ] {
        refused(NoiseSchedule::new(linear(start, end), 1000), &["beta of the", "a number from"]);
    }
    for n in [0, 1, 100_001, usize::MAX] {
        for betas in [linear(1e-4, 0.02), BetaSchedule::SquaredCosine] {
            refused(NoiseSchedule::new(betas, n), &[&n.to_string(), "2 to 100000"]);
        }
    }
    let expected = ["signal that 100000 steps", "is 0e0", "at least 1e-30"];
    refused(NoiseSchedule::new(linear(1e-4, 0.02), 100_000), &expected);
    for n in [2, 1000, 100_000] {
        let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, n).unwrap();
        assert!(schedule.reverse_steps().all(|step| step.posterior_variance().is_finite()));
    }
}

#[test]
fn unknown_and_missing_fields_are_named_with_their_line() {
    for stage in STAGES {
        let model = Model::new();
        model.edit_config(stage, |json| json["config"]["n_heds"] = json!(4));
        refused(model.open(), &["config.json", "unknown field `n_heds`", "expected", "line"]);
        let model = Model::new();
        model.edit_config(stage, |json| json["author"] = json!("me"));
        refused(model.open(), &["config.json", "unknown field `author`", "line"]);
        let model = Model::new();
        model.edit_config(stage, |json| {
            json.as_object_mut().unwrap().remove("embedding_space").unwrap();
        });
        refused(model.open(), &["config.json", "missing field `embedding_space`", "line"]);
    }
}

#[test]
fn configurations_that_are_no_json_are_refused() {
    let nested = |bracket: &str| bracket.repeat(100_000);
    let inside = |value: &str| {
        format!(r#"{{"format_version":1,"stage":"prior","embedding_space":"","config":{value}}}"#)
    };
    let texts = [
        "".to_string(),
        " ".into(),
        "null".into(),
        "[]".into(),
        "\u{feff}{}".into(),
        nested("["),
        nested(r#"{"a":"#),
        inside(&nested("[")),
        inside(&format!(r#"{{"d_embedding":{}"#, nested("["))),
        inside(r#"{"d_embedding":6,"d_embedding":6}"#),
        inside(r#"{"d_embedding":NaN}"#),
        inside(r#"{"d_embedding":1e999}"#),
    ];
    for text in texts {
        let model = Model::new();
        fs::write(model.path("prior/config.json"), text).unwrap();
        refused(in_time(move || model.open()), &["prior/config.json", "line"]);
    }
    let model = Model::new();
    fs::write(model.path("prior/config.json"), b"{\"stage\": \"\xff\"}").unwrap();
    refused(model.open(), &["prior/config.json", "line 1"]);
    fs::write(model.path("prior/config.json"), vec![b' '; (1 << 20) + 1]).unwrap();
    refused(model.open(), &["prior/config.json", "1048577 bytes long, expected at most 1048576"]);
}

// tokenizer files

fn tokenizer(vocab: &[u8], merges: &[u8]) -> Result<Tokenizer, impl std::fmt::Display> {
    Tokenizer::from_bytes(Path::new("tokenizer"), vocab, merges, TokenizerOptions::default())
}

#[test]
fn vocabularies_that_cannot_be_used_are_refused() {
    let start_end = r#""<|startoftext|>":0,"<|endoftext|>":1"#;
    let cases = [
        ("".to_string(), "line 1"),
        ("[]".into(), "expected a map"),
        ("[".repeat(100_000), "expected a map"),
        ("{}".into(), "lacks one of the tokens <|startoftext|>, <|endoftext|> and !"),
        (format!("{{{start_end}}}"), "lacks one of the tokens"),
        (format!(r#"{{{start_end},"!":1}}"#), "has id 1, expected each id from 0 to 2 once"),
        (format!(r#"{{{start_end},"!":3}}"#), "\"!\" has id 3, expected each id from 0 to 2"),
        (format!(r#"{{{start_end},"!":-1}}"#), "expected u32 at line 1"),
        (format!(r#"{{{start_end},"!":2.0}}"#), "expected u32 at line 1"),
        (format!(r#"{{{start_end},"!":4294967296}}"#), "expected u32 at line 1"),
        (format!(r#"{{{start_end},"!":2,"!":3}}"#), "has id 3, expected each id from 0 to 2"),
    ];
    for (vocab, words) in cases {
        refused(tokenizer(vocab.as_bytes(), b""), &["tokenizer/vocab.json", words]);
    }
}

#[test]
fn merges_that_cannot_be_used_are_refused_with_their_line() {
    let vocab = Model::file("tokenizer/vocab.json");
    let cases: [(&[u8], &str); 5] = [
        (b"#version: 0.2\ni n\nzzz qqq\n", "line 3: token \"zzz\" is not in the vocabulary"),
        (b"in\n", "line 1: \"in\" is not two tokens with a space between them"),
        (b"i n g\n", "line 1: token \"n g\" is not in the vocabulary"),
        (b"i \n", "line 1: token \"\" is not in the vocabulary"),
        (b"i n\n\xff\xfe\n", "invalid utf-8"),
    ];
    for (merges, words) in cases {
        refused(tokenizer(vocab, merges), &["tokenizer/merges.txt", words]);
    }
    refused(tokenizer(vocab, &b"i n\n".repeat(1_000_001)), &["more than 1000000 merges"]);
}

#[test]
fn contexts_without_room_for_a_token_are_refused() {
    for context_length in [0, 1, 2] {
        let options = TokenizerOptions { context_length, ..TokenizerOptions::default() };
        let model = Model::new();
        let found = format!("context length {context_length}, expected at least 3");
        refused(Tokenizer::from_folder(&model.path("tokenizer"), options), &["tokenizer", &found]);
    }
}

#[test]
fn another_vocabulary_is_told() {
    let model = Model::new();
    let path = model.path("tokenizer/vocab.json");
    let mut vocab: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let len = vocab.as_object().unwrap().len();
    vocab["one more"] = json!(len);
    fs::write(&path, vocab.to_string()).unwrap();
    let (expected, found) = (len.to_string(), (len + 1).to_string());
    refused(model.open(), &["text_encoder and tokenizer", "vocab_size", &expected, &found]);
}

// everything at once

#[test]
fn random_damage_is_refused_or_harmless() {
    let device = Device::flex();
    let stages = |numbers: &mut Numbers| {
        let model = Model::new();
        let (name, bytes) = &files()[numbers.below(files().len())];
        let mut bytes = bytes.clone();
        damage(&mut bytes, numbers);
        fs::write(model.path(name), bytes).unwrap();
        (model, name)
    };
    let mut numbers = Numbers(2024);
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..300 {
        let (model, name) = stages(&mut numbers);
        let Ok(bundle) = model.open() else {
            refused += 1;
            continue;
        };
        let result = match name.split('/').next().unwrap() {
            "text_encoder" => bundle.text_encoder.load(&device).map(drop),
            "image_encoder" => bundle.image_encoder.unwrap().load(&device).map(drop),
            "prior" => bundle.prior.load(&device).map(drop),
            "decoder" => bundle.decoder.load(&device).map(drop),
            "tokenizer" => {
                bundle.tokenizer.encode(&["a red circle", "\u{1f600}"]);
                Ok(())
            }
            upsampler => {
                let place = upsampler.ends_with(".1") as usize;
                bundle.upsamplers[place].load(&device).map(drop)
            }
        };
        match result {
            Ok(()) => loaded += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(loaded > 10 && refused > 10, "{loaded} loaded, {refused} refused");
}

/// Does to a file what disks, networks and editors do.
fn damage(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    // mostly near the start, where the structure is
    let reach = if numbers.below(2) == 0 { bytes.len().min(300) } else { bytes.len() };
    let at = numbers.below(reach);
    let len = numbers.below(64).min(bytes.len() - at);
    match numbers.below(6) {
        0 => bytes.truncate(at),
        1 => bytes[at..at + len].fill(0),
        2 => drop(bytes.drain(at..at + len)),
        3 => {
            let part = bytes[at..at + len].to_vec();
            bytes.splice(at..at, part);
        }
        _ => {
            for _ in 0..=numbers.below(8) {
                let at = numbers.below(reach);
                bytes[at] = numbers.below(256) as u8;
            }
        }
    }
}

#[test]
fn weights_that_overflow_are_noticed_while_sampling() {
    for (stage, key) in
        [("prior", "proj_to_clip_embeddings.weight"), ("decoder", "unet.conv_out.weight")]
    {
        let model = Model::new();
        model.edit_config(stage, |json| json["config"]["diffusion"]["clamp"] = json!(null));
        model.edit_tensors(stage, |tensors| {
            let tensor = tensors.iter_mut().find(|t| t.key == key).unwrap();
            let huge = f32::MAX.to_le_bytes();
            tensor.bytes.chunks_mut(4).for_each(|value| value.copy_from_slice(&huge));
        });
        let unclip = model.load().unwrap();
        let result = unclip.text_to_image("a", &GenerateOptions::default(), &mut ());
        refused(result, &[&format!("the {stage}"), "not finite"]);
        // a bad stage does not spoil the rest
        let steps = StageOptions { steps: Some(0), ..StageOptions::default() };
        let options = GenerateOptions { prior: steps, ..GenerateOptions::default() };
        refused(unclip.text_to_image("a", &options, &mut ()), &["prior steps is 0"]);
    }
}

// saving

#[test]
fn saving_where_nothing_can_be_written_names_the_place_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "old").unwrap();
    let config = prior();
    let network = config.init(&Device::flex());
    let save = |folder: &Path| save_stage(folder, SPACE, &config, &network, SaveFormat::F32);
    refused(save(&file), &[file.to_str().unwrap()]);
    refused(save(&file.join("inside")), &[file.to_str().unwrap()]);
    let missing = folder.path().join("nowhere/picture.png");
    refused(write_whole(&missing, b"new"), &["nowhere/picture.png", "not found"]);
    let long = folder.path().join("x".repeat(300));
    refused(write_whole(&long, b"new"), &["xxx", "too long"]);
    refused(write_whole(folder.path(), b"new"), &["this is a folder, expected a regular file"]);
    refused(write_whole(Path::new(""), b"new"), &[]);
    assert_eq!(names(folder.path()), ["file"]);
    assert_eq!(fs::read(&file).unwrap(), b"old");
}

#[test]
fn saving_over_a_stage_replaces_it_whole() {
    let model = Model::new();
    let config = DiffusionPriorConfig { d_embedding: 4, ..prior() };
    let network = config.init(&Device::flex());
    let folder = model.path("prior");
    save_stage(&folder, "another", &config, &network, SaveFormat::F16).unwrap();
    assert_eq!(names(&folder), ["config.json", "model.safetensors"]);
    let files = StageFiles::<DiffusionPriorConfig>::open(&folder).unwrap();
    assert_eq!(
        (files.manifest.config.d_embedding, &*files.manifest.embedding_space),
        (4, "another")
    );
    files.load(&Device::flex()).unwrap();
}

#[test]
fn a_stage_that_was_not_saved_to_its_end_is_incomplete() {
    let folder = tempfile::tempdir().unwrap();
    let config = text_encoder();
    // the configuration, written last, cannot be
    fs::create_dir(folder.path().join("config.json")).unwrap();
    let network = config.init(&Device::flex());
    let result = save_stage(folder.path(), SPACE, &config, &network, SaveFormat::F32);
    refused(result, &["config.json", "this is a folder"]);
    refused(StageFiles::<TextEncoderConfig>::open(folder.path()), &["config.json"]);
}

#[cfg(unix)]
#[test]
fn saving_into_a_folder_that_is_read_only_keeps_the_old_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    // the administrator may write everywhere
    if fs::write(folder.path().join("probe"), "").is_err() {
        refused(write_whole(&path, b"new"), &["model.safetensors", "denied"]);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["model.safetensors"]);
    }
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

#[cfg(unix)]
#[test]
fn saving_onto_a_pipe_leaves_the_pipe() {
    use std::os::unix::fs::FileTypeExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe");
    crate::support::make_pipe(&path);
    refused(write_whole(&path, b"new"), &["a pipe", "expected a regular file"]);
    assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    assert_eq!(names(folder.path()), ["pipe"]);
}

#[test]
fn an_empty_checkpoint_lacks_everything() {
    let model = Model::new();
    fs::write(model.path("prior/model.safetensors"), tensors_file(&[])).unwrap();
    refused(model.load(), &["prior/model.safetensors", "missing: positional_embedding, "]);
}

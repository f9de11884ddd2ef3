//! Checkpoints and folders that cannot be used: every one is refused with the file, what was found
//! and what was expected; nothing panics or hangs.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use serde_json::json;
use unclip::unclip_nn::checkpoint::{StageFiles, Weights, write_whole};
use unclip::upsample::UpsamplerConfig;
use unclip::{Bundle, Error, GenerateOptions, StageOptions};

use crate::support::{
    Model, Numbers, RawTensor, files, in_time, refused, safetensors, tensors_file,
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
fn what_is_often_mistaken_for_weights_is_recognized() {
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
        (b"{\"metadata\": {\"total_size\": 9}}", "shards", "give the folder"),
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
    refused(bundle.prior().unwrap().load(&Device::flex()), &["prior/model.safetensors"]);
}

#[test]
fn a_file_that_is_replaced_after_it_was_opened_does_no_harm() {
    let model = Model::new();
    let bundle = model.open().unwrap();
    write_whole(&model.path("prior/model.safetensors"), b"something else").unwrap();
    bundle.prior().unwrap().load(&Device::flex()).unwrap();
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
fn an_empty_checkpoint_lacks_everything() {
    let model = Model::new();
    fs::write(model.path("prior/model.safetensors"), tensors_file(&[])).unwrap();
    refused(model.load(), &["prior/model.safetensors", "missing: positional_embedding, "]);
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
    refused(Bundle::open(model.path("nowhere")), &["nowhere", "No such file"]);
    refused(Bundle::open(Path::new("")), &["No such file"]);
    refused(Bundle::open(model.path("prior/config.json")), &["prior/config.json"]);
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
    for stage in ["text_encoder", "decoder"] {
        let model = Model::new();
        fs::remove_dir_all(model.path(stage)).unwrap();
        let (has_no, expected) = (format!("has no {stage}"), format!("a folder `{stage}`"));
        refused(model.open(), &["the model in ", &has_no, &expected]);
    }
    // variations need no prior; captions do
    let model = Model::new();
    fs::remove_dir_all(model.path("prior")).unwrap();
    let made = model.load().unwrap().text_to_image("a circle", &GenerateOptions::default());
    refused(made, &["the model in ", "has no prior", "a folder `prior`"]);
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
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
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
        json["config"]["layout"]["side"] = json!(3);
    });
    model.edit_config("upsampler.0", |json| {
        json["config"]["unet"]["block_out_channels"] = json!([8, 8, 8, 8]);
    });
    refused(model.open(), &["upsampler.0", "a picture side of 12", "a multiple of 8"]);
    let model = Model::new();
    model.edit_config("decoder", |json| {
        json["config"]["unet"]["image_size"] = json!(1 << 20);
        json["config"]["unet"]["attention_resolutions"] = json!([1 << 19]);
    });
    refused(model.open(), &["side of this model's pictures is 4194304, expected at most 8192"]);
}

// everything at once

#[test]
fn random_damage_is_refused_or_harmless() {
    let model = Model::new();
    let mut numbers = Numbers(2024);
    let (mut loaded, mut refused) = (0, 0);
    for _ in 0..300 {
        let (name, good) = &files()[numbers.below(files().len())];
        let mut bytes = good.clone();
        damage(&mut bytes, &mut numbers);
        fs::write(model.path(name), bytes).unwrap();
        match load_stage(&model, name) {
            Ok(()) => loaded += 1,
            Err(_) => refused += 1,
        }
        fs::write(model.path(name), good).unwrap();
    }
    assert!(loaded > 10 && refused > 10, "{loaded} loaded, {refused} refused");
}

/// Reads all that there is of the stage to which a file belongs.
fn load_stage(model: &Model, file: &str) -> Result<(), Error> {
    let (bundle, device) = (model.open()?, Device::flex());
    match file.split('/').next().unwrap() {
        "text_encoder" => drop(bundle.text().unwrap().encoder.load(&device)?),
        "image_encoder" => drop(bundle.image_encoder.unwrap().load(&device)?),
        "prior" => drop(bundle.prior().unwrap().load(&device)?),
        "decoder" => drop(bundle.decoder.load(&device)?),
        "tokenizer" => {
            drop(bundle.text().unwrap().tokenizer.encode(&["a red circle", "\u{1f600}"]))
        }
        upsampler => drop(bundle.upsamplers[usize::from(upsampler.ends_with(".1"))].load(&device)?),
    }
    Ok(())
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
        let result = unclip.text_to_image("a", &GenerateOptions::default());
        refused(result, &[&format!("the {stage}"), "not finite"]);
        // a bad stage does not spoil the rest
        let steps = StageOptions::default().with_steps(0);
        let options = GenerateOptions::default().with_prior(steps);
        refused(unclip.text_to_image("a", &options), &["prior steps is 0"]);
    }
}

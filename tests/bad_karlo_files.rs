//! Folders in diffusers' layout of which a file cannot be used, is missing, or is no file at all:
//! every one is refused with the file, the key, what was found and what was expected.

use std::fs;
use std::sync::Arc;

use burn::tensor::Device;
use serde_json::{Value, json};
use unclip::{Error, GenerateOptions, RecordedNoise, StageOptions, UnClip};

use crate::bad_karlo::load;
use crate::karlo::fixture;
use crate::karlo_write::{Karlo, files};
use crate::support::{RawTensor, read_tensors, refused, safetensors, tensors_file};

/// The weights of a stage.
const PRIOR: &str = "prior/diffusion_pytorch_model.safetensors";
/// What takes their place when they are in shards.
const INDEX: &str = "prior/diffusion_pytorch_model.safetensors.index.json";
const SHARDS: [&str; 2] = [
    "diffusion_pytorch_model-00001-of-00002.safetensors",
    "diffusion_pytorch_model-00002-of-00002.safetensors",
];

// files and folders

#[test]
fn missing_files_and_folders_are_named() {
    for name in ["tiny", "variation"] {
        let model = Karlo::new(name);
        for file in files(&fixture(name)) {
            let path = model.path(&file);
            let good = fs::read(&path).unwrap();
            fs::remove_file(&path).unwrap();
            match file.as_str() {
                "tokenizer/special_tokens_map.json" | "tokenizer/tokenizer_config.json" => {
                    drop(model.open().unwrap());
                }
                file => refused(model.open(), &[file, "No such file"]),
            }
            fs::write(path, good).unwrap();
        }
        for folder in fs::read_dir(model.path("")).unwrap().map(|entry| entry.unwrap().path()) {
            if folder.is_dir() {
                let (away, name) = (model.beside("away"), folder.file_name().unwrap());
                fs::rename(&folder, &away).unwrap();
                refused(model.open(), &["has no ", name.to_str().unwrap(), "expected a folder"]);
                fs::rename(&away, &folder).unwrap();
            }
        }
    }
}

#[test]
fn pickles_in_the_place_of_weights_are_recognized() {
    for (stage, name, pickle) in [
        ("prior", "diffusion_pytorch_model", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model", "pytorch_model.bin"),
    ] {
        let model = Karlo::new("tiny");
        fs::remove_file(model.path(&format!("{stage}/{name}.safetensors"))).unwrap();
        let file = format!("{stage}/{pickle}");
        fs::write(model.path(&file), b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl").unwrap();
        refused(model.open(), &[&file, "zip archive", "tools/convert_pickle.py"]);
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_without_being_read() {
    use std::os::unix::fs::symlink;

    use crate::support::{in_time, make_pipe};
    for file in ["model_index.json", "prior/config.json", PRIOR, "tokenizer/merges.txt"] {
        let model = Arc::new(Karlo::new("tiny"));
        let path = model.path(file);
        let put = |make: &dyn Fn(), words: &[&str]| {
            if fs::remove_file(&path).is_err() {
                fs::remove_dir(&path).unwrap();
            }
            make();
            let model = model.clone();
            let expected = [&[file], words].concat();
            refused(in_time(move || model.open()), &expected);
        };
        put(&|| fs::create_dir(&path).unwrap(), &["a folder", "expected a regular file"]);
        put(&|| make_pipe(&path), &["a pipe", "expected a regular file"]);
        put(&|| symlink("/dev/zero", &path).unwrap(), &["a device", "expected a regular file"]);
        if file != "model_index.json" {
            put(&|| symlink(&path, &path).unwrap(), &["symbolic links"]);
        }
    }
}

// weights

#[test]
fn damaged_weights_are_named() {
    let tensor = |shape: &str, offsets: &str| {
        format!(r#"{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |shape, offsets| format!(r#"{{"a":{}}}"#, tensor(shape, offsets));
    let two = |offsets| {
        let (a, b) = (tensor("[2]", "[0,8]"), tensor("[2]", offsets));
        format!(r#"{{"a":{a},"b":{b}}}"#)
    };
    let twice = format!(r#"{{"a":{0},"a":{0}}}"#, tensor("[2]", "[0,8]"));
    let file = |header: &str, len| safetensors(header, &vec![0; len]);
    let mut endless = file(&one("[2]", "[0,8]"), 8);
    endless[..8].fill(0xff);
    let cases = [
        (Vec::new(), "0 bytes long, expected at least 8"),
        (vec![0; 7], "7 bytes long, expected at least 8"),
        (vec![0; 8], "header: "),
        (endless, "header of 18446744073709551615 bytes, expected at most"),
        (file("\u{feff}hello", 8), "header: "),
        (file(&"[".repeat(100_000), 8), "header: "),
        (file(&one("[4294967296,4294967296]", "[0,8]"), 8), "header: "),
        (file(&one("[3]", "[0,8]"), 8), "header: "),
        (file(&one("[2]", "[0,8]"), 7), "7 bytes of data, expected 8"),
        (file(&two("[4,12]"), 16), "header: "),
        (file(&two("[8,4]"), 16), "header: "),
        (file(&twice, 8), "a stands there twice, expected once"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "git-LFS pointer"),
        (b"<!DOCTYPE html><html>".to_vec(), "HTML"),
    ];
    let model = Karlo::new("tiny");
    for (bytes, words) in cases {
        fs::write(model.path(PRIOR), bytes).unwrap();
        refused(model.open(), &[PRIOR, words]);
    }
}

#[test]
fn headers_and_indices_of_many_megabytes_are_refused_unread() {
    let model = Karlo::new("tiny");
    let mut file = ((4 << 20) + 1u64).to_le_bytes().to_vec();
    file.extend(b"{");
    file.resize(5 << 20, b' ');
    fs::write(model.path(PRIOR), &file).unwrap();
    refused(model.open(), &[PRIOR, "header of 4194305 bytes, expected at most 4194304"]);
    fs::remove_file(model.path(PRIOR)).unwrap();
    fs::write(model.path(INDEX), &file).unwrap();
    refused(model.open(), &[INDEX, "5242880 bytes long, expected at most 4194304"]);
}

/// Changes the tensors of a stage of a fresh copy, and reads all weights.
fn load_with(file: &str, edit: impl FnOnce(&mut Vec<RawTensor>)) -> Result<UnClip, Error> {
    let model = Karlo::new("tiny");
    let mut tensors = read_tensors(&model.path(file));
    edit(&mut tensors);
    fs::write(model.path(file), tensors_file(&tensors)).unwrap();
    load(&model.path(""))
}

#[test]
fn wrong_tensors_are_named_with_their_file() {
    let stage = |stage: &str| format!("{stage}/diffusion_pytorch_model.safetensors");
    let files = ["prior", "text_proj", "decoder", "super_res_first", "super_res_last"].map(stage);
    for file in files.into_iter().chain(["text_encoder/model.safetensors".into()]) {
        let refuse = |edit: &dyn Fn(&mut RawTensor), words: &str| {
            let key = std::cell::RefCell::new(String::new());
            let result = load_with(&file, |tensors| {
                let tensor = tensors.iter_mut().find(|t| t.shape.len() == 2).unwrap();
                *key.borrow_mut() = tensor.key.clone();
                edit(tensor);
            });
            refused(result, &[&file, &words.replace("KEY", &key.borrow())]);
        };
        refuse(&|t| t.key.push_str(".more"), "1 missing: KEY; 1 not expected: KEY.more;");
        refuse(&|t| t.shape = vec![t.shape.iter().product()], "of another shape: KEY (expected [");
        refuse(&|t| t.dtype = "I32".into(), "than F32, F16 and BF16: KEY (I32)");
        refuse(
            &|t| t.bytes[8..16].copy_from_slice(&[0xff; 8]),
            "KEY holds 2 values that are NaN or infinite",
        );
    }
    // a matrix the other way round, with as many values
    let result = load_with(PRIOR, |tensors| {
        let tensor = tensors.iter_mut().find(|t| t.key.ends_with("ff.net.2.weight")).unwrap();
        tensor.shape.reverse();
    });
    refused(result, &[PRIOR, "0.ff.net.2.weight (expected [16, 64], found [64, 16])"]);
}

#[test]
fn weights_cut_after_they_were_opened_are_an_error() {
    let model = Karlo::new("tiny");
    let bundle = model.open().unwrap();
    fs::File::options().write(true).open(model.path(PRIOR)).unwrap().set_len(5000).unwrap();
    refused(bundle.prior().unwrap().load(&Device::flex()), &[PRIOR]);
}

// shards

/// Splits the prior into shards of which the index can be changed.
pub(crate) fn shard(model: &Karlo) {
    let tensors = read_tensors(&model.path(PRIOR));
    fs::remove_file(model.path(PRIOR)).unwrap();
    let mut map = serde_json::Map::new();
    for (name, tensors) in SHARDS.iter().zip(tensors.chunks(tensors.len().div_ceil(2))) {
        map.extend(tensors.iter().map(|tensor| (tensor.key.clone(), json!(name))));
        fs::write(model.path(&format!("prior/{name}")), tensors_file(tensors)).unwrap();
    }
    let index = json!({ "metadata": { "total_size": 0 }, "weight_map": map });
    fs::write(model.path(INDEX), index.to_string()).unwrap();
}

#[test]
fn shards_are_put_together() {
    let model = Karlo::new("tiny");
    shard(&model);
    load(&model.path("")).unwrap();
}

#[test]
fn indices_that_lead_out_of_their_folder_are_refused() {
    let absolute = fixture("tiny").join(PRIOR).display().to_string();
    let outside = ["../prior/x.safetensors", "a/b", "..", ".", "", "/dev/zero", "a\\b", &absolute];
    let model = Karlo::new("tiny");
    shard(&model);
    for name in outside {
        model.edit(INDEX, |json| json["weight_map"]["clip_mean"] = json!(name));
        refused(model.open(), &[INDEX, &format!("{name:?}"), "the name of a file in this folder"]);
    }
}

#[test]
fn indices_that_contradict_their_shards_are_refused() {
    let [first, second] = SHARDS;
    let edited = |edit: &dyn Fn(&mut Value)| {
        let model = Karlo::new("tiny");
        shard(&model);
        model.edit(INDEX, edit);
        model.open()
    };
    let map = |json: &mut Value, key: &str, name: Value| json["weight_map"][key] = name;
    // the first tensor lies in the first shard
    let wrong = edited(&|json| map(json, "clip_mean", json!(second)));
    refused(wrong, &[INDEX, "clip_mean is in", first, "listed in", second]);
    let unlisted = edited(&|json| {
        json["weight_map"].as_object_mut().unwrap().remove("clip_mean").unwrap();
    });
    refused(unlisted, &[INDEX, "clip_mean is in", first, "listed in nowhere"]);
    let lacking = edited(&|json| map(json, "clip_median", json!(second)));
    refused(lacking, &[INDEX, "clip_median is listed in", second, "lacks it"]);
    let elsewhere = edited(&|json| map(json, "clip_mean", json!("third.safetensors")));
    refused(elsewhere, &["clip_mean is in", "listed in third.safetensors"]);
    let missing = edited(&|json| map(json, "a", json!("0.safetensors")));
    refused(missing, &["prior/0.safetensors", "No such file"]);
    refused(edited(&|json| json["weight_map"] = json!(7)), &[INDEX, "line 1"]);
    refused(edited(&|json| *json = json!({})), &[INDEX, "weight_map"]);

    let model = Karlo::new("tiny");
    shard(&model);
    let paths = [first, second].map(|name| model.path(&format!("prior/{name}")));
    let mut tensors = read_tensors(&paths[1]);
    tensors.extend(read_tensors(&paths[0]).into_iter().filter(|t| t.key == "clip_mean"));
    fs::write(&paths[1], tensors_file(&tensors)).unwrap();
    refused(model.open(), &["clip_mean is in", second, "listed in", first]);
    fs::remove_file(&paths[1]).unwrap();
    refused(model.open(), &[second, "No such file"]);
}

// noise

#[test]
fn noise_that_does_not_fit_is_named() {
    let path = tempfile::tempdir().unwrap();
    let path = path.path().join("noise.safetensors");
    let refuse = |edit: &dyn Fn(&mut Vec<RawTensor>), words: &[&str]| {
        let mut tensors = read_tensors(&fixture("tiny.noise.safetensors"));
        edit(&mut tensors);
        fs::write(&path, tensors_file(&tensors)).unwrap();
        let noise = Some(Arc::new(RecordedNoise::open(&path).unwrap()));
        let steps = |steps| StageOptions::default().with_steps(steps);
        let mut options = GenerateOptions::default().with_prior(steps(5)).with_decoder(steps(5));
        options = options.with_upsampler(steps(3));
        options.noise = noise;
        let unclip = load(&fixture("tiny")).unwrap();
        let result = unclip.text_to_images(&["a", "b"], &options);
        refused(result, &[&["noise.safetensors"], words].concat());
    };
    let find = |tensors: &[RawTensor], key: &str| {
        tensors.iter().position(|tensor| tensor.key == key).unwrap()
    };
    for (key, shape) in [
        ("prior.initial", "[2, 16]"),
        ("prior.step.3", "[2, 16]"),
        ("decoder.step.0", "[2, 3, 8, 8]"),
        ("upsampler.0.step.1", "[2, 3, 32, 32]"),
    ] {
        let expected = format!("expected {shape}");
        let (absent, wrong) = (format!("{key} in "), format!("{key} holds 1 values"));
        refuse(
            &|tensors| {
                let at = find(tensors, key);
                tensors.remove(at);
            },
            &[&absent, "is absent", &expected],
        );
        refuse(
            &|tensors| {
                let at = find(tensors, key);
                tensors[at].shape.insert(0, 1);
            },
            &[&absent, "is [1, 2, ", &expected],
        );
        refuse(
            &|tensors| {
                let at = find(tensors, key);
                tensors[at].bytes[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
            },
            &[&wrong, "NaN or infinite"],
        );
        refuse(
            &|tensors| {
                let at = find(tensors, key);
                tensors[at].dtype = "I32".into();
            },
            &[key, "is I32, expected F32, F16 or BF16"],
        );
    }
}

//! Folders written in diffusers' layout: what was read comes out as it was, what the layout cannot
//! hold is refused, and nothing is left of what failed.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde_json::{Value, json};
use tempfile::TempDir;
use unclip::clip::{Fit, Padding};
use unclip::{Bundle, Error, OpenOptions, Precision};

use crate::karlo::{fixture, image_variation, text_to_images};
use crate::support::{Model, names, read_tensors, refused, tensors_file};

/// Where Kandinsky 2.1's folders lie, from Karlo's.
pub(crate) const KANDINSKY_2_1: &str = "../kandinsky21/model";

/// A fixture's folder to damage, with room beside it.
pub(crate) struct Karlo(TempDir);

impl Karlo {
    pub(crate) fn new(name: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let model = Self(folder);
        model.add(name, "");
        if name == KANDINSKY_2_1 {
            // of 2.2, whose autoencoder is the same
            model.add("../kandinsky/model/decoder/movq", "decoder/movq");
        }
        model
    }

    /// Copies the files of another fixture's folder to a folder of the model.
    pub(crate) fn add(&self, name: &str, inside: &str) {
        for path in files(&fixture(name)) {
            let copy = self.path(inside).join(&path);
            fs::create_dir_all(copy.parent().unwrap()).unwrap();
            fs::copy(fixture(name).join(path), copy).unwrap();
        }
    }

    /// Something in the model's folder.
    pub(crate) fn path(&self, inside: &str) -> PathBuf {
        self.0.path().join("model").join(inside)
    }

    /// Something beside it.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn open(&self) -> Result<Bundle, Error> {
        Bundle::open(self.path(""))
    }

    /// Changes a JSON file.
    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.path(name);
        let mut value = json_file(&path);
        edit(&mut value);
        fs::write(path, value.to_string()).unwrap();
    }

    /// Gives the first value of the first tensor of a file another value.
    fn edit_first_value(&self, name: &str, value: f32) {
        let path = self.path(name);
        let mut tensors = read_tensors(&path);
        tensors[0].bytes[..4].copy_from_slice(&value.to_le_bytes());
        fs::write(path, tensors_file(&tensors)).unwrap();
    }
}

fn json_file(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// The files in a folder, by their paths from there, in order.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let inside = |name: String| {
        if folder.join(&name).is_dir() {
            files(&folder.join(&name)).iter().map(|file| format!("{name}/{file}")).collect()
        } else {
            vec![name]
        }
    };
    names(folder).into_iter().flat_map(inside).collect()
}

fn save(bundle: &Bundle, folder: &Path, format: Precision) -> Result<(), Error> {
    bundle.save("diffusers", folder, format, &Device::flex())
}

#[test]
fn what_was_read_is_written_as_it_was() {
    let notes = ["_diffusers_version", "_name_or_path", "transformers_version"];
    for (name, format) in [("tiny", Precision::F32), ("variation", Precision::F16)] {
        let folder = TempDir::new().unwrap();
        let out = folder.path().join("out");
        save(&Bundle::open(fixture(name)).unwrap(), &out, format).unwrap();
        assert_eq!(files(&out), files(&fixture(name)));
        for file in files(&out) {
            let (found, expected) = (out.join(&file), fixture(name).join(&file));
            if file.ends_with(".safetensors") {
                assert!(read_tensors(&found) == read_tensors(&expected), "{name}/{file}");
            } else if file == "tokenizer/vocab.json" || file == "tokenizer/merges.txt" {
                assert!(fs::read(found).unwrap() == fs::read(expected).unwrap(), "{file}");
            } else {
                let [found, expected] = [found, expected].map(|path| {
                    let mut value = json_file(&path);
                    value.as_object_mut().unwrap().retain(|key, _| !notes.contains(&key.as_str()));
                    single(value)
                });
                assert_eq!(found, expected, "{name}/{file}");
            }
        }
    }
}

#[test]
fn half_formats_round_once() {
    let folder = TempDir::new().unwrap();
    for format in [Precision::F16, Precision::BF16] {
        let [once, twice] =
            ["once", "twice"].map(|name| folder.path().join(format!("{name}{format:?}")));
        save(&Bundle::open(fixture("tiny")).unwrap(), &once, format).unwrap();
        save(&Bundle::open(&once).unwrap(), &twice, format).unwrap();
        for file in files(&once) {
            assert!(fs::read(once.join(&file)).unwrap() == fs::read(twice.join(&file)).unwrap());
        }
        let config = json_file(&once.join("text_encoder/config.json"));
        let expected = if format == Precision::F16 { "float16" } else { "bfloat16" };
        assert_eq!(config["torch_dtype"], expected);
        let tensors = read_tensors(&once.join("prior/diffusion_pytorch_model.safetensors"));
        assert!(tensors.iter().all(|tensor| tensor.dtype == format!("{format:?}")));
    }
}

/// JSON with its numbers as 32 bits hold them: all that is kept of the means of colors.
fn single(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64().unwrap() as f32),
        Value::Array(items) => items.into_iter().map(single).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(key, value)| (key, single(value))).collect()
        }
        other => other,
    }
}

/// The model `tiny` in this project's own layout: what training writes.
fn in_own_layout() -> Karlo {
    let bundle = Bundle::open(fixture("tiny")).unwrap();
    let model = Karlo(TempDir::new().unwrap());
    bundle.save("native", model.path(""), Precision::F32, &Device::flex()).unwrap();
    model
}

#[test]
fn a_model_of_our_own_becomes_one_for_diffusers() {
    let model = in_own_layout();
    save(&model.open().unwrap(), &model.beside("out"), Precision::F32).unwrap();
    for file in files(&fixture("tiny")).iter().filter(|file| file.ends_with(".safetensors")) {
        let [found, expected] = [model.beside("out"), fixture("tiny")].map(|f| f.join(file));
        assert!(read_tensors(&found) == read_tensors(&expected), "{file}");
    }
    let [before, after] = [model.path(""), model.beside("out")]
        .map(|folder| text_to_images("flex", &folder).upsamplers.remove(0).into_data());
    assert_eq!(before, after);
}

#[test]
fn layouts_that_are_not_written_are_refused_by_name() {
    let (model, bundle) = (Karlo::new("tiny"), Bundle::open(fixture("tiny")).unwrap());
    let save = |layout| bundle.save(layout, model.beside("out"), Precision::F32, &Device::flex());
    refused(
        save("onnx"),
        &["layout to write is \"onnx\", expected kandinsky, stable, diffusers, native"],
    );
    refused(
        save("karlo"),
        &["layout to write is \"karlo\", expected kandinsky, stable, diffusers, native"],
    );
    assert!(!model.beside("out").exists());
}

#[test]
fn variations_without_a_prior_are_written_in_our_own_layout_too() {
    let (model, bundle) = (Karlo::new("variation"), Bundle::open(fixture("variation")).unwrap());
    let out = model.beside("out");
    bundle.save("native", &out, Precision::F32, &Device::flex()).unwrap();
    let [before, after] = [fixture("variation"), out]
        .map(|folder| image_variation("flex", &folder).upsamplers.remove(0).into_data());
    assert_eq!(before, after);
    let shapes = Bundle::shapes().unwrap();
    let result = shapes.save("native", model.beside("x"), Precision::F32, &Device::flex());
    refused(result, &["model to write is the bundled shapes model", "from a folder"]);
}

#[test]
fn a_folder_for_both_pipelines_is_written_and_read() {
    // the published text-to-image repository has an image encoder in one of its branches
    let model = Karlo::new("variation");
    for folder in ["prior", "prior_scheduler"] {
        fs::create_dir(model.path(folder)).unwrap();
        for file in files(&fixture("tiny").join(folder)) {
            let file = format!("{folder}/{file}");
            fs::copy(fixture("tiny").join(&file), model.path(&file)).unwrap();
        }
    }
    let out = model.beside("out");
    save(&model.open().unwrap(), &out, Precision::F32).unwrap();
    let index = json_file(&out.join("model_index.json"));
    assert_eq!(index["_class_name"], "UnCLIPPipeline");
    assert_eq!(index["image_encoder"][1], "CLIPVisionModelWithProjection");
    let [before, after] = [fixture("variation"), out]
        .map(|folder| image_variation("flex", &folder).upsamplers.remove(0).into_data());
    assert_eq!(before, after);
}

#[test]
fn what_diffusers_cannot_hold_is_refused_by_its_field() {
    let linear = json!({ "linear": { "start": 1e-4, "end": 0.02 } });
    let cases = [
        ("decoder", "unet/coordinates", json!(true), "unet.coordinates is true, expected false"),
        ("upsampler.0", "unet/patch_size", json!(2), "unet.patch_size is 2, expected 1"),
        ("upsampler.0", "last_step_network", json!(false), "last_step_network is false"),
        ("decoder", "whitened", json!(true), "whitened is true, expected false"),
        ("prior", "principal_components", json!(true), "principal_components is true, expected"),
        ("decoder", "unet/attention_resolutions", json!([]), "at least one: the middle"),
        ("decoder", "diffusion/parameterization", json!("v"), "expected epsilon or sample"),
        ("decoder", "diffusion/beta_schedule", linear, "\"squaredcos_cap_v2\": diffusers'"),
        ("prior", "diffusion/sampler", json!("ddim"), "\"ddim\", expected \"ddpm\""),
        ("prior", "diffusion/variance", json!("fixed_large"), "fixed_small or learned_range"),
        ("prior", "transformer/activation", json!("quick_gelu"), "expected \"gelu\""),
        ("prior", "transformer/d_hidden", json!(48), "transformer.d_hidden is 48, expected 64"),
        ("prior", "transformer/norm_eps", json!(1e-6), "norm_eps is 1e-6, expected 0.00001"),
    ];
    let model = in_own_layout();
    for (stage, field, value, words) in cases {
        let file = format!("{stage}/config.json");
        let good = fs::read(model.path(&file)).unwrap();
        model.edit(&file, |json| {
            *json.pointer_mut(&format!("/config/{field}")).unwrap() = value;
        });
        let result = save(&model.open().unwrap(), &model.beside("out"), Precision::F32);
        refused(result, &[stage, &field.replace('/', "."), words]);
        fs::write(model.path(&file), good).unwrap();
    }
    assert_eq!(names(&model.beside("")), ["model"]);
}

#[test]
fn models_that_diffusers_has_no_pipeline_for_are_refused() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    let refuse = |bundle: &Bundle, words: &[&str]| {
        refused(save(bundle, &out, Precision::F32), words);
        assert!(names(folder.path()).is_empty());
    };
    refuse(&Bundle::shapes().unwrap(), &["the bundled shapes model", " is ", "expected"]);
    // its text tower is wider than its embeddings
    refuse(
        &Model::new().open().unwrap(),
        &["prior: d_text is 8, expected 6, the width of embeddings"],
    );

    let model = in_own_layout();
    fs::create_dir(model.path("upsampler.1")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let copy = model.path("upsampler.1").join(file);
        fs::copy(model.path("upsampler.0").join(file), copy).unwrap();
    }
    refuse(&model.open().unwrap(), &["upsamplers is 2, expected 1"]);
    for upsampler in ["upsampler.0", "upsampler.1"] {
        fs::remove_dir_all(model.path(upsampler)).unwrap();
    }
    refuse(&model.open().unwrap(), &["upsamplers is 0, expected 1"]);

    let model = Karlo::new("tiny");
    fs::remove_dir_all(model.path("prior")).unwrap();
    model.edit("model_index.json", |json| drop(json.as_object_mut().unwrap().remove("prior")));
    refuse(&model.open().unwrap(), &["has no prior"]);

    let open = |options| Bundle::open_with(fixture("variation"), &options).unwrap();
    let zero = OpenOptions { padding: Some(Padding::Zero), ..OpenOptions::default() };
    refuse(&open(zero), &["tokenizer: padding is zero, expected exclamation or end"]);
    let squash = OpenOptions { fit: Some(Fit::Squash), ..OpenOptions::default() };
    refuse(&open(squash), &["image_encoder: fit is \"squash\", expected \"crop\""]);
}

#[test]
fn nothing_is_left_of_what_could_not_be_written() {
    let sr = "super_res_last/diffusion_pytorch_model.safetensors";
    let model = Karlo::new("tiny");
    let out = model.beside("out");
    model.edit_first_value(sr, f32::NAN);
    let result = save(&model.open().unwrap(), &out, Precision::F32);
    refused(result, &[sr, "conv_in.bias holds 1 values that are NaN"]);
    model.edit_first_value(sr, 65520.0);
    let result = save(&model.open().unwrap(), &out, Precision::F16);
    refused(result, &["1 values of conv_in.bias are too large for f16", "expected f32 or bf16"]);
    let bundle = Bundle::open(fixture("tiny")).unwrap();
    for (place, words) in [("nowhere/out", "not found"), ("model", "something is there already")] {
        refused(save(&bundle, &model.beside(place), Precision::F32), &[place, words]);
    }
    assert_eq!(names(&model.beside("")), ["model"]);
    assert_eq!(names(&model.path("")), names(&fixture("tiny")));
    save(&bundle, &out, Precision::BF16).unwrap();
}

#[cfg(unix)]
#[test]
fn written_folders_are_for_everybody() {
    use std::os::unix::fs::PermissionsExt;
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    save(&Bundle::open(fixture("tiny")).unwrap(), &out, Precision::F16).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&out), 0o755);
    assert!(files(&out).iter().all(|file| mode(&out.join(file)) == 0o644));
    std::os::unix::fs::symlink("nowhere", folder.path().join("link")).unwrap();
    let bundle = Bundle::open(&out).unwrap();
    let result = save(&bundle, &folder.path().join("link"), Precision::F16);
    refused(result, &["link", "something is there already"]);
}

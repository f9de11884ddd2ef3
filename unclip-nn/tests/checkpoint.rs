//! Weights on disk: what comes back, and what is refused. Every refusal names what is wrong.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::{LayerNormConfig, LinearConfig};
use burn::tensor::{Device, Tensor};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use unclip_nn::Precision;
use unclip_nn::checkpoint::{
    KeyMap, LoadError, Mismatch, Weights, load_weights, save_part, save_weights,
};
use unclip_nn::{Activation, Transformer, TransformerConfig};

use crate::fixture::{assert_close, difference, noise};

fn config() -> TransformerConfig {
    TransformerConfig {
        d_model: 8,
        n_layers: 2,
        n_heads: 2,
        d_hidden: 12,
        activation: Activation::QuickGelu,
        norm_eps: 1e-5,
    }
}

fn transformer() -> Transformer {
    config().init(&Device::flex())
}

fn forward(transformer: &Transformer) -> Tensor<3> {
    transformer.forward(noise([2, 5, 8], 1, &Device::flex()), None)
}

fn load<M: Module>(module: M, path: &Path) -> Result<M, LoadError> {
    load_weights(module, &Weights::open(path)?, &KeyMap::NONE, &Device::flex())
}

/// Saves a transformer, lets `change` loose on its tensors (key, shape, f32 bytes), and returns
/// what the loader says.
fn refusal(change: impl FnOnce(&mut Vec<(String, Vec<usize>, Vec<u8>)>)) -> LoadError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save_weights(&transformer(), &path, &KeyMap::NONE, Precision::F32).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Vec<_> = file
        .iter()
        .map(|(key, view)| (key.to_owned(), view.shape().to_vec(), view.data().to_vec()))
        .collect();
    change(&mut tensors);
    let views = tensors
        .iter()
        .map(|(key, shape, data)| (key, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    std::fs::write(&path, bytes).unwrap();
    load(transformer(), &path).unwrap_err()
}

fn mismatch(error: LoadError) -> Mismatch {
    match error {
        LoadError::Weights { mismatch, .. } => *mismatch,
        other => panic!("{other}"),
    }
}

#[test]
fn what_was_saved_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let [path, again] = ["model", "again"].map(|name| folder.path().join(name));
    let (saved, other) = (transformer(), transformer());
    // loaded matrices lie transposed in memory, so that products are summed in another order
    let formats = [(Precision::F32, 1e-6), (Precision::F16, 2e-3), (Precision::BF16, 2e-2)];
    for (format, tolerance) in formats {
        save_weights(&saved, &path, &KeyMap::NONE, format).unwrap();
        let loaded = load(other.clone(), &path).unwrap();
        assert_close(&format!("{format:?}"), forward(&loaded), forward(&saved), tolerance);
        save_weights(&loaded, &again, &KeyMap::NONE, format).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&again).unwrap(), "{format:?}");
    }
    assert!(difference("other", forward(&other), forward(&saved)).0 > 0.1);
}

#[test]
fn what_is_written_is_what_safetensors_itself_would_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    // a header of more than 65536 bytes, as those of published networks
    let config =
        TransformerConfig { d_model: 2, n_layers: 70, n_heads: 1, d_hidden: 2, ..config() };
    let module = config.init(&Device::flex());
    for format in [Precision::F32, Precision::F16, Precision::BF16] {
        save_weights(&module, &path, &KeyMap::NONE, format).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(u64::from_le_bytes(*bytes.first_chunk().unwrap()) > 1 << 16);
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let theirs = safetensors::serialize(file.tensors(), header.metadata().clone()).unwrap();
        assert!(bytes == theirs, "{format:?}");
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    }
}

#[test]
fn a_part_of_a_module_is_written_without_its_prefix() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save_part(&transformer(), "layers.1.attn.", &path, &KeyMap::NONE, Precision::F32).unwrap();
    let keys = Weights::open(&path).unwrap().keys();
    assert_eq!(keys.len(), 8);
    assert!(keys.iter().all(|key| key.starts_with("to_")), "{keys:?}");
}

#[test]
fn values_beyond_a_format_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let norm = |value: f32| {
        let mut norm = LayerNormConfig::new(2).init(&Device::flex());
        norm.gamma = norm.gamma.map(|x| x * value);
        norm
    };
    for (value, format, fits) in [
        (65504.0, Precision::F16, true),
        (-65520.0, Precision::F16, false),
        (-65520.0, Precision::BF16, true),
        (f32::MAX, Precision::BF16, false),
        (f32::MAX, Precision::F32, true),
    ] {
        let result = save_weights(&norm(value), &path, &KeyMap::NONE, format);
        assert_eq!(result.is_ok(), fits, "{value} as {format:?}");
        if let Err(error) = result {
            let message = error.to_string();
            assert!(message.contains("2 values of weight are too large"), "{message}");
        }
    }
}

/// Bytes of a module's weights.
struct Bytes(usize);

impl ModuleVisitor for Bytes {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0 += param.dims().iter().product::<usize>() * param.dtype().size();
    }
}

#[test]
fn matrices_are_kept_in_the_precision_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let [path, rounded, again] = ["model", "rounded", "again"].map(|name| folder.path().join(name));
    let saved = transformer();
    save_weights(&saved, &path, &KeyMap::NONE, Precision::F32).unwrap();
    for (precision, device) in
        [Precision::F16, Precision::BF16].map(|precision| (precision, Device::flex()))
    {
        let weights = Weights::open(&path).unwrap();
        let to = (&device, precision);
        let loaded = load_weights(transformer(), &weights, &KeyMap::NONE, to).unwrap();
        save_weights(&saved, &rounded, &KeyMap::NONE, precision).unwrap();
        let expected = load(transformer(), &rounded).unwrap();
        // the norms are ones and zeros, which every format holds
        assert_eq!(forward(&loaded).into_data(), forward(&expected).into_data(), "{precision}");
        let mut bytes = Bytes(0);
        loaded.visit(&mut bytes);
        let norms = 2 * 2 * 2 * 8;
        assert_eq!(bytes.0, 2 * (saved.num_params() - norms) + 4 * norms);
        save_weights(&loaded, &again, &KeyMap::NONE, precision).unwrap();
        assert!(std::fs::read(&rounded).unwrap() == std::fs::read(&again).unwrap());
    }
}

#[test]
fn values_beyond_the_precision_asked_for_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let device = Device::flex();
    let mut layer = LinearConfig::new(2, 2).init(&device);
    layer.bias = layer.bias.map(|bias| bias.map(|x| x * 0.0 + 1e5));
    save_weights(&layer, &path, &KeyMap::NONE, Precision::F32).unwrap();
    let weights = Weights::open(&path).unwrap();
    let load = |precision| {
        let fresh = LinearConfig::new(2, 2).init(&device);
        load_weights(fresh, &weights, &KeyMap::NONE, (&device, precision))
    };
    load(Precision::BF16).unwrap();
    let message = load(Precision::F16).unwrap_err().to_string();
    let expected = "2 values of bias are too large for f16; expected f32 or bf16";
    assert!(message.contains(expected), "{message}");
}

#[test]
fn linear_layers_lie_on_disk_as_pytorch_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save_weights(&transformer(), &path, &KeyMap::NONE, Precision::F32).unwrap();
    let weights = Weights::open(&path).unwrap();
    assert_eq!(weights.shape("layers.0.c_fc.weight"), Some([12, 8].as_slice()));
    assert_eq!(weights.shape("layers.1.norm2.bias"), Some([8].as_slice()));
}

#[test]
fn a_missing_tensor_is_named() {
    let found = mismatch(refusal(|tensors| tensors.retain(|t| t.0 != "layers.1.c_fc.bias")));
    assert_eq!(
        found,
        Mismatch { missing: vec!["layers.1.c_fc.bias".into()], ..Default::default() }
    );
}

#[test]
fn a_tensor_too_many_is_named() {
    let found = mismatch(refusal(|tensors| tensors.push(("extra".into(), vec![1], vec![0; 4]))));
    assert_eq!(found, Mismatch { unused: vec!["extra".into()], ..Default::default() });
}

#[test]
fn a_transposed_tensor_is_named() {
    let key = "layers.0.c_fc.weight";
    let found = mismatch(refusal(|tensors| {
        tensors.iter_mut().find(|t| t.0 == key).unwrap().1.reverse();
    }));
    let misshapen = vec![(key.into(), vec![12, 8], vec![8, 12])];
    assert_eq!(found, Mismatch { misshapen, ..Default::default() });
}

#[test]
fn values_that_are_not_finite_are_named() {
    let key = "layers.0.norm1.weight";
    let error = refusal(|tensors| {
        let data = &mut tensors.iter_mut().find(|t| t.0 == key).unwrap().2;
        data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        data[8..12].copy_from_slice(&f32::INFINITY.to_le_bytes());
    });
    let LoadError::NonFinite { key: found, count, .. } = error else { panic!("{error}") };
    assert_eq!((found.as_str(), count), (key, 2));
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save_weights(&transformer(), &path, &KeyMap::NONE, Precision::F16).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    for len in [0, 1, 7, 8, 9, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let error = Weights::open(&path).unwrap_err();
        assert!(matches!(error, LoadError::Header { .. }), "{len} bytes: {error}");
    }
}

#[test]
fn what_is_no_weights_file_is_called_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for (start, name) in [
        (b"version https://git-lfs.github.com/spec/v1".as_slice(), "git-LFS"),
        (b"PK\x03\x04 and so on", "zip"),
        (b"\x80\x02 and so on", "pickle"),
        (b"GGUF and so on", "GGUF"),
        (b"<!DOCTYPE html> and so on", "HTML"),
    ] {
        std::fs::write(&path, start).unwrap();
        let error = Weights::open(&path).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    assert!(matches!(Weights::open(folder.path()).unwrap_err(), LoadError::NotAFile { .. }));
    let absent = folder.path().join("absent");
    assert!(matches!(Weights::open(&absent).unwrap_err(), LoadError::Io { .. }));
}

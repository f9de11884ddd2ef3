//! Weights and noise that follow from their names, so that no file has to hold them: the same values
//! as those of `tools/reference/hashed.py`, to the last bit.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Map, Value};

use crate::support::{RawTensor, tensors_file};

/// `n` values from −1 to 1: SplitMix64 that starts at FNV-1a of the name.
fn uniform(name: &str, n: usize) -> impl Iterator<Item = f64> + use<> {
    let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let start = name.bytes().fold(0xcbf2_9ce4_8422_2325, fnv);
    (1..=n as u64).map(move |step| {
        let mut mixed = start.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

/// A parameter: gains and deviations around 1, small biases, tables of embeddings, and matrices that keep the
/// variance.
fn weight(name: &str, shape: &[usize]) -> Vec<f32> {
    let n = shape.iter().product();
    let tables = ["embedding", "label_emb", "null_text", "null_image"];
    let is_table = tables.iter().any(|part| name.contains(part));
    let fan_in: usize = shape.iter().skip(1).product();
    let value: Box<dyn Fn(f64) -> f64> = match shape.len() {
        _ if name.ends_with("std") || name.ends_with(".g") => Box::new(|u| 1.0 + 0.2 * u),
        1 if name.ends_with("weight") => Box::new(|u| 1.0 + 0.2 * u),
        1 => Box::new(|u| 0.2 * u),
        _ if is_table => Box::new(|u| 0.8 * u),
        _ => Box::new(move |u| u * (3.0 / fan_in as f64).sqrt()),
    };
    uniform(name, n).map(|u| value(u) as f32).collect()
}

/// A tensor of f32.
pub(crate) fn raw(key: &str, shape: &[usize], values: &[f32]) -> RawTensor {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    RawTensor { key: key.into(), dtype: "F32".into(), shape: shape.into(), bytes }
}

/// Writes the weights of a file, whose shapes by name these are. `stem` is a part of every name.
pub(crate) fn write_weights(path: &Path, stem: &str, shapes: &Map<String, Value>) {
    let tensors: Vec<RawTensor> = shapes
        .iter()
        .map(|(key, shape)| {
            let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
            raw(key, &shape, &weight(&format!("{stem}.{key}"), &shape))
        })
        .collect();
    fs::write(path, tensors_file(&tensors)).unwrap();
}

/// A draw: not normal, but of variance 1.
fn noise(name: &str, n: usize) -> Vec<f32> {
    uniform(name, n).map(|u| (u * 3f64.sqrt()) as f32).collect()
}

/// The same as a tensor.
pub(crate) fn drawn<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = noise(name, shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Writes recorded noise: the start of each stage, and as many steps.
pub(crate) fn write_noise(path: &Path, seed: u64, stages: &[(&str, usize, &[usize])]) {
    let mut tensors = Vec::new();
    for (stage, steps, shape) in stages {
        let names = ["initial".to_string()].into_iter();
        for draw in names.chain((0..*steps).map(|step| format!("step.{step}"))) {
            let key = format!("{stage}.{draw}");
            let values = noise(&format!("{seed}.{key}"), shape.iter().product());
            tensors.push(raw(&key, shape, &values));
        }
    }
    fs::write(path, tensors_file(&tensors)).unwrap();
}

#[test]
fn values_are_those_of_the_reference() {
    // hashed.uniform("decoder.initial", (3,))
    let found: Vec<f64> = uniform("decoder.initial", 3).collect();
    assert_eq!(found, [0.896762490272522, -0.24303531646728516, 0.9293606281280518]);
    // hashed.weight("a.weight", (2, 3))[0, 0], hashed.weight("a.bias", (2,))[0]
    assert_eq!(weight("a.weight", &[2, 3])[0], 0.341_063_62);
    assert_eq!(weight("a.bias", &[2])[0], 0.102_154_255);
}

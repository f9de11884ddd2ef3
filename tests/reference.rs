//! Comparison with what the reference wrote down: traces of runs, and single calls of networks.

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use tempfile::TempDir;
use unclip::Trace;
use unclip::unclip_nn::checkpoint::Weights;

/// How far values may be from the reference's, relative to the largest of these.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    /// Embeddings of captions and pictures, and preprocessed pictures: largest difference.
    pub(crate) clip: f64,
    /// The prior's answer: largest difference.
    pub(crate) prior: f64,
    /// Latents after all steps, where nothing is amplified: largest difference.
    pub(crate) latent: f64,
    /// A single call of a network: largest difference.
    pub(crate) call: f64,
    /// Pictures: median and 99th percentile. The largest difference says nothing: 1/√ᾱ of the
    /// first step is 20,000, and where the rounding of ε decides a sign there is another pixel.
    pub(crate) picture: [f64; 2],
}

/// A trace as its file has it.
pub(crate) struct Saved(Weights);

impl Saved {
    pub(crate) fn of(trace: &Trace) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("trace.safetensors");
        trace.save(&path).unwrap();
        let bytes = fs::read(&path).unwrap().leak();
        Self(Weights::embedded("trace", bytes).unwrap())
    }

    /// Compares everything with a trace of the reference, which has these entries.
    pub(crate) fn agrees(&self, path: &Path, keys: &[&str], tolerance: Tolerance) {
        let expected = Self(Weights::open(path).unwrap());
        let mut keys = keys.to_vec();
        keys.sort();
        assert_eq!(expected.0.keys(), keys);
        self.agrees_with(&expected, &path.display().to_string(), tolerance);
    }

    /// Compares these entries with those of a trace of the reference.
    pub(crate) fn agrees_in(&self, path: &Path, keys: &[&str], tolerance: Tolerance) {
        let expected = Self(Weights::open(path).unwrap());
        keys.iter().for_each(|key| assert!(expected.0.keys().contains(&key.to_string()), "{key}"));
        self.agrees_on(&expected, keys, &path.display().to_string(), tolerance);
    }

    /// Compares everything with another trace.
    pub(crate) fn agrees_with(&self, expected: &Self, name: &str, tolerance: Tolerance) {
        assert_eq!(self.0.keys(), expected.0.keys());
        let keys = expected.0.keys();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.agrees_on(expected, &keys, name, tolerance);
    }

    fn agrees_on(&self, expected: &Self, keys: &[&str], name: &str, tolerance: Tolerance) {
        let mut failures = Vec::new();
        for &key in keys {
            let differences = self.differences(&expected.0, key);
            let quantile = |q: f64| differences[(q * (differences.len() - 1) as f64) as usize];
            let [median, high, worst] = [0.5, 0.99, 1.0].map(quantile);
            let line =
                format!("{name} {key}: median {median:.1e}, 99 % {high:.1e}, all {worst:.1e}");
            println!("{line}");
            let within = match key {
                "text_encoder.mask" => worst == 0.0,
                "prior.embedding" | "prior.negative_embedding" => worst <= tolerance.prior,
                "decoder.latent" => worst <= tolerance.latent,
                key if key.ends_with(".image") => {
                    median <= tolerance.picture[0] && high <= tolerance.picture[1]
                }
                _ => worst <= tolerance.clip,
            };
            failures.extend((!within).then_some(line));
        }
        assert!(failures.is_empty(), "{tolerance:?}: {failures:#?}");
    }

    pub(crate) fn differences(&self, expected: &Weights, key: &str) -> Vec<f64> {
        assert_eq!(self.0.shape(key), expected.shape(key), "{key}");
        let read = |weights: &Weights| weights.read(key).unwrap().unwrap();
        differences(&read(&self.0), &read(expected))
    }
}

/// Absolute differences relative to the largest expected value, in order of size.
fn differences(found: &[f32], expected: &[f32]) -> Vec<f64> {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(0.0f64, |scale, &v| scale.max(v.abs().into()));
    let pairs = found.iter().zip(expected);
    let mut differences: Vec<f64> =
        pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs() / scale).collect();
    differences.sort_by(f64::total_cmp);
    differences
}

/// Inputs and outputs of single network calls.
pub(crate) struct Calls {
    pub(crate) file: Weights,
    pub(crate) device: Device,
}

impl Calls {
    pub(crate) fn tensor<const D: usize>(&self, key: &str) -> Tensor<D> {
        let values = self.file.read(key).unwrap().unwrap();
        let shape = self.file.shape(key).unwrap().to_vec();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// One timestep for all rows.
    pub(crate) fn timesteps(&self, network: &str, rows: usize) -> Tensor<1> {
        let key = format!("{network}.input.timestep");
        let timestep = self.file.read(&key).unwrap().unwrap()[0];
        Tensor::full([rows], timestep, &self.device)
    }

    pub(crate) fn agree<const D: usize>(&self, key: &str, found: Tensor<D>, tolerance: Tolerance) {
        let expected = self.tensor::<D>(key);
        assert_eq!(found.dims(), expected.dims(), "{key}");
        let [found, expected] =
            [found, expected].map(|x| x.into_data().iter::<f32>().collect::<Vec<_>>());
        let worst = differences(&found, &expected).pop().unwrap();
        println!("{key}: {worst:.1e}");
        assert!(worst <= tolerance.call, "{key}: {worst:.1e}");
    }
}

//! Numbers of the bundled model, against those that were written down.

use std::path::Path;

use unclip::unclip_nn::Precision;
use unclip::unclip_nn::checkpoint::{Weights, save_tensors};
use unclip::{GenerateOptions, StageOptions, Trace, UnClip};

use crate::AnyError;

/// What `--record` wrote on the CPU; a test compares it with what the CPU computes today.
const GOLDEN: &[u8] = include_bytes!("golden.safetensors");

/// Pixels of large pictures are averaged over squares of this side.
const SQUARE: usize = 16;

/// One number for each place: median and 99th percentile of the differences, relative to the largest value.
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) median: f64,
    pub(crate) high: f64,
}

impl Found {
    /// A rounding that decides a sign gives another pixel, so that the largest difference says nothing.
    pub(crate) fn agrees(&self, precision: Precision) -> bool {
        let [median, high] = match precision {
            Precision::F32 => [1e-5, 1e-3],
            Precision::F16 | Precision::BF16 => [2e-2, 2e-1],
        };
        self.median <= median && self.high <= high
    }
}

/// Few steps: long enough for every operation, and too short for rounding to grow into another picture.
pub(crate) fn trace(unclip: &UnClip) -> Result<Trace, AnyError> {
    let stage = |steps| StageOptions::default().with_steps(steps);
    let options = GenerateOptions::default().with_seed(3).with_prior(stage(2));
    let options = options.with_decoder(stage(2)).with_upsampler(stage(1));
    Ok(unclip.text_to_image("a large red circle above a small blue square", &options)?.trace)
}

/// Writes a trace as what others are compared with.
pub(crate) fn record(trace: &Trace, path: &Path) -> Result<(), AnyError> {
    let tensors: Vec<_> = numbers(trace)
        .into_iter()
        .map(|(name, values)| (name.to_string(), vec![values.len()], values))
        .collect();
    Ok(save_tensors(path, &tensors, &[])?)
}

/// Compares a trace with what was written.
pub(crate) fn compare(trace: &Trace) -> Result<Vec<Found>, AnyError> {
    let golden = Weights::embedded("golden.safetensors", GOLDEN)?;
    let mut all = Vec::new();
    for (name, found) in numbers(trace) {
        let expected =
            golden.read(name)?.ok_or_else(|| format!("golden.safetensors: no {name}"))?;
        all.push(differences(name, &found, &expected)?);
    }
    Ok(all)
}

fn numbers(trace: &Trace) -> Vec<(&'static str, Vec<f32>)> {
    let mut all = Vec::new();
    if let Some(text) = &trace.text {
        all.push(("caption's embedding", text.pooled.to_data().iter().collect()));
    }
    if let Some(image) = &trace.prior {
        all.push(("prior's embedding", image.0.to_data().iter().collect()));
    }
    if let Some(picture) = &trace.decoder {
        all.push(("decoder's picture", picture.to_data().iter().collect()));
    }
    if let Some(picture) = trace.upsamplers.last() {
        let [_, channels, height, width] = picture.dims();
        let [high, wide] = [height / SQUARE, width / SQUARE];
        let means = picture.clone().reshape([channels, high, SQUARE, wide, SQUARE]);
        let means = means.mean_dim(4).mean_dim(2);
        all.push(("large picture", means.to_data().iter().collect()));
    }
    all
}

fn differences(name: &str, found: &[f32], expected: &[f32]) -> Result<Found, AnyError> {
    if found.len() != expected.len() || found.is_empty() {
        let [found, expected] = [found.len(), expected.len()];
        return Err(format!("{name}: {found} values, expected {expected}").into());
    }
    let scale = expected.iter().fold(0.0f64, |scale, &it| scale.max(it.abs().into()));
    let pairs = found.iter().zip(expected);
    let mut all: Vec<f64> =
        pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)).abs() / scale).collect();
    all.sort_by(f64::total_cmp);
    let quantile = |q: f64| all[(q * (all.len() - 1) as f64) as usize];
    Ok(Found { name: name.into(), median: quantile(0.5), high: quantile(0.99) })
}

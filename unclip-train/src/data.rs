//! Batches of the shapes world, and the random draws of a training step. Both follow from seed and
//! step alone, so that a resumed run sees what an uninterrupted one would have seen.

use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use crate::shapes::{Region, Sample, Scene, ShapesWorld, render_into};

/// The samples of a training step.
pub fn batch(world: &ShapesWorld, step: u64, size: usize) -> Vec<Sample> {
    let first = step * size as u64;
    (first..first + size as u64).map(|index| world.sample(index)).collect()
}

/// Pictures, or parts of pictures, as `[batch, 3, height, width]` in [−1, 1].
///
/// # Panics
/// If the parts differ in size, or there is none.
pub fn pictures(parts: &[(&Scene, Region)], device: &Device) -> Tensor<4> {
    let (_, first) = parts[0];
    let area = first.area();
    let mut values = vec![0.0f32; parts.len() * 3 * area];
    values.par_chunks_mut(3 * area).zip(parts).for_each(|(planes, (scene, region))| {
        render_into(scene, *region, planes);
    });
    let shape = [parts.len(), 3, first.height as usize, first.width as usize];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Whole pictures of some samples: `[batch, 3, side, side]` in [−1, 1].
pub fn whole_pictures(samples: &[Sample], side: u32, device: &Device) -> Tensor<4> {
    let parts: Vec<_> = samples.iter().map(|s| (&s.scene, Region::whole(side))).collect();
    pictures(&parts, device)
}

/// The random draws of one training step.
#[derive(Debug)]
pub struct Draws(ChaCha8Rng);

impl Draws {
    /// The draws of `step` in a run with this seed.
    pub fn new(seed: u64, step: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(step);
        Self(rng)
    }

    /// `n` whole numbers below `end`.
    pub fn below(&mut self, n: usize, end: usize) -> Vec<usize> {
        (0..n).map(|_| self.0.random_range(0..end)).collect()
    }

    /// One true with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }

    /// Standard normal noise.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let n = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| StandardNormal.sample(&mut self.0)).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }

    /// `[batch, 1]` of ones, and zeros with the given probability.
    pub fn keep(&mut self, batch: usize, drop: f64, device: &Device) -> Tensor<2> {
        let values: Vec<f32> =
            (0..batch).map(|_| if self.chance(drop) { 0.0 } else { 1.0 }).collect();
        Tensor::from_data(TensorData::new(values, [batch, 1]), device)
    }
}

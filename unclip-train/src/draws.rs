//! The random draws of a training step. They follow from seed and step alone, so that a resumed run sees what
//! an uninterrupted one would have seen.

use burn::tensor::TensorData;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

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

    /// `n` streams of draws of their own, one for each item of a batch.
    pub fn split(&mut self, n: usize) -> Vec<Self> {
        (0..n).map(|_| Self(ChaCha8Rng::from_rng(&mut self.0))).collect()
    }

    /// Uniform in a range.
    pub fn within(&mut self, range: std::ops::Range<f32>) -> f32 {
        self.0.random_range(range)
    }

    /// `n` standard normal numbers.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| StandardNormal.sample(&mut self.0)).collect()
    }

    /// `n` whole numbers below `end`.
    pub fn below(&mut self, n: usize, end: usize) -> Vec<usize> {
        (0..n).map(|_| self.0.random_range(0..end)).collect()
    }

    /// `n` whole numbers below `end`, one from each n-th part of the range, in random order: as
    /// random as [`below`](Self::below) one by one, and together without clusters or gaps.
    pub fn spread(&mut self, n: usize, end: usize) -> Vec<usize> {
        let part = end as f64 / n as f64;
        let lot = |at| ((at as f64 + f64::from(self.within(0.0..1.0))) * part) as usize;
        let mut numbers: Vec<usize> = (0..n).map(lot).map(|at| at.min(end - 1)).collect();
        numbers.shuffle(&mut self.0);
        numbers
    }

    /// A whole number from `least` to `most`, both included.
    pub fn between(&mut self, least: usize, most: usize) -> usize {
        self.0.random_range(least..=most)
    }

    /// Puts things into a random order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        things.shuffle(&mut self.0);
    }

    /// One true with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }

    /// Standard normal noise.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D]) -> TensorData {
        TensorData::new(self.normals(shape.iter().product()), shape)
    }

    /// True with the given probability, for each item of a batch.
    pub fn chances(&mut self, batch: usize, probability: f64) -> Vec<bool> {
        (0..batch).map(|_| self.chance(probability)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_numbers_leave_no_gap() {
        let mut draws = Draws::new(1, 2);
        let numbers = draws.spread(32, 1000);
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        assert_ne!(numbers, sorted);
        for (part, number) in sorted.into_iter().enumerate() {
            let (from, to) = (part as f64 * 31.25, (part + 1) as f64 * 31.25);
            assert!(number as f64 > from - 1.0 && (number as f64) < to, "{number} in part {part}");
        }
        assert_eq!(draws.spread(3, 1), [0, 0, 0]);
    }
}

//! Batches of the shapes world, and the random draws of a training step. Both follow from seed and
//! step alone, so that a resumed run sees what an uninterrupted one would have seen.

use burn::tensor::TensorData;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use unclip_shapes::{Region, Sample, Scene, ShapesWorld, render_into};

/// The samples of a training step: half random, half in groups of four that differ in one thing
/// and whose captions name everything.
pub fn mixed_batch(world: &ShapesWorld, step: u64, size: usize) -> Vec<Sample> {
    let first = step * size as u64;
    let groups = (size / 2).div_ceil(4) as u64;
    let mut samples: Vec<Sample> =
        (0..groups).flat_map(|n| world.contrasts(first + n)).take(size / 2).collect();
    let rest = size - samples.len();
    samples.extend((0..rest as u64).map(|n| world.sample(first + n)));
    samples
}

/// Steps at the beginning in which CLIP sees nothing but scenes beside their opposites.
///
/// What lies where is a plateau, and it has to be broken first: a batch of nothing else makes it
/// the only thing by which captions can be told apart.
const OPPOSITES_FIRST: u64 = 600;

/// The samples of a step of CLIP's training: two objects beside the same two the other way around;
/// later one fifth of those, half in groups of four that differ in one thing, the rest random.
pub fn contrasting_batch(world: &ShapesWorld, step: u64, size: usize) -> Vec<Sample> {
    let first = step * size as u64;
    let (opposites, contrasts) = match step {
        0..OPPOSITES_FIRST => (size, 0),
        _ => (size / 5, size / 2),
    };
    let at = |n: usize| first + n as u64;
    let mut samples: Vec<Sample> =
        (0..opposites.div_ceil(2)).flat_map(|n| world.opposites(at(n))).collect();
    samples.extend((0..contrasts.div_ceil(4)).flat_map(|n| world.contrasts(at(n))));
    samples.truncate(size);
    let rest = size - samples.len();
    samples.extend((0..rest).map(|n| world.sample(at(n))));
    samples
}

/// Pictures, or parts of pictures, as `[batch, 3, height, width]` in [−1, 1].
///
/// # Panics
/// If the parts differ in size, or there is none.
pub fn pictures(parts: &[(&Scene, Region)]) -> TensorData {
    let (_, first) = parts[0];
    let area = first.area();
    let mut values = vec![0.0f32; parts.len() * 3 * area];
    values.par_chunks_mut(3 * area).zip(parts).for_each(|(planes, (scene, region))| {
        render_into(scene, *region, planes);
    });
    TensorData::new(values, [parts.len(), 3, first.height as usize, first.width as usize])
}

/// Whole pictures of some samples: `[batch, 3, side, side]` in [−1, 1].
pub fn whole_pictures(samples: &[Sample], side: u32) -> TensorData {
    let parts: Vec<_> = samples.iter().map(|s| (&s.scene, Region::whole(side))).collect();
    pictures(&parts)
}

/// `[batch, 1]` of ones, and zeros where `dropped`.
pub fn kept(dropped: &[bool]) -> TensorData {
    let values: Vec<f32> = dropped.iter().map(|&drop| if drop { 0.0 } else { 1.0 }).collect();
    TensorData::new(values, [dropped.len(), 1])
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
    use unclip_shapes::Layout;

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

    #[test]
    fn lessons_begin_with_opposites_and_go_on_mixed() {
        let world = ShapesWorld::new(3);
        let pairs = |samples: &[Sample]| {
            let pair = |sample: &&Sample| matches!(sample.scene.layout, Layout::Pair { .. });
            samples.iter().filter(pair).count()
        };
        let first = contrasting_batch(&world, 0, 64);
        assert_eq!((first.len(), pairs(&first)), (64, 64));
        let later = contrasting_batch(&world, OPPOSITES_FIRST, 64);
        assert_eq!(later.len(), 64);
        assert!((20..60).contains(&pairs(&later)), "{}", pairs(&later));
        assert_ne!(later, contrasting_batch(&world, OPPOSITES_FIRST + 1, 64));
    }

    #[test]
    fn batches_of_any_size_are_full_and_follow_from_the_step() {
        let world = ShapesWorld::new(3);
        for size in [1, 2, 5, 32] {
            for step in [0, 1, OPPOSITES_FIRST] {
                assert_eq!(contrasting_batch(&world, step, size).len(), size);
                assert_eq!(mixed_batch(&world, step, size).len(), size);
                assert_eq!(mixed_batch(&world, step, size), mixed_batch(&world, step, size));
            }
        }
    }
}

//! The source of all randomness in sampling. Nothing else draws any.

use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// Which draw is requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// x_T, the start of sampling.
    Initial,
    /// The noise of the reverse step at this [`Step::index`](crate::Step::index).
    Step(usize),
}

/// A source of standard normal noise, drawn on the host so that it is the same on every backend.
pub trait NoiseSource {
    /// Noise of the given shape, `[batch, ..]`, in row-major order.
    fn draw(&mut self, draw: Draw, shape: &[usize]) -> TensorData;
}

impl dyn NoiseSource + '_ {
    /// A draw as a tensor on `device`.
    pub fn tensor<const D: usize>(
        &mut self,
        draw: Draw,
        shape: [usize; D],
        device: &Device,
    ) -> Tensor<D> {
        Tensor::from_data(self.draw(draw, &shape), device)
    }

    /// A draw as numbers that are equally likely anywhere from 0 to 1: the normal distribution's
    /// distribution function of the noise.
    pub fn uniform<const D: usize>(
        &mut self,
        draw: Draw,
        shape: [usize; D],
        device: &Device,
    ) -> Tensor<D> {
        let z = self.tensor(draw, shape, device);
        (z * std::f64::consts::FRAC_1_SQRT_2).erf() * 0.5 + 0.5
    }
}

/// Portable seeded noise: one stream per row of the batch.
///
/// Row k depends on seed k and the stream alone, so an image is the same regardless of the backend,
/// the number of threads, and the batch in which it is made.
#[derive(Debug)]
pub struct SeededNoise {
    rows: Vec<ChaCha8Rng>,
}

impl SeededNoise {
    /// One row per seed. `stream` keeps the stages of one picture apart: use a different number
    /// for each.
    pub fn new(seeds: &[u64], stream: u64) -> Self {
        let rows = seeds
            .iter()
            .map(|&seed| {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                rng.set_stream(stream);
                rng
            })
            .collect();
        Self { rows }
    }
}

impl NoiseSource for SeededNoise {
    /// Draws each row from its own stream.
    ///
    /// # Panics
    /// If the batch size is not the number of seeds.
    fn draw(&mut self, _: Draw, shape: &[usize]) -> TensorData {
        assert_eq!(shape[0], self.rows.len(), "one seed for each row of the batch");
        let per_row: usize = shape[1..].iter().product();
        let mut values = Vec::with_capacity(per_row * shape[0]);
        for rng in &mut self.rows {
            let row: &mut ChaCha8Rng = rng;
            values.extend((0..per_row).map(|_| -> f32 { StandardNormal.sample(row) }));
        }
        TensorData::new(values, shape.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(data: &TensorData, row: usize, len: usize) -> Vec<f32> {
        data.try_to_vec::<f32>().unwrap()[row * len..(row + 1) * len].to_vec()
    }

    #[test]
    fn a_row_does_not_depend_on_its_batch() {
        let mut batch = SeededNoise::new(&[7, 8, u64::MAX], 1);
        let mut alone = SeededNoise::new(&[8], 1);
        for draw in [Draw::Initial, Draw::Step(3), Draw::Step(2)] {
            let together = batch.draw(draw, &[3, 2, 5]);
            assert_eq!(row(&together, 1, 10), row(&alone.draw(draw, &[1, 2, 5]), 0, 10));
        }
    }

    #[test]
    fn streams_and_seeds_differ() {
        let draw = |seed, stream| SeededNoise::new(&[seed], stream).draw(Draw::Initial, &[1, 4]);
        assert_ne!(draw(0, 0), draw(1, 0));
        assert_ne!(draw(0, 0), draw(0, 1));
        assert_eq!(draw(0, 0), draw(0, 0));
    }

    #[test]
    fn the_stream_is_pinned_for_ever() {
        let values = SeededNoise::new(&[42], 0).draw(Draw::Initial, &[1, 3]);
        let values = values.try_to_vec::<f32>().unwrap();
        assert_eq!(values, [0.477_981_24, 1.334_070_6, -0.210_866_69]);
    }

    #[test]
    fn uniform_numbers_are_spread_evenly() {
        let mut noise = SeededNoise::new(&[1], 0);
        let noise: &mut dyn NoiseSource = &mut noise;
        let device = Device::flex();
        let values = noise.uniform(Draw::Initial, [1, 100_000], &device).into_data();
        let mut tenths = [0; 10];
        values.iter::<f32>().for_each(|v| tenths[((v * 10.0) as usize).min(9)] += 1);
        assert!(tenths.iter().all(|n| (9_700..10_300).contains(n)), "{tenths:?}");
    }

    #[test]
    fn noise_is_standard_normal() {
        let n = 100_000;
        let values = SeededNoise::new(&[1], 0).draw(Draw::Initial, &[1, n]);
        let values = values.try_to_vec::<f32>().unwrap();
        let mean = values.iter().sum::<f32>() / n as f32;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n as f32;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}

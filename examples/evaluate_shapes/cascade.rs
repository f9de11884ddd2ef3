//! What the upsamplers add: to true small pictures, and to the flat parts of made ones.

use std::fmt;

use image::RgbImage;
use unclip::Error;
use unclip::train::shapes::{Object, Sample, Test, read, render};
use unclip::unclip_core::image::{psnr, to_rgb, to_tensor};
use unclip::unclip_core::resize::bicubic;

use crate::{Evaluation, is_right};

/// How far from an object the background counts as flat, as a share of the side.
const MARGIN: f32 = 0.06;

pub(crate) struct Cascade {
    side: u32,
    /// Mean peak signal-to-noise ratio against the true large picture: of the cascade and of
    /// bicubic resizing, in dB.
    psnr: [f64; 2],
    scenes: usize,
    /// Standard deviation of made pictures on their background, in units of [−1, 1]: the mean over
    /// pictures, and the largest.
    flatness: [f64; 2],
    pictures: usize,
}

pub(crate) fn measure(evaluation: &Evaluation) -> Result<Cascade, Error> {
    let n = evaluation.captions;
    evaluation.begin("upsamplers", 2 * n);
    let (mut psnr, mut flatness) = (Vec::new(), Vec::new());
    for indices in evaluation.large_batches(n) {
        let test = |index| if index % 2 == 0 { Test::SingleSeen } else { Test::Pair };
        let samples: Vec<Sample> =
            indices.iter().map(|&i| evaluation.world.test_sample(test(i), i)).collect();
        psnr.extend(evaluation.psnr(&samples, &indices)?);
        evaluation.bar.inc(samples.len() as u64);
        let pictures = evaluation.drawn(&samples, &indices)?;
        flatness.extend(samples.iter().zip(&pictures).filter_map(flatness_of));
        evaluation.bar.inc(samples.len() as u64);
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let column = |at: usize| psnr.iter().map(|pair: &[f64; 2]| pair[at]).collect::<Vec<_>>();
    Ok(Cascade {
        side: evaluation.unclip.bundle().image_size() as u32,
        psnr: [0, 1].map(|at| mean(&column(at))),
        scenes: psnr.len(),
        flatness: [mean(&flatness), flatness.iter().copied().fold(0.0, f64::max)],
        pictures: flatness.len(),
    })
}

impl Evaluation {
    /// Of the cascade and of bicubic resizing, on true small pictures.
    fn psnr(&self, samples: &[Sample], indices: &[u64]) -> Result<Vec<[f64; 2]>, Error> {
        let bundle = self.unclip.bundle();
        let low = bundle.small_size() as u32;
        let high = bundle.image_size();
        let drawn = |side: u32| samples.iter().map(|s| render(&s.scene, side)).collect::<Vec<_>>();
        let (small, large) = (to_tensor(&drawn(low), &self.unclip.device()), drawn(high as u32));
        let plain = to_rgb(bicubic(small.clone(), high, high));
        let mut run = self.unclip.run(indices);
        let made = to_rgb(run.upsample(small, &self.upsample)?);
        let rows = large.iter().zip(made.iter().zip(&plain));
        let decibels = |(truth, (made, plain))| [psnr(truth, made), psnr(truth, plain)];
        Ok(rows.map(decibels).collect())
    }
}

/// How flat the background of a picture is, if it shows what it should.
fn flatness_of((sample, picture): (&Sample, &RgbImage)) -> Option<f64> {
    let objects = read(picture).objects;
    is_right(sample, picture).then(|| deviation(picture, |at| is_ground(&objects, at)))
}

/// Whether a point lies well outside of every object.
fn is_ground(objects: &[Object], [x, y]: [f32; 2]) -> bool {
    objects.iter().all(|object| {
        let [left, top, right, bottom] = object.bounds();
        x < left - MARGIN || x > right + MARGIN || y < top - MARGIN || y > bottom + MARGIN
    })
}

/// The standard deviation of the pixels at some places around their mean color, in units of
/// [−1, 1].
fn deviation(picture: &RgbImage, counts: impl Fn([f32; 2]) -> bool) -> f64 {
    let side = picture.width() as f32;
    let pixels = picture
        .enumerate_pixels()
        .filter(|&(x, y, _)| counts([x, y].map(|at| (at as f32 + 0.5) / side)));
    let (mut n, mut sums, mut squares) = (0.0, [0.0; 3], [0.0; 3]);
    for (_, _, pixel) in pixels {
        n += 1.0;
        for channel in 0..3 {
            let value = f64::from(pixel[channel]) / 127.5;
            sums[channel] += value;
            squares[channel] += value * value;
        }
    }
    let variance = |channel: usize| {
        let mean: f64 = sums[channel] / f64::max(n, 1.0);
        squares[channel] / f64::max(n, 1.0) - mean * mean
    };
    ([0, 1, 2].map(variance).iter().sum::<f64>() / 3.0).max(0.0).sqrt()
}

impl fmt::Display for Cascade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [made, plain] = self.psnr;
        writeln!(
            f,
            "true small pictures to {} px ({} scenes): {made:.1} dB, bicubic {plain:.1} dB, {:+.1} dB",
            self.side,
            self.scenes,
            made - plain
        )?;
        let [mean, most] = self.flatness;
        writeln!(
            f,
            "deviation on the background of {} right pictures at {} px: mean {mean:.4}, largest {most:.4}",
            self.pictures, self.side
        )
    }
}

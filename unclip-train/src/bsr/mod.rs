//! Degrading pictures as photographs are degraded: blurred, shrunk, noisy, saved as JPEG, in random order
//! (BSRGAN, Zhang et al. 2021), which the paper (section 2.3) trains its larger upsampler against.
//!
//! Both public variants are those of latent diffusion's `image_degradation`; which of them the paper used is
//! not said. Its camera pipeline is left out, as it is there where no model of a camera is given.

mod kernels;
mod planes;

use serde::{Deserialize, Serialize};

use crate::draws::Draws;
use crate::wear::compress;
use kernels::Kernel;
use planes::Interpolation;
pub(crate) use planes::Planes;

/// How the small pictures that an upsampler is trained on are degraded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Degradation {
    /// Half of them are blurred a little, and most have a grain.
    #[default]
    Blur,
    /// Like photographs, strongly: `bsrgan`.
    Bsr,
    /// Like photographs, lightly: `bsrgan_light`.
    BsrLight,
}

/// The numbers in which the two variants differ.
struct Strength {
    /// What the widths of blurs are divided by.
    narrower: f32,
    /// Least and largest size of the kernels of round blurs, and by how much sizes grow.
    round: (usize, usize, usize),
    /// Least and largest size of the kernels of slanted blurs.
    slanted: (usize, usize, usize),
    blurs: usize,
    /// How often pictures are shrunk by interpolation.
    interpolated: f64,
    /// Least and largest noise, of 255.
    noise: (usize, usize),
    quality: (usize, usize),
}

const STRONG: Strength = Strength {
    narrower: 1.0,
    round: (2, 11, 2),
    slanted: (2, 11, 2),
    blurs: 2,
    interpolated: 0.75,
    noise: (2, 25),
    quality: (30, 95),
};

const LIGHT: Strength = Strength {
    narrower: 4.0,
    round: (2, 4, 1),
    slanted: (2, 11, 1),
    blurs: 1,
    interpolated: 0.8,
    noise: (1, 2),
    quality: (80, 95),
};

/// What is done to a picture, in a random order in which shrinking comes before the final size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Blur,
    Shrink,
    Fit,
    Noise,
    Jpeg,
}

impl Degradation {
    /// A large picture, small by a factor and degraded; `None` for [`Blur`](Self::Blur), which is done to
    /// small pictures. The picture's sides are multiples of the factor.
    pub(crate) fn of(self, large: Planes, factor: usize, draws: &mut Draws) -> Option<Planes> {
        let strength = match self {
            Self::Blur => return None,
            Self::Bsr => &STRONG,
            Self::BsrLight => &LIGHT,
        };
        Some(strength.degrade(large, factor, draws))
    }
}

impl Strength {
    fn degrade(&self, mut picture: Planes, factor: usize, draws: &mut Draws) -> Planes {
        let [width, height] = picture.size().map(|side| side / factor);
        let mut left = factor;
        if factor == 4 && draws.chance(0.25) {
            let half = picture.size().map(|side| side / 2);
            let how = if draws.chance(0.5) { any(draws) } else { Interpolation::Smooth };
            picture = picture.resized(half, how).clamped();
            left = 2;
        }
        for act in self.order(draws) {
            picture = match act {
                Act::Blur => self.blur(left, draws).over(&picture),
                Act::Shrink => self.shrink(picture, left, draws),
                Act::Fit => picture.resized([width, height], any(draws)).clamped(),
                Act::Noise => self.noise(picture, draws),
                Act::Jpeg if draws.chance(0.9) => self.jpeg(picture, draws),
                Act::Jpeg => picture,
            };
        }
        self.jpeg(picture, draws)
    }

    fn order(&self, draws: &mut Draws) -> Vec<Act> {
        let mut acts = vec![Act::Blur; self.blurs];
        acts.extend([Act::Shrink, Act::Fit, Act::Noise, Act::Jpeg]);
        draws.shuffle(&mut acts);
        let place = |act| acts.iter().position(|it| *it == act).unwrap_or(0);
        let (shrink, fit) = (place(Act::Shrink), place(Act::Fit));
        if fit < shrink {
            acts.swap(fit, shrink);
        }
        acts
    }

    /// A kernel that blurs: slanted or round.
    fn blur(&self, factor: usize, draws: &mut Draws) -> Kernel {
        let factor = factor as f32;
        let mut size =
            |(least, most, step): (usize, usize, usize)| step * draws.between(least, most) + 3;
        let (slanted, round) = (size(self.slanted), size(self.round));
        if draws.chance(0.5) {
            let width = (4.0 + factor) / self.narrower;
            let angle = draws.within(0.0..std::f32::consts::PI);
            let variances = [(); 2].map(|()| width * draws.within(0.0..1.0));
            Kernel::slanted(slanted, angle, variances)
        } else {
            let width = (2.0 + 0.2 * factor) / self.narrower;
            Kernel::round(round, width * draws.within(0.0..1.0))
        }
    }

    fn shrink(&self, picture: Planes, factor: usize, draws: &mut Draws) -> Planes {
        if draws.chance(self.interpolated) {
            let by = draws.within(1.0..2.0 * factor as f32);
            let size = picture.size().map(|side| ((side as f32 / by) as usize).max(1));
            return picture.resized(size, any(draws)).clamped();
        }
        middles(&picture, factor, draws.within(0.1..0.6 * factor as f32))
    }

    /// Noise in color, in gray, or of any correlation of the channels.
    fn noise(&self, picture: Planes, draws: &mut Draws) -> Planes {
        let (least, most) = self.noise;
        // of a range of 2
        let of = |level: usize| 2.0 * level as f32 / 255.0;
        let level = of(draws.between(least, most));
        let lot = draws.within(0.0..1.0);
        let mix = if lot > 0.6 {
            [[level, 0.0, 0.0], [0.0, level, 0.0], [0.0, 0.0, level]]
        } else if lot < 0.4 {
            [[level, 0.0, 0.0]; 3]
        } else {
            correlated(of(most), draws)
        };
        picture.with_noise(mix, draws).clamped()
    }

    fn jpeg(&self, mut picture: Planes, draws: &mut Draws) -> Planes {
        let (least, most) = self.quality;
        let quality = draws.between(least, most) as u8;
        let [width, height] = picture.size();
        compress(picture.values_mut(), [width, height], quality);
        picture
    }
}

/// A picture under a Gaussian of this width, in the middle of every block of pixels.
fn middles(picture: &Planes, factor: usize, width: f32) -> Planes {
    const SIZE: usize = 25;
    let shift = 0.5 * (factor as f32 - 1.0);
    // a kernel that lies to the left brings what lies to the right
    Kernel::round(SIZE, width).shifted(-shift).over(picture).every(factor)
}

/// A root of a random covariance of three channels, whose eigenvalues are up to the square of a level.
fn correlated(level: f32, draws: &mut Draws) -> [[f32; 3]; 3] {
    let mut basis = [[0.0f32; 3]; 3];
    for row in 0..3 {
        let mut own = [(); 3].map(|()| draws.within(0.0..1.0));
        for before in basis.iter().take(row) {
            let along: f32 = own.iter().zip(before).map(|(a, b)| a * b).sum();
            own.iter_mut().zip(before).for_each(|(a, b)| *a -= along * b);
        }
        let length = own.iter().map(|it| it * it).sum::<f32>().sqrt().max(1e-6);
        basis[row] = own.map(|it| it / length);
    }
    let roots = [(); 3].map(|()| draws.within(0.0..1.0).sqrt());
    // its columns are the axes, each as long as its root
    std::array::from_fn(|channel| {
        std::array::from_fn(|axis| level * roots[axis] * basis[axis][channel])
    })
}

fn any(draws: &mut Draws) -> Interpolation {
    let all = [Interpolation::Linear, Interpolation::Cubic, Interpolation::Area];
    all[draws.between(0, 2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture with edges and a slope.
    fn picture(side: usize) -> Planes {
        let value = |x: usize, y: usize, channel: usize| {
            let edge = if (x / 32 + y / 32).is_multiple_of(2) { 0.6 } else { -0.6 };
            edge + 0.3 * (channel as f32 - 1.0) * x as f32 / side as f32
        };
        Planes::new([side, side], value)
    }

    fn mean(picture: &Planes) -> f32 {
        let values = picture.values();
        values.iter().sum::<f32>() / values.len() as f32
    }

    #[test]
    fn small_pictures_show_what_the_large_ones_showed() {
        for (degradation, least) in [(Degradation::Bsr, 0.4), (Degradation::BsrLight, 0.75)] {
            let mut similarities = Vec::new();
            for seed in 0..40 {
                let large = picture(64);
                let plain = large.clone().resized([16, 16], Interpolation::Smooth);
                let made = degradation.of(large, 4, &mut Draws::new(seed, 1)).expect("degraded");
                assert_eq!(made.size(), [16, 16]);
                assert!(made.values().iter().all(|it| (-1.0..=1.0).contains(it)));
                assert!((mean(&made) - mean(&plain)).abs() < 0.15, "{seed}");
                similarities.push(cosine(made.values(), plain.values()));
                let again = degradation.of(picture(64), 4, &mut Draws::new(seed, 1));
                assert_eq!(again.expect("degraded").values(), made.values());
            }
            let similarity = similarities.iter().sum::<f32>() / 40.0;
            assert!(similarity > least && similarity < 0.999, "{degradation:?}: {similarity}");
        }
        assert!(Degradation::Blur.of(picture(64), 4, &mut Draws::new(1, 1)).is_none());
    }

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    }

    #[test]
    fn pictures_are_shrunk_before_they_get_their_size() {
        let mut first = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let order = STRONG.order(&mut Draws::new(seed, 1));
            assert_eq!(order.len(), 6);
            let place = |act| order.iter().position(|it| *it == act);
            assert!(place(Act::Shrink) < place(Act::Fit), "{order:?}");
            first.insert(format!("{:?}", order[0]));
        }
        assert!(first.len() >= 4, "{first:?}");
    }

    #[test]
    fn what_is_shrunk_stays_where_it_is() {
        let slope = Planes::new([64, 64], |x, y, _| (x as f32 + 2.0 * y as f32) / 200.0 - 0.5);
        let small = middles(&slope, 4, 1.5);
        let expected = slope.clone().resized([16, 16], Interpolation::Area);
        for (x, y) in [(5, 5), (8, 10), (10, 6)] {
            let at = |picture: &Planes| picture.values()[y * 16 + x];
            let far = (at(&small) - at(&expected)).abs();
            assert!(far < 1e-3, "{x} {y}: {} and {}", at(&small), at(&expected));
        }
    }

    #[test]
    fn noise_has_the_covariance_that_is_asked_for() {
        let gray = Planes::new([200, 200], |_, _, _| 0.0);
        let level = 0.02f32;
        let mut draws = Draws::new(1, 1);
        for mix in [[[level, 0.0, 0.0]; 3], correlated(level, &mut draws)] {
            let noisy = gray.clone().with_noise(mix, &mut draws);
            let n = 200 * 200;
            let channel = |c: usize| &noisy.values()[c * n..(c + 1) * n];
            for (a, b) in [(0, 0), (0, 1), (1, 2), (2, 2)] {
                let found = channel(a).iter().zip(channel(b)).map(|(x, y)| x * y).sum::<f32>();
                let expected: f32 = (0..3).map(|axis| mix[a][axis] * mix[b][axis]).sum();
                let error = (found / n as f32 - expected).abs() / (level * level);
                assert!(error < 0.05, "{a} {b}: off by {error}");
            }
        }
    }
}

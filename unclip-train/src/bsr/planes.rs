//! Pictures of three planes in the host's memory.

use crate::draws::Draws;

/// A picture of any size, its channels one after another, in [−1, 1].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planes {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

/// How pictures change their size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interpolation {
    /// Between two pixels, whatever lies between those that are asked for (OpenCV's `INTER_LINEAR`).
    Linear,
    /// Between four pixels, likewise (`INTER_CUBIC`).
    Cubic,
    /// The mean of what a pixel covers (`INTER_AREA`).
    Area,
    /// By cubic kernels as wide as a pixel of the result (Matlab's `imresize`).
    Smooth,
}

/// Pixels and their weights that make a pixel of a result.
type Weights = Vec<(usize, f32)>;

impl Planes {
    /// A picture from its values at column, row and channel.
    pub(crate) fn new(
        [width, height]: [usize; 2],
        value: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let value = &value;
        let row = |channel, y| (0..width).map(move |x| value(x, y, channel));
        let values = (0..3).flat_map(|channel| (0..height).flat_map(move |y| row(channel, y)));
        Self { width, height, values: values.collect() }
    }

    /// Values of three planes.
    pub(crate) fn of([width, height]: [usize; 2], values: Vec<f32>) -> Self {
        assert_eq!(values.len(), 3 * width * height, "three planes");
        Self { width, height, values }
    }

    /// Width and height.
    pub(crate) fn size(&self) -> [usize; 2] {
        [self.width, self.height]
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// A value; beyond an edge that of the pixel as far on this side of it, the edge itself once.
    pub(super) fn mirrored(&self, x: isize, y: isize, channel: usize) -> f32 {
        let within = |at: isize, n: usize| {
            let (n, period) = (n as isize, (2 * n as isize - 2).max(1));
            let at = at.rem_euclid(period);
            (if at < n { at } else { period - at }) as usize
        };
        let (x, y) = (within(x, self.width), within(y, self.height));
        self.values[(channel * self.height + y) * self.width + x]
    }

    pub(super) fn clamped(mut self) -> Self {
        self.values.iter_mut().for_each(|value| *value = value.clamp(-1.0, 1.0));
        self
    }

    /// Every n-th pixel.
    pub(super) fn every(self, n: usize) -> Self {
        let size = self.size().map(|side| side.div_ceil(n));
        Self::new(size, |x, y, channel| {
            self.values[(channel * self.height + y * n) * self.width + x * n]
        })
    }

    /// Adds normal noise: each channel gets its row of `mix` of three noises.
    pub(super) fn with_noise(mut self, mix: [[f32; 3]; 3], draws: &mut Draws) -> Self {
        let n = self.width * self.height;
        for at in 0..n {
            let noise = draws.normals(3);
            for (channel, row) in mix.iter().enumerate() {
                let own: f32 = row.iter().zip(&noise).map(|(a, b)| a * b).sum();
                self.values[channel * n + at] += own;
            }
        }
        self
    }

    /// The same picture in another size.
    pub(super) fn resized(self, size: [usize; 2], how: Interpolation) -> Self {
        if size == self.size() {
            return self;
        }
        let [columns, rows] =
            [(self.width, size[0]), (self.height, size[1])].map(|(from, to)| how.weights(from, to));
        let wide = Self::new([size[0], self.height], |x, y, channel| {
            let row = &self.values[(channel * self.height + y) * self.width..][..self.width];
            columns[x].iter().map(|(at, weight)| row[*at] * weight).sum()
        });
        Self::new(size, |x, y, channel| {
            let column = |at: usize| wide.values[(channel * wide.height + at) * wide.width + x];
            rows[y].iter().map(|(at, weight)| column(*at) * weight).sum()
        })
    }
}

impl Interpolation {
    /// What makes each of `to` pixels of a line of `from`.
    fn weights(self, from: usize, to: usize) -> Vec<Weights> {
        let scale = from as f32 / to as f32;
        let kernel = |x: f32| match self {
            Self::Linear | Self::Area => (1.0 - x.abs()).max(0.0),
            Self::Cubic => cubic(x, -0.75),
            Self::Smooth => cubic(x, -0.5),
        };
        let stretch = if self == Self::Smooth { scale.max(1.0) } else { 1.0 };
        let reach = if matches!(self, Self::Linear | Self::Area) { 1.0 } else { 2.0 } * stretch;
        let line = |at: usize| {
            if self == Self::Area {
                return if scale > 1.0 {
                    covered(at as f32 * scale, (at + 1) as f32 * scale, from)
                } else {
                    enlarged(at as f32, scale, from)
                };
            }
            let middle = (at as f32 + 0.5) * scale - 0.5;
            let first = (middle - reach).ceil() as isize;
            let last = (middle + reach).floor() as isize;
            let last_pixel = from as isize - 1;
            let own = (first..=last).map(|it| {
                let weight = kernel((it as f32 - middle) / stretch);
                (it.clamp(0, last_pixel) as usize, weight)
            });
            normalized(own.collect())
        };
        (0..to).map(line).collect()
    }
}

/// As OpenCV enlarges by area: a pixel of the result is one of the picture, but where two of them meet in
/// it.
fn enlarged(at: f32, scale: f32, from: usize) -> Weights {
    let left = (at * scale).floor();
    let beyond = (at + 1.0) - (left + 1.0) / scale;
    let part = if beyond <= 0.0 { 0.0 } else { beyond.fract() };
    let last = from - 1;
    let left = (left as usize).min(last);
    vec![(left, 1.0 - part), ((left + 1).min(last), part)]
}

/// Pixels as far as they lie between two places.
fn covered(start: f32, end: f32, from: usize) -> Weights {
    let pixels = start as usize..(end.ceil() as usize).min(from);
    let share = |at: usize| (end.min((at + 1) as f32) - start.max(at as f32)).max(0.0);
    normalized(pixels.map(|at| (at, share(at))).collect())
}

fn normalized(mut weights: Weights) -> Weights {
    let sum: f32 = weights.iter().map(|(_, weight)| weight).sum();
    weights.iter_mut().for_each(|(_, weight)| *weight /= sum);
    weights
}

/// Keys' cubic kernel.
fn cubic(x: f32, a: f32) -> f32 {
    let x = x.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Interpolation; 4] =
        [Interpolation::Linear, Interpolation::Cubic, Interpolation::Area, Interpolation::Smooth];

    /// Numbers of OpenCV 5 for the line 0, 1, 4, 9, 16, 25 in half and double size.
    #[test]
    fn sizes_change_as_they_do_elsewhere() {
        let line = |to: usize, how| {
            let squares = Planes::new([6, 1], |x, _, _| (x * x) as f32);
            squares.resized([to, 1], how).values()[..to].to_vec()
        };
        for (how, expected) in [
            (Interpolation::Linear, &[0.5, 6.5, 20.5][..]),
            (Interpolation::Cubic, &[0.21875, 6.125, 21.15625]),
            (Interpolation::Area, &[0.5, 6.5, 20.5]),
            (Interpolation::Linear, &[1.0, 16.0]),
            (Interpolation::Area, &[5.0 / 3.0, 50.0 / 3.0]),
            (
                Interpolation::Linear,
                &[0.0, 0.25, 0.75, 1.75, 3.25, 5.25, 7.75, 10.75, 14.25, 18.25, 22.75, 25.0],
            ),
            (
                Interpolation::Cubic,
                &[
                    -0.10546875,
                    0.12109375,
                    0.45703125,
                    1.609375,
                    2.828125,
                    5.203125,
                    7.234375,
                    10.796875,
                    13.640625,
                    18.777_344,
                    23.207_031,
                    25.949_219,
                ],
            ),
            (
                Interpolation::Area,
                &[0.0, 0.0, 1.0, 1.0, 4.0, 4.0, 9.0, 9.0, 16.0, 16.0, 25.0, 25.0],
            ),
        ] {
            for (found, expected) in line(expected.len(), how).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-4, "{how:?}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn plain_pictures_stay_plain() {
        for (how, size) in ALL.into_iter().flat_map(|how| [(how, [3, 17]), (how, [29, 5])]) {
            let plain = Planes::new([11, 9], |_, _, channel| 0.25 * channel as f32);
            let made = plain.resized(size, how);
            let expected = Planes::new(size, |_, _, channel| 0.25 * channel as f32);
            let close = made.values().iter().zip(expected.values());
            assert!(close.into_iter().all(|(a, b)| (a - b).abs() < 1e-6), "{how:?}");
        }
    }

    #[test]
    fn edges_are_mirrors() {
        let line = Planes::new([4, 1], |x, _, _| x as f32);
        let found: Vec<f32> = (-4..8).map(|x| line.mirrored(x, 0, 0)).collect();
        assert_eq!(found, [2.0, 3.0, 2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 2.0, 1.0, 0.0, 1.0]);
    }
}

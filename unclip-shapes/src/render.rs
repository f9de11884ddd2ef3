//! Draws scenes.
//!
//! By definition a picture is drawn at four times its side, without smoothing, and averaged over
//! 4x4 samples; later objects cover earlier ones. This file computes exactly that without drawing
//! the large picture: a row of samples cuts each outline into at most two runs, and a run changes
//! the four-fold sums of its pixels in a way that two steps of a running sum describe.

use image::RgbImage;

use super::palette::Shape;
use super::scene::Scene;

/// Part of a picture.
///
/// The picture is `side` x `side` pixels; the part begins at pixel (`x`, `y`). It may reach over
/// the border, where there is only background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Region {
    /// Width and height of the whole picture.
    pub side: u32,
    /// First column of the part.
    pub x: u32,
    /// First row of the part.
    pub y: u32,
    /// Columns of the part.
    pub width: u32,
    /// Rows of the part.
    pub height: u32,
}

/// Samples per pixel in each direction.
const SAMPLES: i64 = 4;

impl Region {
    /// All of a picture.
    pub const fn whole(side: u32) -> Self {
        Self { side, x: 0, y: 0, width: side, height: side }
    }

    /// Number of pixels.
    pub const fn area(&self) -> usize {
        self.width as usize * self.height as usize
    }
}

/// Draws a whole picture.
pub fn render(scene: &Scene, side: u32) -> RgbImage {
    render_region(scene, Region::whole(side))
}

/// Draws part of a picture: the same bytes as that part of the whole picture has.
pub fn render_region(scene: &Scene, region: Region) -> RgbImage {
    let mut image = RgbImage::new(region.width, region.height);
    let mut rows = image.chunks_exact_mut(3 * (region.width as usize).max(1));
    paint(scene.background.rgb(), &figures(scene), region, |_, pixels| {
        rows.next().into_iter().for_each(|row| row.copy_from_slice(pixels.as_flattened()));
    });
    image
}

/// Draws part of a picture for a network: the bytes of [`render_region`] as `byte / 127.5 - 1`.
///
/// # Shapes
///
/// `out`: `[3, height, width]` of the region, in [-1, 1].
///
/// # Panics
///
/// If `out` has another length.
pub fn render_into(scene: &Scene, region: Region, out: &mut [f32]) {
    let (area, width) = (region.area(), region.width as usize);
    assert_eq!(out.len(), 3 * area, "length of the buffer, 3 x height x width");
    let (red, rest) = out.split_at_mut(area);
    let (green, blue) = rest.split_at_mut(area);
    let mut planes = [red, green, blue];
    paint(scene.background.rgb(), &figures(scene), region, |row, pixels| {
        for (channel, plane) in planes.iter_mut().enumerate() {
            let values = &mut plane[row * width..][..width];
            for (value, pixel) in values.iter_mut().zip(pixels) {
                *value = f32::from(pixel[channel]) / 127.5 - 1.0;
            }
        }
    });
}

/// Draws one outline in 255 on 0.
pub(super) fn coverage(shape: Shape, center: [f64; 2], radius: f64, region: Region) -> Vec<u8> {
    let mut out = Vec::with_capacity(region.area());
    let figure = Figure { shape, center, radius, rgb: [255; 3] };
    paint([0; 3], &[figure], region, |_, row| out.extend(row.iter().map(|pixel| pixel[0])));
    out
}

/// One outline with its color.
struct Figure {
    shape: Shape,
    center: [f64; 2],
    radius: f64,
    rgb: [u8; 3],
}

/// The samples from `start` to before `end` in one row of samples.
#[derive(Clone, Copy)]
struct Run {
    start: i64,
    end: i64,
    rgb: [u8; 3],
}

/// The objects of a scene in the order of drawing.
fn figures(scene: &Scene) -> Vec<Figure> {
    let figure = |object: &super::scene::Object| Figure {
        shape: object.shape,
        center: object.center.map(f64::from),
        radius: f64::from(object.radius),
        rgb: object.color.rgb(),
    };
    scene.objects().iter().map(figure).collect()
}

/// Draws row by row and hands over each with its number in the region.
fn paint(
    background: [u8; 3],
    figures: &[Figure],
    region: Region,
    mut emit: impl FnMut(usize, &[[u8; 3]]),
) {
    let mut pixels = vec![background; region.width as usize];
    let mut runs = Vec::new();
    let mut row = Row { background, plain: true, steps: vec![[0; 3]; pixels.len() + 1] };
    for y in 0..region.height as usize {
        let first = (i64::from(region.y) + y as i64) * SAMPLES;
        for sample in first..first + SAMPLES {
            runs.clear();
            figures.iter().for_each(|figure| figure.cut(sample, region.side, &mut runs));
            runs.iter().for_each(|run| row.add(run, region.x));
        }
        row.finish(&mut pixels);
        emit(y, &pixels);
    }
}

impl Figure {
    /// Lays the runs of a row of samples over those that are there.
    fn cut(&self, sample: i64, side: u32, runs: &mut Vec<Run>) {
        let scale = f64::from(side) * SAMPLES as f64;
        let y = (sample as f64 + 0.5) / scale;
        let Some(cut) = self.shape.cut((y - self.center[1]) / self.radius) else { return };
        // A sample lies in the middle of its cell, so this is the first one not left of `x`.
        let sample_at = |x: f64| ((self.center[0] + x * self.radius) * scale - 0.5).ceil() as i64;
        let run = |from, to| Run { start: sample_at(from), end: sample_at(to), rgb: self.rgb };
        if cut.start > 0.0 {
            lay(runs, run(-cut.end, -cut.start));
            lay(runs, run(cut.start, cut.end));
        } else {
            lay(runs, run(-cut.end, cut.end));
        }
    }
}

/// Adds a run and takes what it covers from the others.
fn lay(runs: &mut Vec<Run>, run: Run) {
    for index in 0..runs.len() {
        let under = &mut runs[index];
        let tail = Run { start: under.start.max(run.end), ..*under };
        under.end = under.end.min(run.start);
        if tail.start < tail.end {
            runs.push(tail);
        }
    }
    runs.retain(|run| run.start < run.end);
    runs.push(run);
}

/// A row of pixels in the making.
struct Row {
    background: [u8; 3],
    /// Nothing but background so far.
    plain: bool,
    /// By how much the sum over a pixel's samples is larger than that of the pixel before.
    steps: Vec<[i16; 3]>,
}

impl Row {
    /// Puts a run in place of the background; `x` is the first column of the region.
    fn add(&mut self, run: &Run, x: u32) {
        let columns = self.steps.len() as i64 - 1;
        let offset = i64::from(x) * SAMPLES;
        let local = |sample: i64| sample.saturating_sub(offset).clamp(0, columns * SAMPLES);
        let (start, end) = (local(run.start), local(run.end));
        if start < end {
            self.plain = false;
            self.step(start, run.rgb, 1);
            self.step(end, run.rgb, -1);
        }
    }

    /// From `sample` on, each sample is of another color: `sign` is 1 to enter, -1 to leave.
    fn step(&mut self, sample: i64, rgb: [u8; 3], sign: i16) {
        let (pixel, skipped) = ((sample / SAMPLES) as usize, (sample % SAMPLES) as i16);
        for (channel, value) in rgb.into_iter().enumerate() {
            let change = sign * (i16::from(value) - i16::from(self.background[channel]));
            self.steps[pixel][channel] += (SAMPLES as i16 - skipped) * change;
            if skipped > 0 {
                self.steps[pixel + 1][channel] += skipped * change;
            }
        }
    }

    /// Averages into pixels, rounding to nearest, and starts the next row.
    fn finish(&mut self, pixels: &mut [[u8; 3]]) {
        const AREA: i16 = (SAMPLES * SAMPLES) as i16;
        if self.plain {
            return pixels.fill(self.background);
        }
        let mut sums = self.background.map(|channel| i16::from(channel) * AREA + AREA / 2);
        for (pixel, step) in pixels.iter_mut().zip(&self.steps) {
            for channel in 0..3 {
                sums[channel] += step[channel];
                pixel[channel] = (sums[channel] / AREA) as u8;
            }
        }
        self.steps.fill([0; 3]);
        self.plain = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Background, Color, Layout, Object, Sample, ShapesWorld, Size, Test};
    use super::*;

    fn scenes(n: u64) -> impl Iterator<Item = Scene> {
        let world = ShapesWorld::new(3);
        let samples = (0..n).map(move |index| world.sample(index));
        samples
            .chain((0..n).map(move |index| world.test_sample(Test::SingleHeldOut, index)))
            .map(|Sample { scene, .. }| scene)
    }

    /// The definition: every sample on its own.
    fn sampled(scene: &Scene, side: u32) -> RgbImage {
        let scale = f64::from(side * 4);
        let sample = |x: u32, y: u32| {
            let [x, y] = [x, y].map(|at| (f64::from(at) + 0.5) / scale);
            let inside = |object: &&Object| {
                let [cx, cy] = object.center.map(f64::from);
                let radius = f64::from(object.radius);
                let cut = object.shape.cut((y - cy) / radius);
                cut.is_some_and(|cut| cut.contains(&((x - cx).abs() / radius)))
            };
            let top = scene.objects().iter().rev().find(inside);
            top.map_or(scene.background.rgb(), |object| object.color.rgb())
        };
        RgbImage::from_fn(side, side, |x, y| {
            let near = (0..16).map(|at| sample(4 * x + at % 4, 4 * y + at / 4));
            let sum = near.fold([0; 3], |sum: [u32; 3], rgb| {
                [0, 1, 2].map(|channel| sum[channel] + u32::from(rgb[channel]))
            });
            image::Rgb(sum.map(|channel| ((channel + 8) / 16) as u8))
        })
    }

    #[test]
    fn pictures_are_what_the_definition_says() {
        for scene in scenes(60) {
            assert_eq!(render(&scene, 32), sampled(&scene, 32), "{scene:?}");
            assert_eq!(render(&scene, 37), sampled(&scene, 37), "{scene:?}");
        }
    }

    #[test]
    fn later_objects_cover_earlier_ones() {
        let object = |color, shape, x| {
            let size = Size::Large;
            Object { color, shape, size, radius: 0.24, center: [x, 0.5] }
        };
        for (below, above) in [(Shape::Ring, Shape::Star), (Shape::Star, Shape::Cross)] {
            let objects = [object(Color::Red, below, 0.5), object(Color::Blue, above, 0.52)];
            let layout = Layout::Pair { objects, relation: super::super::Relation::LeftOf };
            let scene = Scene { background: Background::White, layout };
            assert_eq!(render(&scene, 40), sampled(&scene, 40));
        }
    }

    #[test]
    fn a_region_is_the_crop_of_the_whole() {
        for (scene, at) in scenes(20).zip(0..) {
            let region = Region { side: 128, x: 2 * at + 8, y: 64 - at, width: 40, height: 33 };
            let whole = render(&scene, 128);
            let crop =
                RgbImage::from_fn(40, 33, |x, y| *whole.get_pixel(x + region.x, y + region.y));
            assert_eq!(render_region(&scene, region), crop);
        }
    }

    #[test]
    fn a_region_beyond_the_border_is_background() {
        let scene = ShapesWorld::new(1).sample(0).scene;
        let part = render_region(&scene, Region { side: 32, x: 32, y: 8, width: 3, height: 2 });
        assert!(part.pixels().all(|pixel| pixel.0 == scene.background.rgb()));
        assert_eq!(render(&scene, 0).dimensions(), (0, 0));
    }

    #[test]
    fn planes_hold_the_same_bytes() {
        for scene in scenes(20) {
            let region = Region { side: 64, x: 10, y: 20, width: 31, height: 24 };
            let mut planes = vec![0.0; 3 * region.area()];
            render_into(&scene, region, &mut planes);
            for (at, pixel) in render_region(&scene, region).pixels().enumerate() {
                let values = [0, 1, 2].map(|channel| planes[channel * region.area() + at]);
                assert_eq!(values, pixel.0.map(|byte| f32::from(byte) / 127.5 - 1.0));
            }
        }
    }

    #[test]
    fn coverage_adds_up_to_the_area() {
        for shape in Shape::ALL {
            let drawn = coverage(shape, [0.5, 0.5], 0.2, Region::whole(128));
            let area = drawn.iter().map(|&byte| f64::from(byte)).sum::<f64>() / 255.0;
            let expected = shape.area() * (0.2f64 * 128.0).powi(2);
            assert!((area / expected - 1.0).abs() < 0.01, "{shape}: {area} {expected}");
        }
    }
}

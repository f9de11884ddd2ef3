//! Reads pictures back: what does this picture show?
//!
//! Made for pictures that a model drew, which are never quite flat or sharp. A pixel is taken as
//! a mixture of the background and one color, which tells apart the soft edge of a yellow object
//! on black from a green one; objects are connected regions of one color; and the outline of a
//! region is the one that, drawn around the region's center with the region's area, overlaps best
//! with it.

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::palette::{Background, Color, Position, Relation, Shape, Size};
use super::regions::{Mixture, Pixels, Regions, distance, election, median, nearest, share};
use super::render::{Region, coverage};
use super::scene::Object;

/// What a picture shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The palette entry nearest to the border.
    pub background: Background,
    /// The objects, the largest area first.
    pub objects: Vec<Object>,
}

impl Reading {
    /// The cell of the largest object.
    pub fn position(&self) -> Option<Position> {
        self.objects.first().map(|object| Position::of(object.center))
    }

    /// How the largest object lies to the second largest.
    pub fn relation(&self) -> Option<Relation> {
        let [first, second, ..] = &self.objects[..] else { return None };
        Some(Relation::of(first.center, second.center))
    }
}

/// Pixels inside a region that it takes to tell its color from them.
const INSIDE: usize = 9;

/// Outlines are compared as drawn, and blurred once, twice and so on: as many kinds in all.
const BLURS: usize = 5;

/// Reads a picture of any size; shapes are told apart from 32 pixels on.
pub fn read(picture: &RgbImage) -> Reading {
    let pixels = Pixels::of(picture);
    let ground = pixels.border();
    let ground_of = |background: &Background| distance(background.rgb().map(f32::from), ground);
    let background = nearest(&Background::ALL, ground_of).unwrap_or(Background::White);
    let mixtures: Vec<_> = pixels.values.iter().map(|&pixel| Mixture::of(pixel, ground)).collect();
    let regions = Regions::of(&pixels, &mixtures);
    let objects = regions.members.iter().filter_map(|(&id, members)| {
        Blob { pixels: &pixels, regions: &regions, ground, id, members }.object(&mixtures)
    });
    let mut objects: Vec<Object> = objects.collect();
    let area = |object: &Object| object.shape.area() as f32 * object.radius * object.radius;
    objects.sort_by(|a, b| area(b).total_cmp(&area(a)));
    Reading { background, objects }
}

/// One region with what it takes to measure it.
struct Blob<'a> {
    pixels: &'a Pixels,
    regions: &'a Regions,
    ground: [f32; 3],
    id: usize,
    members: &'a [usize],
}

impl Blob<'_> {
    /// The object that this region shows.
    fn object(&self, mixtures: &[Mixture]) -> Option<Object> {
        let (color, full) = self.color(mixtures)?;
        let mask = self.mask(full);
        let (shape, radius) = mask.outline();
        let (width, height) = (self.pixels.width as f64, self.pixels.height as f64);
        let [x, y] = mask.center();
        let radius = (radius / width) as f32;
        let center = [(x / width) as f32, (y / height) as f32];
        Some(Object { color, shape, size: Size::of(radius), radius, center })
    }

    /// The color and how it looks here: by the pixels inside, or by vote if those are too few.
    fn color(&self, mixtures: &[Mixture]) -> Option<(Color, [f32; 3])> {
        let inside =
            |&&at: &&usize| self.pixels.around(at, 1).filter(|&near| self.owns(near)).count() == 9;
        let inside: Vec<usize> = self.members.iter().filter(inside).copied().collect();
        if inside.len() >= INSIDE {
            let full = median(inside.iter().map(|&at| self.pixels.values[at]));
            let color = nearest(&Color::ALL, |color| distance(color.rgb().map(f32::from), full))?;
            return Some((color, full));
        }
        let color = election(self.members.iter().map(|&at| mixtures[at]))?;
        Some((color, color.rgb().map(f32::from)))
    }

    fn owns(&self, at: usize) -> bool {
        self.regions.owner[at] == Some(self.id)
    }

    /// The region with its soft edges, which reach a little further than the region itself.
    fn mask(&self, full: [f32; 3]) -> Mask {
        let reach = 1 + (self.pixels.width / 64).max(1);
        let share = |at: usize| {
            let near = || self.pixels.around(at, reach).any(|near| self.owns(near));
            let covered = match self.regions.owner[at] {
                Some(owner) => owner == self.id,
                None => near(),
            };
            if covered { share(self.pixels.values[at], self.ground, full) } else { 0.0 }
        };
        let window = self.window(2 * reach);
        let first = window.y as usize * self.pixels.width + window.x as usize;
        let rows = (0..window.height as usize).map(|row| first + row * self.pixels.width);
        let shares = rows.flat_map(|row| row..row + window.width as usize).map(share).collect();
        Mask { window, shares }
    }

    /// The part of the picture that holds the region, with a margin.
    fn window(&self, margin: usize) -> Region {
        let range = |of: fn(usize, usize) -> usize, end: usize| {
            let places = self.members.iter().map(|&at| of(at, self.pixels.width));
            let (low, high) = places.fold((end, 0), |(low, high), at| (low.min(at), high.max(at)));
            low.saturating_sub(margin) as u32..(high + margin + 1).min(end) as u32
        };
        let xs = range(|at, width| at % width, self.pixels.width);
        let ys = range(|at, width| at / width, self.pixels.height);
        let (width, height) = (xs.end - xs.start, ys.end - ys.start);
        Region { side: self.pixels.width as u32, x: xs.start, y: ys.start, width, height }
    }
}

/// How much of each pixel of a window an object covers.
struct Mask {
    window: Region,
    shares: Vec<f32>,
}

impl Mask {
    /// The covered area in pixels.
    fn area(&self) -> f64 {
        self.shares.iter().copied().map(f64::from).sum()
    }

    /// The center of gravity in pixels of the picture.
    fn center(&self) -> [f64; 2] {
        let width = self.window.width as usize;
        let moments = self.shares.iter().enumerate().map(|(at, &share)| {
            [at % width, at / width].map(|place| (place as f64 + 0.5) * f64::from(share))
        });
        let [x, y] = moments.fold([0.0; 2], |sum, moment| [sum[0] + moment[0], sum[1] + moment[1]]);
        let area = self.area();
        [f64::from(self.window.x) + x / area, f64::from(self.window.y) + y / area]
    }

    /// The outline of the same center and area that overlaps most, and its radius in pixels.
    fn outline(&self) -> (Shape, f64) {
        let (area, center) = (self.area(), self.center());
        let fits = Shape::ALL.map(|shape| {
            let radius = (area / shape.area()).sqrt();
            (self.overlap(shape, center, radius), shape, radius)
        });
        let [first, rest @ ..] = fits;
        let better = |a: (f32, Shape, f64), b: (f32, Shape, f64)| if b.0 > a.0 { b } else { a };
        let (_, shape, radius) = rest.into_iter().fold(first, better);
        (shape, radius)
    }

    /// The area in common with an outline, as blurred as suits best.
    fn overlap(&self, shape: Shape, center: [f64; 2], radius: f64) -> f32 {
        let (side, width) = (f64::from(self.window.side), self.window.width as usize);
        let drawn = coverage(shape, center.map(|at| at / side), radius / side, self.window);
        let sharp: Vec<f32> = drawn.into_iter().map(|byte| f32::from(byte) / 255.0).collect();
        let blurred = |image: &Vec<f32>| Some(soften(&soften(image, 1), width));
        let common = |image: Vec<f32>| -> f32 {
            image.iter().zip(&self.shares).map(|(drawn, share)| drawn.min(*share)).sum()
        };
        std::iter::successors(Some(sharp), blurred).take(BLURS).map(common).fold(0.0, f32::max)
    }
}

/// Averages each value with those one stride before and after it, with weights 1, 6, 1.
///
/// Along rows and columns that is about a Gaussian of half a pixel. A row's end wraps around to
/// the next row, where a mask has only its empty margin.
fn soften(values: &[f32], stride: usize) -> Vec<f32> {
    let or = |at: Option<usize>, own: f32| at.and_then(|at| values.get(at)).copied().unwrap_or(own);
    let soft = |(at, &own): (usize, &f32)| {
        (or(at.checked_sub(stride), own) + 6.0 * own + or(at.checked_add(stride), own)) / 8.0
    };
    values.iter().enumerate().map(soft).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Description, Layout, Scene, ShapesWorld, Test, judge, render};
    use super::*;

    fn scene(color: Color, shape: Shape, radius: f32) -> Scene {
        let object = Object { color, shape, size: Size::of(radius), radius, center: [0.28, 0.5] };
        let layout = Layout::Single { object, position: Position::Left };
        Scene { background: Background::Black, layout }
    }

    #[test]
    fn all_objects_are_read_at_the_smallest_size() {
        for (color, shape) in Color::ALL.into_iter().flat_map(|c| Shape::ALL.map(|s| (c, s))) {
            let reading = read(&render(&scene(color, shape, 0.1), 32));
            let [object] = &reading.objects[..] else { panic!("{color} {shape}: {reading:?}") };
            assert_eq!((object.color, object.shape, object.size), (color, shape, Size::Small));
            assert_eq!(reading.position(), Some(Position::Left));
        }
    }

    #[test]
    fn pictures_of_nothing_and_of_no_size_hold_no_objects() {
        for (width, height) in [(0, 0), (1, 1), (3, 200), (64, 64)] {
            let reading = read(&RgbImage::from_pixel(width, height, image::Rgb([120, 130, 128])));
            assert_eq!(reading.objects, []);
        }
    }

    #[test]
    fn specks_are_not_objects() {
        let mut picture = render(&scene(Color::Pink, Shape::Ring, 0.2), 64);
        let speck = image::Rgb(Color::Blue.rgb());
        (0..9).for_each(|at| picture.put_pixel(50 + at % 3, 10 + at / 3, speck));
        assert_eq!(read(&picture).objects.len(), 1);
    }

    /// Averages over 3x3 pixels and adds a fixed pattern of noise in ±`noise`.
    fn spoiled(picture: &RgbImage, noise: i32) -> RgbImage {
        let (right, bottom) = (picture.width() as i32 - 1, picture.height() as i32 - 1);
        RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
            let near = (0..9).map(|at| (x as i32 + at % 3 - 1, y as i32 + at / 3 - 1));
            let near = near.map(|(x, y)| (x.clamp(0, right) as u32, y.clamp(0, bottom) as u32));
            let sum = near.fold([0; 3], |sum: [i32; 3], (x, y)| {
                let pixel = picture.get_pixel(x, y).0;
                [0, 1, 2].map(|channel| sum[channel] + i32::from(pixel[channel]))
            });
            let hash = (x * 7919 + y * 104_729).wrapping_mul(2_654_435_761) >> 8;
            let wobble = |channel: usize| (hash >> (4 * channel)) as i32 % (2 * noise + 1) - noise;
            image::Rgb([0, 1, 2].map(|at| (sum[at] / 9 + wobble(at)).clamp(0, 255) as u8))
        })
    }

    #[test]
    fn blurred_and_noisy_pictures_are_read_too() {
        let world = ShapesWorld::new(2);
        for (index, side) in (0..60).zip([48, 64, 128].into_iter().cycle()) {
            let scene = world.test_sample(Test::Pair, index).scene;
            let reading = read(&spoiled(&render(&scene, side), 20));
            let verdict = judge(&Description::of(&scene), &reading);
            assert!(verdict.all(), "{side} {scene:?} {reading:?}");
        }
    }
}

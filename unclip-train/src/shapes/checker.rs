//! Reads pictures back: what does this picture show?
//!
//! Made for pictures that a model drew, which are never quite flat or sharp. A pixel is taken as
//! a mixture of the background and one colour, which tells apart the soft edge of a yellow object
//! on black from a green one; objects are connected regions of one colour; and the outline of a
//! region is the one that, drawn around the region's centre with the region's area, overlaps best
//! with it.

use std::collections::BTreeMap;

use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::palette::{Background, Color, Position, Relation, Shape, Size};
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

/// Pictures twice this large or larger are first averaged down to about this side.
const SIDE: u32 = 128;

/// Share of the picture below which a region is dropped; the smallest object has 0.0130.
const TINY: f32 = 0.005;

/// A region of which this share touches one other region is that region's edge, not an object.
const EDGE: f32 = 0.4;

/// Pixels inside a region that it takes to tell its colour from them.
const INSIDE: usize = 4;

/// Outlines are compared as drawn and blurred once, twice ... up to this many kinds.
const BLURS: usize = 3;

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

/// A picture of moderate size.
struct Pixels {
    width: usize,
    height: usize,
    values: Vec<[f32; 3]>,
}

impl Pixels {
    /// Averages large pictures down by a whole factor.
    fn of(picture: &RgbImage) -> Self {
        let factor = (picture.width().min(picture.height()) / SIDE).max(1);
        let (width, height) = (picture.width() / factor, picture.height() / factor);
        let average = |x: u32, y: u32| {
            let block =
                (0..factor * factor).map(|at| (x * factor + at % factor, y * factor + at / factor));
            let sum = block.fold([0.0; 3], |sum: [f32; 3], (x, y)| {
                let pixel = picture.get_pixel(x, y).0;
                [0, 1, 2].map(|channel| sum[channel] + f32::from(pixel[channel]))
            });
            sum.map(|sum| sum / (factor * factor) as f32)
        };
        let values = (0..height).flat_map(|y| (0..width).map(move |x| average(x, y))).collect();
        Self { width: width as usize, height: height as usize, values }
    }

    /// The median of the outermost pixels, channel by channel.
    fn border(&self) -> [f32; 3] {
        let (right, bottom) = (self.width.saturating_sub(1), self.height.saturating_sub(1));
        let border = |&at: &usize| {
            let (x, y) = (at % self.width, at / self.width);
            x == 0 || y == 0 || x == right || y == bottom
        };
        median((0..self.values.len()).filter(border).map(|at| self.values[at]))
    }

    /// The pixels not further than `reach` from one, itself included.
    fn around(&self, at: usize, reach: usize) -> impl Iterator<Item = usize> + use<> {
        let width = self.width;
        let span = |at: usize, end: usize| at.saturating_sub(reach)..(at + reach + 1).min(end);
        let (columns, rows) = (span(at % width, width), span(at / width, self.height));
        rows.flat_map(move |y| columns.clone().map(move |x| y * width + x))
    }
}

/// A pixel as a mixture of the background and one colour.
#[derive(Clone, Copy)]
struct Mixture {
    color: Color,
    /// Share of the colour, in [0, 1].
    share: f32,
}

impl Mixture {
    /// The mixture nearest to a pixel.
    fn of(pixel: [f32; 3], ground: [f32; 3]) -> Self {
        let with = |color: Color| {
            let full = color.rgb().map(f32::from);
            let share = share(pixel, ground, full);
            let mixed = [0, 1, 2]
                .map(|channel| ground[channel] + share * (full[channel] - ground[channel]));
            (distance(pixel, mixed), Self { color, share })
        };
        let all = Color::ALL.map(with);
        let first = all[0];
        all.into_iter().fold(first, |best, other| if other.0 < best.0 { other } else { best }).1
    }

    fn is_object(self) -> bool {
        self.share >= 0.5
    }
}

/// How far a pixel is on the way from the background to a full colour, in [0, 1].
fn share(pixel: [f32; 3], ground: [f32; 3], full: [f32; 3]) -> f32 {
    let way = [0, 1, 2].map(|channel| full[channel] - ground[channel]);
    let along: f32 = (0..3).map(|channel| (pixel[channel] - ground[channel]) * way[channel]).sum();
    (along / distance(full, ground).max(1.0)).clamp(0.0, 1.0)
}

/// The connected regions of the objects.
struct Regions {
    /// The region of each pixel.
    owner: Vec<Option<usize>>,
    /// The pixels of each region.
    members: BTreeMap<usize, Vec<usize>>,
}

impl Regions {
    fn of(pixels: &Pixels, mixtures: &[Mixture]) -> Self {
        let colors: Vec<_> = (0..mixtures.len()).map(|at| vote(pixels, mixtures, at)).collect();
        let mut regions = Self { owner: vec![None; colors.len()], members: BTreeMap::new() };
        for at in 0..colors.len() {
            if colors[at].is_some() && regions.owner[at].is_none() {
                regions.flood(pixels, &colors, at);
            }
        }
        regions.absorb_edges(pixels);
        let enough = TINY * colors.len() as f32;
        regions.members.retain(|_, members| members.len() as f32 >= enough);
        regions
    }

    /// Collects the region of one colour that holds a pixel.
    fn flood(&mut self, pixels: &Pixels, colors: &[Option<Color>], start: usize) {
        let mut members = vec![start];
        self.owner[start] = Some(start);
        let mut next = 0;
        while let Some(&at) = members.get(next) {
            for near in pixels.around(at, 1) {
                if self.owner[near].is_none() && colors[near] == colors[start] {
                    self.owner[near] = Some(start);
                    members.push(near);
                }
            }
            next += 1;
        }
        self.members.insert(start, members);
    }

    /// Joins regions that are another one's edge to it, small ones first.
    fn absorb_edges(&mut self, pixels: &Pixels) {
        let mut ids: Vec<usize> = self.members.keys().copied().collect();
        ids.sort_by_key(|id| self.members[id].len());
        for id in ids {
            let Some((other, contact)) = self.neighbor(pixels, id) else { continue };
            if contact as f32 >= EDGE * self.members[&id].len() as f32 {
                let members = self.members.remove(&id).unwrap_or_default();
                members.iter().for_each(|&at| self.owner[at] = Some(other));
                self.members.entry(other).or_default().extend(members);
            }
        }
    }

    /// The larger region that most pixels of a region touch, and how many they are.
    fn neighbor(&self, pixels: &Pixels, id: usize) -> Option<(usize, usize)> {
        let mut contacts = BTreeMap::new();
        for &at in &self.members[&id] {
            let mut owners: Vec<_> =
                pixels.around(at, 1).filter_map(|near| self.owner[near]).collect();
            owners.sort_unstable();
            owners.dedup();
            owners.into_iter().for_each(|owner| *contacts.entry(owner).or_insert(0) += 1);
        }
        let larger = |other: &usize| self.members[other].len() > self.members[&id].len();
        contacts.into_iter().filter(|(other, _)| larger(other)).max_by_key(|&(_, contact)| contact)
    }
}

/// The colour of a pixel by vote of the pixels around it; `None` if it is background.
fn vote(pixels: &Pixels, mixtures: &[Mixture], at: usize) -> Option<Color> {
    mixtures[at].is_object().then_some(())?;
    let voters = pixels.around(at, 1).map(|near| mixtures[near]).filter(|near| near.is_object());
    election(voters)
}

/// The colour with the largest sum of shares.
fn election(voters: impl Iterator<Item = Mixture>) -> Option<Color> {
    let mut votes = [0.0; Color::ALL.len()];
    voters.for_each(|voter| votes[voter.color as usize] += voter.share);
    nearest(&Color::ALL, |&color| -votes[color as usize])
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

    /// The colour and how it looks here: by the pixels inside, or by vote if those are too few.
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
        let reach = (self.pixels.width / 64).max(1);
        let near = |at: usize| self.pixels.around(at, reach).any(|near| self.owns(near));
        let free = |at: usize| self.regions.owner[at].is_none_or(|owner| owner == self.id);
        let window = self.window(2 * reach);
        let (xs, ys) = (window.x..window.x + window.width, window.y..window.y + window.height);
        let share = |at: usize| match free(at) && near(at) {
            true => share(self.pixels.values[at], self.ground, full),
            false => 0.0,
        };
        let at = |x: u32, y: u32| y as usize * self.pixels.width + x as usize;
        let shares = ys.flat_map(|y| xs.clone().map(move |x| at(x, y))).map(share).collect();
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

    /// The centre of gravity in pixels of the picture.
    fn center(&self) -> [f64; 2] {
        let width = self.window.width as usize;
        let moments = self.shares.iter().enumerate().map(|(at, &share)| {
            [at % width, at / width].map(|place| (place as f64 + 0.5) * f64::from(share))
        });
        let [x, y] = moments.fold([0.0; 2], |sum, moment| [sum[0] + moment[0], sum[1] + moment[1]]);
        let area = self.area();
        [f64::from(self.window.x) + x / area, f64::from(self.window.y) + y / area]
    }

    /// The outline of the same centre and area that overlaps most, and its radius in pixels.
    fn outline(&self) -> (Shape, f64) {
        let fit = |shape: Shape| {
            let radius = (self.area() / shape.area()).sqrt();
            (self.overlap(shape, radius), shape, radius)
        };
        let best = |best: (f32, Shape, f64), fit: (f32, Shape, f64)| {
            if fit.0 > best.0 { fit } else { best }
        };
        let (_, shape, radius) =
            Shape::ALL.into_iter().map(fit).reduce(best).unwrap_or((0.0, Shape::Circle, 0.0));
        (shape, radius)
    }

    /// The area in common with an outline, as blurred as suits best.
    fn overlap(&self, shape: Shape, radius: f64) -> f32 {
        let side = f64::from(self.window.side);
        let drawn = coverage(shape, self.center().map(|at| at / side), radius / side, self.window);
        let sharp: Vec<f32> = drawn.into_iter().map(|byte| f32::from(byte) / 255.0).collect();
        let blurred =
            |image: &Vec<f32>| Some(soften(&soften(image, 1), self.window.width as usize));
        let common = |image: Vec<f32>| -> f32 {
            image.iter().zip(&self.shares).map(|(drawn, share)| drawn.min(*share)).sum()
        };
        std::iter::successors(Some(sharp), blurred).take(BLURS).map(common).fold(0.0, f32::max)
    }
}

/// Averages each value with those one stride before and after it, with weights 1, 2, 1.
fn soften(values: &[f32], stride: usize) -> Vec<f32> {
    let or = |at: Option<usize>, own: f32| at.and_then(|at| values.get(at)).copied().unwrap_or(own);
    let soft = |(at, &own): (usize, &f32)| {
        (or(at.checked_sub(stride), own) + 2.0 * own + or(at.checked_add(stride), own)) / 4.0
    };
    values.iter().enumerate().map(soft).collect()
}

/// Squared distance of two colours.
fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    (0..3).map(|channel| (a[channel] - b[channel]).powi(2)).sum()
}

/// The value with the smallest cost.
fn nearest<T: Copy>(values: &[T], cost: impl Fn(&T) -> f32) -> Option<T> {
    values.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).copied()
}

/// The median channel by channel; black if there is nothing.
fn median(colors: impl Iterator<Item = [f32; 3]>) -> [f32; 3] {
    let mut channels: [Vec<f32>; 3] = Default::default();
    for color in colors {
        channels.iter_mut().zip(color).for_each(|(channel, value)| channel.push(value));
    }
    channels.map(|mut channel| {
        channel.sort_by(f32::total_cmp);
        channel.get(channel.len() / 2).copied().unwrap_or(0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Layout, Scene, render};
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
        (0..9)
            .for_each(|at| picture.put_pixel(50 + at % 3, 10 + at / 3, image::Rgb([31, 90, 220])));
        assert_eq!(read(&picture).objects.len(), 1);
    }
}

//! Finds the objects of a picture: pixels, their mixtures, and connected regions of one color.
//!
//! The checker's first half; it knows colors and neighbors, not outlines.

use std::collections::BTreeMap;

use image::RgbImage;

use super::palette::Color;

/// Pictures twice this large or larger are first averaged down to about this side.
const SIDE: u32 = 128;

/// Share of the picture below which a region is dropped; the smallest object has 0.0130.
const TINY: f32 = 0.005;

/// A region of which this share touches one other region is that region's edge, not an object.
const EDGE: f32 = 0.4;

/// Squared distance of colors below which regions that touch are one; the palette's is 8,100.
const ALIKE: f32 = 45.0 * 45.0;

/// A picture of moderate size.
pub(super) struct Pixels {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<[f32; 3]>,
}

impl Pixels {
    /// Averages large pictures down by a whole factor.
    pub(super) fn of(picture: &RgbImage) -> Self {
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
    pub(super) fn border(&self) -> [f32; 3] {
        let (right, bottom) = (self.width.saturating_sub(1), self.height.saturating_sub(1));
        let border = |&at: &usize| {
            let (x, y) = (at % self.width, at / self.width);
            x == 0 || y == 0 || x == right || y == bottom
        };
        median((0..self.values.len()).filter(border).map(|at| self.values[at]))
    }

    /// The pixels not further than `reach` from one, itself included.
    pub(super) fn around(&self, at: usize, reach: usize) -> impl Iterator<Item = usize> + use<> {
        let width = self.width;
        let span = |at: usize, end: usize| at.saturating_sub(reach)..(at + reach + 1).min(end);
        let (columns, rows) = (span(at % width, width), span(at / width, self.height));
        rows.flat_map(move |y| columns.clone().map(move |x| y * width + x))
    }
}

/// A pixel as a mixture of the background and one color.
#[derive(Clone, Copy)]
pub(super) struct Mixture {
    color: Color,
    /// Share of the color, in [0, 1].
    share: f32,
}

impl Mixture {
    /// The mixture nearest to a pixel.
    pub(super) fn of(pixel: [f32; 3], ground: [f32; 3]) -> Self {
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

/// How far a pixel is on the way from the background to a full color, in [0, 1].
pub(super) fn share(pixel: [f32; 3], ground: [f32; 3], full: [f32; 3]) -> f32 {
    let way = [0, 1, 2].map(|channel| full[channel] - ground[channel]);
    let along: f32 = (0..3).map(|channel| (pixel[channel] - ground[channel]) * way[channel]).sum();
    (along / distance(full, ground).max(1.0)).clamp(0.0, 1.0)
}

/// The connected regions of the objects; a region is named after its first pixel.
pub(super) struct Regions {
    /// The region of each pixel.
    pub(super) owner: Vec<Option<usize>>,
    /// The pixels of each region.
    pub(super) members: BTreeMap<usize, Vec<usize>>,
}

impl Regions {
    /// Floods the picture, joins what belongs together and drops what is tiny.
    pub(super) fn of(pixels: &Pixels, mixtures: &[Mixture]) -> Self {
        let colors: Vec<_> = (0..mixtures.len()).map(|at| vote(pixels, mixtures, at)).collect();
        let mut regions = Self { owner: vec![None; colors.len()], members: BTreeMap::new() };
        for at in 0..colors.len() {
            if colors[at].is_some() && regions.owner[at].is_none() {
                regions.flood(pixels, &colors, at);
            }
        }
        regions.join(pixels);
        let enough = TINY * colors.len() as f32;
        regions.members.retain(|_, members| members.len() as f32 >= enough);
        regions
    }

    /// Collects the region of one color that holds a pixel.
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

    /// Joins regions that are another one's edge or patches of it to it, small ones first.
    fn join(&mut self, pixels: &Pixels) {
        let mut ids: Vec<usize> = self.members.keys().copied().collect();
        ids.sort_by_key(|id| self.members[id].len());
        for id in ids {
            let Some((other, contact)) = self.neighbor(pixels, id) else { continue };
            let color = |id| median(self.members[&id].iter().map(|&at| pixels.values[at]));
            let edge = contact as f32 >= EDGE * self.members[&id].len() as f32;
            if edge || distance(color(id), color(other)) < ALIKE {
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

/// The color of a pixel by vote of the pixels around it; `None` if it is background.
fn vote(pixels: &Pixels, mixtures: &[Mixture], at: usize) -> Option<Color> {
    mixtures[at].is_object().then_some(())?;
    let voters = pixels.around(at, 1).map(|near| mixtures[near]).filter(|near| near.is_object());
    election(voters)
}

/// The color with the largest sum of shares.
pub(super) fn election(voters: impl Iterator<Item = Mixture>) -> Option<Color> {
    let mut votes = [0.0; Color::ALL.len()];
    voters.for_each(|voter| votes[voter.color as usize] += voter.share);
    nearest(&Color::ALL, |&color| -votes[color as usize])
}

/// Squared distance of two colors.
pub(super) fn distance(a: [f32; 3], b: [f32; 3]) -> f32 {
    (0..3).map(|channel| (a[channel] - b[channel]).powi(2)).sum()
}

/// The value with the smallest cost.
pub(super) fn nearest<T: Copy>(values: &[T], cost: impl Fn(&T) -> f32) -> Option<T> {
    values.iter().min_by(|a, b| cost(a).total_cmp(&cost(b))).copied()
}

/// The median channel by channel; black if there is nothing.
pub(super) fn median(colors: impl Iterator<Item = [f32; 3]>) -> [f32; 3] {
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
    use super::super::palette::Background;
    use super::*;

    const BLACK: [f32; 3] = [15.0; 3];

    #[test]
    fn every_color_keeps_its_name_at_soft_edges() {
        for (ground, color) in Background::ALL.into_iter().flat_map(|b| Color::ALL.map(|c| (b, c)))
        {
            let (ground, full) = (ground.rgb().map(f32::from), color.rgb().map(f32::from));
            let half = [0, 1, 2].map(|channel| (ground[channel] + full[channel]) / 2.0);
            let mixture = Mixture::of(half, ground);
            assert_eq!(mixture.color, color);
            assert!((mixture.share - 0.5).abs() < 1e-3);
        }
    }

    /// Regions of a picture that is painted pixel by pixel on black.
    fn sizes(paint: impl Fn(u32, u32) -> Option<Color>) -> Vec<usize> {
        let color = |x, y| paint(x, y).map_or(BLACK.map(|value| value as u8), Color::rgb);
        let picture = RgbImage::from_fn(40, 40, |x, y| image::Rgb(color(x, y)));
        let pixels = Pixels::of(&picture);
        let mixtures: Vec<_> = pixels.values.iter().map(|&at| Mixture::of(at, BLACK)).collect();
        Regions::of(&pixels, &mixtures).members.values().map(Vec::len).collect()
    }

    #[test]
    fn objects_that_touch_stay_two() {
        let halves = |x: u32, y: u32| match (10..30).contains(&y) {
            true if (5..20).contains(&x) => Some(Color::Red),
            true if (20..35).contains(&x) => Some(Color::Orange),
            _ => None,
        };
        assert_eq!(sizes(halves), [300, 300]);
    }

    #[test]
    fn a_seam_of_another_color_belongs_to_its_object() {
        let seamed = |x: u32, y: u32| match x.abs_diff(20).max(y.abs_diff(20)) {
            0..10 => Some(Color::Cyan),
            10..12 => Some(Color::Blue),
            _ => None,
        };
        assert_eq!(sizes(seamed), [529]);
    }

    #[test]
    fn large_pictures_are_averaged() {
        let picture = RgbImage::from_fn(300, 256, |x, _| image::Rgb([(x % 2 * 100) as u8; 3]));
        let pixels = Pixels::of(&picture);
        assert_eq!((pixels.width, pixels.height), (150, 128));
        assert!(pixels.values.iter().all(|value| *value == [50.0; 3]));
    }
}

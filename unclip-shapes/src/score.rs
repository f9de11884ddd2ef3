//! Judges readings against descriptions, and counts.

use std::fmt;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::caption::{Description, Named, Subject};
use super::checker::{Reading, read};
use super::palette::{Relation, words};
use super::render::render;
use super::scene::Object;
use super::{Sample, ShapesWorld};

words! {
    /// What a verdict is about, one by one.
    Attribute {
        /// The background.
        Background = "background",
        /// As many objects as named, no more and no less.
        Count = "count",
        /// The color, of both objects if there are two.
        Color = "color",
        /// The shape, of both objects if there are two.
        Shape = "shape",
        /// The size, of all objects whose size is named.
        Size = "size",
        /// The cell of a single object.
        Position = "position",
        /// Where the first of two objects is.
        Relation = "relation",
        /// Two objects: their colors and their shapes all appear, whichever goes with which.
        Present = "present",
        /// Two objects: each color goes with its shape.
        Bound = "bound",
    }
}

/// What a picture has right of what a description names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// One mark for each of [`Attribute::ALL`]; `None` if the description does not name it.
    pub marks: [Option<bool>; Attribute::ALL.len()],
    /// Whether two objects have exchanged their colors; `None` if that cannot be told.
    pub swapped: Option<bool>,
}

/// Compares what a picture shows with what it should show.
///
/// If there are more objects than named, the largest are judged. Two objects are taken in the
/// order that gets most right, first in colors and shapes, then in the relation, then in sizes.
pub fn judge(description: &Description, reading: &Reading) -> Verdict {
    let mut verdict = Verdict::default();
    let background = description.background.map(|named| named == reading.background);
    verdict.mark(Attribute::Background, background);
    match &description.subject {
        Subject::Single { object, position } => {
            let found = reading.objects.first();
            verdict.mark(Attribute::Count, Some(reading.objects.len() == 1));
            verdict.mark_looks(&[(object, found)]);
            let position = position.map(|named| reading.position() == Some(named));
            verdict.mark(Attribute::Position, position);
        }
        Subject::Pair { objects, relation } => {
            verdict.mark(Attribute::Count, Some(reading.objects.len() == 2));
            verdict.mark_pair(objects, *relation, &reading.objects);
        }
    }
    verdict
}

impl Verdict {
    /// Whether an attribute is right; `None` if it is not named.
    pub const fn get(&self, attribute: Attribute) -> Option<bool> {
        self.marks[attribute as usize]
    }

    /// Whether everything named is right, the number of objects included.
    pub fn all(&self) -> bool {
        self.marks.iter().all(|mark| mark.unwrap_or(true))
    }

    fn mark(&mut self, attribute: Attribute, mark: Option<bool>) {
        self.marks[attribute as usize] = mark;
    }

    /// Marks color, shape and size, each over all objects.
    fn mark_looks(&mut self, pairs: &[Match]) {
        for (attribute, compare) in LOOKS {
            let marks = pairs.iter().filter_map(|&(named, found)| compare(named, found));
            self.mark(attribute, marks.reduce(|a, b| a && b));
        }
    }

    fn mark_pair(&mut self, named: &[Named; 2], relation: Option<Relation>, found: &[Object]) {
        let (a, b) = (found.first(), found.get(1));
        let order = |first, second| Order([(&named[0], first), (&named[1], second)]);
        let orders = [order(a, b), order(b, a)];
        let any = |test: fn(&Order) -> bool| b.is_some() && orders.iter().any(test);
        let bound = any(|order| order.agrees(color) && order.agrees(shape));
        let present = any(|order| order.agrees(color)) && any(|order| order.agrees(shape));
        self.mark(Attribute::Present, Some(present));
        self.mark(Attribute::Bound, Some(bound));
        let [one, other] = &orders;
        let best = if other.merit(relation) > one.merit(relation) { other } else { one };
        self.mark_looks(&best.0);
        self.mark(Attribute::Relation, relation.map(|named| best.relation() == Some(named)));
        let telling = named.iter().all(|named| named.color.is_some() && named.shape.is_some());
        self.swapped = telling.then(|| !bound && any(|order| order.swapped()));
    }
}

/// An object that is named and the one that may be it.
type Match<'a> = (&'a Named, Option<&'a Object>);

/// Compares one attribute; `None` if it is not named.
type Compare = fn(&Named, Option<&Object>) -> Option<bool>;

/// The attributes of a single object.
const LOOKS: [(Attribute, Compare); 3] =
    [(Attribute::Color, color), (Attribute::Shape, shape), (Attribute::Size, size)];

fn color(named: &Named, found: Option<&Object>) -> Option<bool> {
    named.color.map(|color| found.is_some_and(|found| found.color == color))
}

fn shape(named: &Named, found: Option<&Object>) -> Option<bool> {
    named.shape.map(|shape| found.is_some_and(|found| found.shape == shape))
}

fn size(named: &Named, found: Option<&Object>) -> Option<bool> {
    named.size.map(|size| found.is_some_and(|found| found.size == size))
}

/// One way of telling which of two objects is which.
struct Order<'a>([Match<'a>; 2]);

impl Order<'_> {
    /// Nothing is wrong in an attribute.
    fn agrees(&self, compare: Compare) -> bool {
        self.0.iter().all(|&(named, found)| compare(named, found) != Some(false))
    }

    /// For how many objects an attribute is named and right.
    fn right(&self, compare: Compare) -> usize {
        self.0.iter().filter(|&&(named, found)| compare(named, found) == Some(true)).count()
    }

    /// The shapes are right and each has the color of the other.
    fn swapped(&self) -> bool {
        let [(first, a), (second, b)] = self.0;
        self.agrees(shape) && Order([(first, b), (second, a)]).agrees(color)
    }

    fn relation(&self) -> Option<Relation> {
        let [(_, first), (_, second)] = self.0;
        Some(Relation::of(first?.center, second?.center))
    }

    /// What is right, by weight.
    fn merit(&self, relation: Option<Relation>) -> (usize, bool, usize) {
        (self.right(color) + self.right(shape), self.relation() == relation, self.right(size))
    }
}

/// How often something was right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Number of cases that were right.
    pub right: u64,
    /// Number of all cases.
    pub total: u64,
}

impl Rate {
    /// Counts one case.
    pub fn add(&mut self, right: bool) {
        self.right += u64::from(right);
        self.total += 1;
    }

    /// The share of right cases, NaN if there are none at all.
    pub fn value(&self) -> f64 {
        self.right as f64 / self.total as f64
    }

    /// The 95 % confidence interval by Wilson's formula, which holds near 0 and 1 too.
    ///
    /// `(p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)` with z = 1.96.
    pub fn interval(&self) -> (f64, f64) {
        const Z2: f64 = 1.959_963_984_540_054 * 1.959_963_984_540_054;
        if self.total == 0 {
            return (0.0, 1.0);
        }
        let (p, n) = (self.value(), self.total as f64);
        let middle = p + Z2 / (2.0 * n);
        let half = (Z2 * (p * (1.0 - p) / n + Z2 / (4.0 * n * n))).sqrt();
        let scale = 1.0 + Z2 / n;
        (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total == 0 {
            return f.pad("none");
        }
        let (low, high) = self.interval();
        let [value, low, high] = [self.value(), low, high].map(|share| 100.0 * share);
        write!(f, "{value:.1} % ({low:.1}–{high:.1}, n={})", self.total)
    }
}

/// Verdicts, counted. Its `Display` is a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// One rate for each of [`Attribute::ALL`], over the descriptions that name it.
    pub rates: [Rate; Attribute::ALL.len()],
    /// How often everything named was right.
    pub all: Rate,
    /// How often two objects had exchanged their colors.
    pub swapped: Rate,
}

impl Tally {
    /// How often an attribute was right where it was named.
    pub const fn get(&self, attribute: Attribute) -> Rate {
        self.rates[attribute as usize]
    }

    /// Counts one verdict.
    pub fn add(&mut self, verdict: &Verdict) {
        let marks = self.rates.iter_mut().zip(verdict.marks);
        marks.for_each(|(rate, mark)| mark.into_iter().for_each(|right| rate.add(right)));
        self.all.add(verdict.all());
        verdict.swapped.into_iter().for_each(|swapped| self.swapped.add(swapped));
    }
}

impl FromIterator<Verdict> for Tally {
    fn from_iter<I: IntoIterator<Item = Verdict>>(verdicts: I) -> Self {
        let mut tally = Self::default();
        verdicts.into_iter().for_each(|verdict| tally.add(&verdict));
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Attribute::ALL.iter().map(|attribute| attribute.name()).zip(self.rates);
        let rates = named.chain([("all", self.all), ("swapped", self.swapped)]);
        for (name, rate) in rates.filter(|(_, rate)| rate.total > 0) {
            writeln!(f, "{name:<10}  {rate}")?;
        }
        Ok(())
    }
}

/// How well the checker reads true pictures of the training distribution, on `n` of them.
///
/// Everything that a scene shows is asked for, whatever its caption leaves out. A report prints
/// this beside a model's figures, which cannot be trusted further than this.
pub fn calibrate(world: &ShapesWorld, side: u32, n: u64) -> Tally {
    let samples: Vec<Sample> = (0..n).map(|index| world.sample(index)).collect();
    grade(&samples, side)
}

/// How well the checker reads the true pictures of some samples.
pub fn grade(samples: &[Sample], side: u32) -> Tally {
    let verdict = |sample: &Sample| {
        let reading = read(&render(&sample.scene, side));
        judge(&Description::of(&sample.scene), &reading)
    };
    samples.par_iter().map(verdict).collect::<Vec<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Background, Color, Shape, Size};
    use super::*;

    const LEFT: [f32; 2] = [0.25, 0.5];
    const RIGHT: [f32; 2] = [0.75, 0.5];
    const BESIDE: &str = "a large red circle left of a small blue square";

    fn object(color: Color, shape: Shape, center: [f32; 2]) -> Object {
        let size = if shape == Shape::Circle { Size::Large } else { Size::Small };
        Object { color, shape, size, radius: size.radii().start, center }
    }

    fn verdict(caption: &str, objects: &[Object]) -> Verdict {
        let description = Description::parse(caption).expect("a caption");
        let reading = Reading { background: Background::Gray, objects: objects.to_vec() };
        judge(&description, &reading)
    }

    /// The named attributes that are wrong.
    fn wrong(verdict: Verdict) -> Vec<&'static str> {
        let wrong = |attribute: &Attribute| verdict.get(*attribute) == Some(false);
        Attribute::ALL.into_iter().filter(wrong).map(Attribute::name).collect()
    }

    #[test]
    fn one_object_is_judged_by_what_is_named() {
        let disc = object(Color::Red, Shape::Circle, LEFT);
        let wrong = |caption, objects: &[Object]| wrong(verdict(caption, objects));
        assert!(verdict("a red disc", &[disc]).all());
        assert_eq!(verdict("a red disc", &[disc]).get(Attribute::Size), None);
        assert!(verdict("a big red disc in the left on a grey background", &[disc]).all());
        assert_eq!(wrong("a tiny pink disc in the top", &[disc]), ["color", "size", "position"]);
        assert_eq!(wrong("a red ring on a black background", &[disc]), ["background", "shape"]);
        assert_eq!(wrong("a red disc", &[disc, disc]), ["count"]);
        assert_eq!(wrong("a red disc", &[]), ["count", "color", "shape"]);
    }

    #[test]
    fn two_objects_are_found_in_either_order() {
        let disc = object(Color::Red, Shape::Circle, LEFT);
        let square = object(Color::Blue, Shape::Square, RIGHT);
        for objects in [[disc, square], [square, disc]] {
            assert!(verdict(BESIDE, &objects).all());
            assert_eq!(verdict(BESIDE, &objects).swapped, Some(false));
            assert_eq!(wrong(verdict("a red circle above a blue square", &objects)), ["relation"]);
        }
        assert_eq!(
            wrong(verdict(BESIDE, &[disc])),
            ["count", "color", "shape", "size", "relation", "present", "bound"]
        );
    }

    #[test]
    fn exchanged_colors_are_a_swap_and_exchanged_places_are_not() {
        let disc = object(Color::Blue, Shape::Circle, LEFT);
        let square = object(Color::Red, Shape::Square, RIGHT);
        let swapped = verdict(BESIDE, &[disc, square]);
        assert_eq!((swapped.swapped, wrong(swapped)), (Some(true), vec!["color", "bound"]));
        let disc = object(Color::Red, Shape::Circle, RIGHT);
        let square = object(Color::Blue, Shape::Square, LEFT);
        let moved = verdict(BESIDE, &[disc, square]);
        assert_eq!((moved.swapped, wrong(moved)), (Some(false), vec!["relation"]));
    }

    #[test]
    fn intervals_are_those_of_wilson() {
        let rate = Rate { right: 467, total: 500 };
        assert_eq!(rate.to_string(), "93.4 % (90.9–95.3, n=500)");
        assert_eq!(Rate { right: 0, total: 10 }.to_string(), "0.0 % (0.0–27.8, n=10)");
        assert_eq!(Rate { right: 10, total: 10 }.to_string(), "100.0 % (72.2–100.0, n=10)");
        assert_eq!(Rate::default().to_string(), "none");
    }

    #[test]
    fn true_pictures_are_read_right() {
        let world = ShapesWorld::new(5);
        for (side, n) in [(32, 400), (128, 100), (512, 20)] {
            let tally = calibrate(&world, side, n);
            assert!(tally.all.value() >= 0.99, "{side} pixels\n{tally}");
        }
    }
}

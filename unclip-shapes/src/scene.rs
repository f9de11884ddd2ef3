//! Scenes: everything there is to know about a picture before it is drawn, and how to draw lots
//! for one.
//!
//! Lengths are fractions of the picture's side, `[x, y]` from the top left corner.

use rand::{Rng, SeedableRng, rngs::ChaCha8Rng};
use serde::{Deserialize, Serialize};
use std::ops::Range;

use super::palette::{Background, Color, Position, Relation, Shape, Size, is_held_out};

/// What a picture shows, completely.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// What fills the rest of the picture.
    pub background: Background,
    /// The objects and how they lie.
    pub layout: Layout,
}

/// One object in a cell of the grid, or two in a relation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One object.
    Single {
        /// The object.
        object: Object,
        /// The cell that holds its center.
        position: Position,
    },
    /// Two objects that differ in color and in shape.
    Pair {
        /// The objects in the order of the caption.
        objects: [Object; 2],
        /// Where the first is, seen from the second.
        relation: Relation,
    },
}

/// One colored shape.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Its color.
    pub color: Color,
    /// Its outline.
    pub shape: Shape,
    /// Its size as captions name it.
    pub size: Size,
    /// Its radius.
    pub radius: f32,
    /// The center of its outline, `[x, y]`.
    pub center: [f32; 2],
}

/// Gap that is left between two objects, along the axis that their relation names.
pub const GAP: f32 = 0.02;

/// Furthest distance of a center from its usual place, in each direction.
pub const JITTER: f32 = 0.03;

impl Scene {
    /// The objects in the order of the caption, which is also the order of drawing.
    pub fn objects(&self) -> &[Object] {
        match &self.layout {
            Layout::Single { object, .. } => std::slice::from_ref(object),
            Layout::Pair { objects, .. } => objects,
        }
    }

    /// A scene of the training distribution: one object in 60 %, two in 40 %.
    pub(super) fn training(dice: &mut Dice) -> Self {
        if dice.chance(0.6) { Self::single(dice, false) } else { Self::pair(dice) }
    }

    /// One object, of a seen or of a held-out color-shape pair.
    pub(super) fn single(dice: &mut Dice, held_out: bool) -> Self {
        let background = dice.pick(&Background::ALL);
        let position = dice.pick(&Position::ALL);
        let object = Object::lot(dice, held_out);
        Self { background, layout: Layout::Single { object, position } }.arranged(dice)
    }

    /// Two objects of seen pairs that differ in color and in shape.
    pub(super) fn pair(dice: &mut Dice) -> Self {
        let background = dice.pick(&Background::ALL);
        let relation = dice.pick(&Relation::ALL);
        let first = Object::lot(dice, false);
        let second = dice.until(
            |dice| Object::lot(dice, false),
            |second| second.color != first.color && second.shape != first.shape,
        );
        Self { background, layout: Layout::Pair { objects: [first, second], relation } }
            .arranged(dice)
    }

    /// The same objects in their cell or relation, their exact centers drawn anew.
    pub(super) fn arranged(self, dice: &mut Dice) -> Self {
        let layout = match self.layout {
            Layout::Single { object, position } => {
                Layout::Single { object: object.placed(position.center(), dice), position }
            }
            Layout::Pair { objects: [first, second], relation } => {
                let [at, to] = relation.centers();
                let objects = dice.until(
                    |dice| [first.placed(at, dice), second.placed(to, dice)],
                    |[first, second]| first.gap(second) >= GAP,
                );
                Layout::Pair { objects, relation }
            }
        };
        Self { layout, ..self }
    }
}

impl Object {
    /// The box around the outline: left, top, right, bottom.
    pub fn bounds(&self) -> [f32; 4] {
        let ([x, y], extent) = (self.center, self.shape.extent());
        let [side, top, bottom] =
            [extent.side, extent.top, extent.bottom].map(|reach| reach * self.radius);
        [x - side, y - top, x + side, y + bottom]
    }

    /// A color, shape, size and radius by lot; the center is still that of the picture.
    fn lot(dice: &mut Dice, held_out: bool) -> Self {
        let (color, shape) = dice.until(
            |dice| (dice.pick(&Color::ALL), dice.pick(&Shape::ALL)),
            |&(color, shape)| is_held_out(color, shape) == held_out,
        );
        let size = dice.pick(&Size::ALL);
        Self { color, shape, size, radius: dice.within(size.radii()), center: [0.5, 0.5] }
    }

    /// The same object near a point, moved inwards where the border would cut it.
    fn placed(self, [x, y]: [f32; 2], dice: &mut Dice) -> Self {
        let x = x + dice.within(-JITTER..JITTER);
        let y = y + dice.within(-JITTER..JITTER);
        let extent = self.shape.extent();
        let [side, top, bottom] =
            [extent.side, extent.top, extent.bottom].map(|reach| reach * self.radius);
        Self { center: [x.clamp(side, 1.0 - side), y.clamp(top, 1.0 - bottom)], ..self }
    }

    /// The larger of the two gaps, across and down, between the boxes around two objects.
    fn gap(&self, other: &Self) -> f32 {
        let (a, b) = (self.bounds(), other.bounds());
        let along = |axis: usize| (b[axis] - a[axis + 2]).max(a[axis] - b[axis + 2]);
        along(0).max(along(1))
    }
}

/// A source of chance that gives the same lots on every machine and with every version of `rand`.
///
/// Only the generator is taken from `rand`, whose ChaCha streams are fixed; how its bits become
/// numbers is written here, since `rand` may change that between versions.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    /// The lots of one picture: every (stream, seed, index) has its own.
    pub(super) fn new(stream: u64, seed: u64, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&index.to_le_bytes());
        key[16..24].copy_from_slice(&stream.to_le_bytes());
        key[24..].copy_from_slice(b"shapes 1");
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in `range`.
    pub(super) fn within(&mut self, range: Range<f32>) -> f32 {
        range.start + (range.end - range.start) * self.unit()
    }

    /// True with this probability.
    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// One of several values, each equally likely.
    pub(super) fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        let at = (u64::from(self.0.next_u32()) * values.len() as u64) >> 32;
        values[at as usize]
    }

    /// Draws again until a lot is accepted.
    fn until<T>(&mut self, draw: impl Fn(&mut Self) -> T, accept: impl Fn(&T) -> bool) -> T {
        loop {
            let lot = draw(self);
            if accept(&lot) {
                return lot;
            }
        }
    }

    /// Uniform in [0, 1): the upper 24 bits, which `f32` holds exactly.
    fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenes(draw: impl Fn(&mut Dice) -> Scene) -> Vec<Scene> {
        (0..5_000).map(|index| draw(&mut Dice::new(9, 1, index))).collect()
    }

    #[test]
    fn the_dice_never_change() {
        let mut dice = Dice::new(1, 2, 3);
        let words: Vec<u32> = (0..3).map(|_| dice.0.next_u32()).collect();
        assert_eq!(words, [1_904_572_157, 647_907_523, 4_223_461_054]);
    }

    #[test]
    fn objects_lie_whole_in_the_picture_and_in_their_cell() {
        for scene in scenes(Scene::training) {
            for object in scene.objects() {
                let [left, top, right, bottom] = object.bounds();
                assert!(left >= -1e-6 && top >= -1e-6, "{object:?}");
                assert!(right <= 1.0 + 1e-6 && bottom <= 1.0 + 1e-6, "{object:?}");
                assert!(object.size.radii().contains(&object.radius));
                assert_eq!(Size::of(object.radius), object.size);
            }
            if let Layout::Single { object, position } = scene.layout {
                assert_eq!(Position::of(object.center), position);
            }
        }
    }

    #[test]
    fn two_objects_differ_and_keep_their_distance_and_relation() {
        for scene in scenes(Scene::pair) {
            let Layout::Pair { objects: [first, second], relation } = scene.layout else {
                panic!("one object: {scene:?}");
            };
            assert!(first.color != second.color && first.shape != second.shape);
            assert!(first.gap(&second) >= GAP);
            assert_eq!(Relation::of(first.center, second.center), relation);
        }
    }

    #[test]
    fn training_never_shows_a_held_out_pair_and_mixes_as_specified() {
        let scenes = scenes(Scene::training);
        let singles = scenes.iter().filter(|scene| scene.objects().len() == 1).count();
        assert!((2_850..3_150).contains(&singles), "{singles}");
        let held_out = |object: &Object| is_held_out(object.color, object.shape);
        assert!(!scenes.iter().flat_map(Scene::objects).any(held_out));
    }

    #[test]
    fn held_out_scenes_show_all_six_pairs_and_nothing_else() {
        let scenes = scenes(|dice| Scene::single(dice, true));
        let pairs: std::collections::BTreeSet<_> =
            scenes.iter().flat_map(Scene::objects).map(|o| (o.color, o.shape)).collect();
        assert_eq!(pairs, super::super::palette::HELD_OUT.into_iter().collect());
    }
}

//! Scenes that differ in one thing: what tells whether a network sees that thing at all.
//!
//! Among a hundred random scenes no two differ in their relation alone, so a network that compares
//! pictures with captions never needs to know it. Side by side with its minimal changes, a scene
//! can be told apart by the thing that changed and by nothing else.

use super::palette::{Background, Color, Position, Relation, Shape, Size, is_held_out, words};
use super::scene::{Dice, Layout, Object, Scene};
use super::{Description, Sample};

words! {
    /// The one thing in which two scenes differ.
    Change {
        /// The background.
        Background = "background",
        /// The cell of a single object.
        Position = "position",
        /// Where the first of two objects is, seen from the second.
        Relation = "relation",
        /// Two objects have exchanged their colors.
        SwappedColors = "swapped colors",
        /// Two objects have exchanged their shapes.
        SwappedShapes = "swapped shapes",
        /// The size of one object.
        Size = "size",
        /// The color of one object.
        Color = "color",
        /// The shape of one object.
        Shape = "shape",
    }
}

/// How often each change is practised, for one object and for two. Positions and what binds two
/// objects are the hardest to see.
const SINGLE: [(Change, f32); 5] = [
    (Change::Position, 0.4),
    (Change::Shape, 0.3),
    (Change::Size, 0.1),
    (Change::Color, 0.1),
    (Change::Background, 0.1),
];
const PAIR: [(Change, f32); 6] = [
    (Change::Relation, 0.2),
    (Change::SwappedColors, 0.15),
    (Change::SwappedShapes, 0.15),
    (Change::Shape, 0.25),
    (Change::Size, 0.15),
    (Change::Color, 0.1),
];

impl Change {
    /// Every scene that differs from `scene` in this thing alone, apart from where exactly its
    /// objects lie; none where the scene has no such thing. In a pair one object changes its
    /// size, color or shape. Held-out pairs never appear.
    pub(super) fn others(self, scene: &Scene, dice: &mut Dice) -> Vec<Scene> {
        let with = |layout| Scene { layout, ..*scene };
        let others: Vec<Scene> = match (self, scene.layout) {
            (Self::Background, layout) => {
                Background::ALL.map(|background| Scene { background, layout }).into()
            }
            (Self::Position, Layout::Single { object, .. }) => {
                Position::ALL.map(|position| with(Layout::Single { object, position })).into()
            }
            (Self::Relation, Layout::Pair { objects, .. }) => {
                Relation::ALL.map(|relation| with(Layout::Pair { objects, relation })).into()
            }
            (Self::SwappedColors, Layout::Pair { objects: [a, b], relation }) => {
                let objects = [Object { color: b.color, ..a }, Object { color: a.color, ..b }];
                vec![with(Layout::Pair { objects, relation })]
            }
            (Self::SwappedShapes, Layout::Pair { objects: [a, b], relation }) => {
                let objects = [Object { shape: b.shape, ..a }, Object { shape: a.shape, ..b }];
                vec![with(Layout::Pair { objects, relation })]
            }
            (Self::Size | Self::Color | Self::Shape, layout) => self.looks(layout, dice, with),
            (Self::Position, Layout::Pair { .. }) | (_, Layout::Single { .. }) => vec![],
        };
        let said = Description::of(scene);
        others
            .into_iter()
            .filter(|other| other.is_of_training() && Description::of(other) != said)
            .map(|other| other.arranged(dice))
            .collect()
    }

    /// The scenes in which one object looks different.
    fn looks(self, layout: Layout, dice: &mut Dice, with: impl Fn(Layout) -> Scene) -> Vec<Scene> {
        let changed = |object: Object, dice: &mut Dice| -> Vec<Object> {
            match self {
                Self::Size => Size::ALL
                    .map(|size| Object { size, radius: dice.within(size.radii()), ..object })
                    .into(),
                Self::Color => Color::ALL.map(|color| Object { color, ..object }).into(),
                _ => Shape::ALL.map(|shape| Object { shape, ..object }).into(),
            }
        };
        match layout {
            Layout::Single { object, position } => changed(object, dice)
                .into_iter()
                .map(|object| with(Layout::Single { object, position }))
                .collect(),
            Layout::Pair { objects: [first, second], relation } if dice.chance(0.5) => {
                let pair = |first| with(Layout::Pair { objects: [first, second], relation });
                changed(first, dice).into_iter().map(pair).collect()
            }
            Layout::Pair { objects: [first, second], relation } => {
                let pair = |second| with(Layout::Pair { objects: [first, second], relation });
                changed(second, dice).into_iter().map(pair).collect()
            }
        }
    }

    /// A change by lot that fits the scene.
    fn draw(scene: &Scene, dice: &mut Dice) -> Self {
        let weights: &[(Self, f32)] = match scene.layout {
            Layout::Single { .. } => &SINGLE,
            Layout::Pair { .. } => &PAIR,
        };
        let mut rest = dice.within(0.0..1.0);
        let drawn = weights.iter().find(|(_, weight)| {
            rest -= weight;
            rest < 0.0
        });
        drawn.map_or(weights[0].0, |&(change, _)| change)
    }
}

impl Scene {
    /// Whether training may show it: two objects differ in color and shape, and no pair of color
    /// and shape is held out.
    fn is_of_training(&self) -> bool {
        let differ = match self.layout {
            Layout::Single { .. } => true,
            Layout::Pair { objects: [a, b], .. } => a.color != b.color && a.shape != b.shape,
        };
        differ && !self.objects().iter().any(|object| is_held_out(object.color, object.shape))
    }
}

/// Two objects, and the same two the other way around.
pub(super) fn opposites(dice: &mut Dice) -> [Sample; 2] {
    let scene = Scene::pair(dice);
    let opposite = match scene.layout {
        Layout::Pair { objects, relation } => {
            Layout::Pair { objects, relation: relation.opposite() }
        }
        single => single,
    };
    let opposite = Scene { layout: opposite, ..scene }.arranged(dice);
    [scene, opposite].map(|scene| {
        let description = Description::of(&scene);
        Sample { scene, description, caption: description.to_string() }
    })
}

/// Scenes of a group.
pub(super) const GROUP: usize = 4;

/// A scene of one object or two, and others that differ from it or from each other in one thing.
/// Captions name everything, in varied words.
pub(super) fn contrasts(dice: &mut Dice) -> [Sample; GROUP] {
    let first = if dice.chance(0.5) { Scene::single(dice, false) } else { Scene::pair(dice) };
    let mut scenes = vec![first];
    while scenes.len() < GROUP {
        // where the first has no further change of this kind, one of its changes has
        let base = if scenes.len() == 1 { first } else { dice.pick(&scenes) };
        let mut others = Change::draw(&base, dice).others(&base, dice);
        while scenes.len() < GROUP && !others.is_empty() {
            let at = (dice.within(0.0..1.0) * others.len() as f32) as usize;
            let other = others.swap_remove(at);
            let said = Description::of(&other);
            if scenes.iter().all(|scene| Description::of(scene) != said) {
                scenes.push(other);
            }
        }
    }
    std::array::from_fn(|at| {
        let description = Description::of(&scenes[at]);
        Sample { scene: scenes[at], description, caption: description.worded(dice) }
    })
}

#[cfg(test)]
mod tests {
    use super::super::{ShapesWorld, Test};
    use super::*;

    #[test]
    fn a_change_changes_what_it_names_and_nothing_else() {
        let world = ShapesWorld::new(3);
        for (test, index) in (0..20).flat_map(|n| [(Test::SingleSeen, n), (Test::Pair, n)]) {
            let scene = world.test_sample(test, index).scene;
            for change in Change::ALL {
                for other in world.changes(change, &scene, index) {
                    let differs = [
                        scene.background != other.background,
                        place(&scene) != place(&other),
                        looks(&scene, &other, |object| object.color as usize),
                        looks(&scene, &other, |object| object.shape as usize),
                        looks(&scene, &other, |object| object.size as usize),
                    ];
                    let expected = match change {
                        Change::Background => 0,
                        Change::Position | Change::Relation => 1,
                        Change::Color | Change::SwappedColors => 2,
                        Change::Shape | Change::SwappedShapes => 3,
                        Change::Size => 4,
                    };
                    assert!(differs[expected], "{change}: {scene:?} {other:?}");
                    assert_eq!(differs.iter().filter(|&&d| d).count(), 1, "{change}: {other:?}");
                }
            }
        }
    }

    #[test]
    fn a_single_object_has_eight_other_places_and_a_pair_three_relations() {
        let world = ShapesWorld::new(3);
        let single = world.test_sample(Test::SingleSeen, 0).scene;
        let pair = world.test_sample(Test::Pair, 0).scene;
        let n = |change, scene| world.changes(change, scene, 0).len();
        assert_eq!((n(Change::Position, &single), n(Change::Relation, &single)), (8, 0));
        assert_eq!((n(Change::Position, &pair), n(Change::Relation, &pair)), (0, 3));
        assert_eq!((n(Change::Background, &pair), n(Change::Size, &pair)), (2, 1));
    }

    #[test]
    fn groups_are_of_training_and_hold_no_caption_twice() {
        let world = ShapesWorld::new(3);
        for index in 0..300 {
            let group = world.contrasts(index);
            let said: std::collections::HashSet<_> = group.iter().map(|s| s.description).collect();
            assert_eq!(said.len(), 4);
            assert!(group.iter().all(|sample| sample.scene.is_of_training()));
            assert_eq!(group, world.contrasts(index));
        }
    }

    #[test]
    fn opposites_differ_in_their_relation_alone() {
        for index in 0..100 {
            let [a, b] = ShapesWorld::new(3).opposites(index);
            let (Layout::Pair { relation, .. }, Layout::Pair { relation: other, .. }) =
                (a.scene.layout, b.scene.layout)
            else {
                panic!("{a:?}");
            };
            assert_eq!(relation.opposite(), other);
            let mut centers = a.scene.objects().iter().map(|object| object.center);
            let [first, second] = [0, 1].map(|_| centers.next().unwrap());
            assert_eq!(Relation::of(first, second), relation);
            assert!(!looks(&a.scene, &b.scene, |o| o.color as usize * 6 + o.shape as usize));
        }
    }

    fn place(scene: &Scene) -> (Option<Position>, Option<Relation>) {
        match scene.layout {
            Layout::Single { position, .. } => (Some(position), None),
            Layout::Pair { relation, .. } => (None, Some(relation)),
        }
    }

    fn looks(a: &Scene, b: &Scene, of: impl Fn(&Object) -> usize) -> bool {
        a.objects().iter().map(&of).ne(b.objects().iter().map(&of))
    }
}

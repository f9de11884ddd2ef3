//! The shapes world: procedural captioned pictures, and a checker that reads them back.
//!
//! Colored shapes on plain backgrounds, one or two at a time. It needs no download, never runs
//! out, and a program can tell whether a generated picture says what its caption says: the
//! bundled model is trained on it, and every stage is measured with it.
//!
//! ```text
//! ShapesWorld ── sample ──► Scene ── render ──► picture ── read ──► Reading ─┐
//!                             └──► Description ──► caption                   ├─ judge ──► Verdict ──► Tally
//!                             prompt ── parse ──► Description ───────────────┘
//! ```
//!
//! * [`Scene`]: everything there is to know about a picture.
//! * [`Description`]: what a caption names of it; written as text, and parsed from prompts.
//! * [`render`], [`render_into`]: a scene as pixels, of any size and any part of it.
//! * [`read`]: what a picture shows; [`judge`]: whether that is what a description names.
//! * [`Tally`]: how often, with confidence intervals; [`calibrate`]: how far the checker is to be
//!   trusted.
//!
//! The crate knows pixels and words. It must not know tensors, models or files.
//!
//! # Example
//! ```
//! use unclip_shapes::{Description, ShapesWorld, judge, read, render};
//!
//! let sample = ShapesWorld::new(7).sample(0);
//! assert_eq!(sample.caption, "a small blue triangle in the top on a grey background");
//! let picture = render(&sample.scene, 64);
//! let description = Description::parse(&sample.caption).expect("a caption");
//! assert!(judge(&description, &read(&picture)).all());
//! ```

mod caption;
mod checker;
mod contrast;
mod palette;
mod regions;
mod render;
mod scene;
mod score;

use serde::{Deserialize, Serialize};

pub use caption::{Description, Named, Subject};
pub use checker::{Reading, read};
pub use contrast::Change;
pub use palette::{
    Background, Color, Extent, HELD_OUT, Position, Relation, Shape, Size, is_held_out,
};
pub use render::{Region, render, render_into, render_region};
pub use scene::{GAP, JITTER, Layout, Object, Scene};
pub use score::{Attribute, Rate, Tally, Verdict, calibrate, grade, judge};

use scene::Dice;

/// An endless supply of captioned scenes with random access.
///
/// The same seed and index give the same sample on every machine and with every version of every
/// dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ShapesWorld {
    seed: u64,
}

/// One captioned scene.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What the picture shows.
    pub scene: Scene,
    /// What the caption names of it.
    pub description: Description,
    /// The caption.
    pub caption: String,
}

/// What to test a model on: captions that name everything, in the usual words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// One object of a color-shape pair that occurs in training.
    SingleSeen,
    /// One object of a pair kept out of training.
    SingleHeldOut,
    /// Two objects of pairs that occur in training.
    Pair,
}

/// The stream of lots behind training; those of tests have other numbers.
const TRAINING: u64 = 0;
/// Those of scenes that differ in one thing.
const OPPOSITES: u64 = 4;
const CONTRASTS: u64 = 5;
const CHANGES: u64 = 6;

impl ShapesWorld {
    /// The world grown from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Training sample number `index`: never a held-out pair, captions in varied words with
    /// attributes left out.
    pub fn sample(&self, index: u64) -> Sample {
        let mut dice = Dice::new(TRAINING, self.seed, index);
        let scene = Scene::training(&mut dice);
        let description = Description::of(&scene).thinned(&mut dice);
        let caption = description.worded(&mut dice);
        Sample { scene, description, caption }
    }

    /// Two objects and the same two the other way around, number `index`: captions that name
    /// everything, in the usual words.
    pub fn opposites(&self, index: u64) -> [Sample; 2] {
        contrast::opposites(&mut Dice::new(OPPOSITES, self.seed, index))
    }

    /// Group number `index` of scenes that differ in one thing, each from one of the others.
    /// Captions name everything, in varied words.
    pub fn contrasts(&self, index: u64) -> [Sample; contrast::GROUP] {
        contrast::contrasts(&mut Dice::new(CONTRASTS, self.seed, index))
    }

    /// Every scene of training that differs from this one in one thing alone; none if it has no
    /// such thing. In a pair it is one object, by lot, that changes its size, color or shape.
    pub fn changes(&self, change: Change, scene: &Scene, index: u64) -> Vec<Scene> {
        change.others(scene, &mut Dice::new(CHANGES, self.seed, index))
    }

    /// Test sample number `index`, drawn from another stream than every training sample.
    pub fn test_sample(&self, test: Test, index: u64) -> Sample {
        let mut dice = Dice::new(test.stream(), self.seed, index);
        let scene = match test {
            Test::SingleSeen => Scene::single(&mut dice, false),
            Test::SingleHeldOut => Scene::single(&mut dice, true),
            Test::Pair => Scene::pair(&mut dice),
        };
        let description = Description::of(&scene);
        Sample { scene, description, caption: description.to_string() }
    }
}

impl Test {
    /// Every test.
    pub const ALL: [Self; 3] = [Self::SingleSeen, Self::SingleHeldOut, Self::Pair];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SingleSeen => "single, seen",
            Self::SingleHeldOut => "single, held out",
            Self::Pair => "two objects",
        }
    }

    const fn stream(self) -> u64 {
        match self {
            Self::SingleSeen => 1,
            Self::SingleHeldOut => 2,
            Self::Pair => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_world_for_ever() {
        let world = ShapesWorld::new(7);
        let captions: Vec<String> = (0..4).map(|index| world.sample(index).caption).collect();
        let expected = [
            "a small blue triangle in the top on a grey background",
            "a picture of a yellow ring left of a blue square",
            "a small green cross below a red square on a white background",
            "a large cyan plus below a red ring",
        ];
        assert_eq!(captions, expected);
        assert_eq!(world.sample(3), ShapesWorld::new(7).sample(3));
        assert_ne!(world.sample(3).scene, ShapesWorld::new(8).sample(3).scene);
    }

    #[test]
    fn pictures_are_the_same_on_every_machine() {
        let world = ShapesWorld::new(7);
        let pictures = (0..50).map(|index| render(&world.sample(index).scene, 32));
        // Fowler, Noll and Vo's hash of all bytes.
        let hash = pictures
            .flat_map(image::RgbImage::into_raw)
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
        assert_eq!(hash, 8_478_182_913_176_497_929);
    }

    #[test]
    fn tests_and_training_draw_different_scenes() {
        let world = ShapesWorld::new(7);
        for index in 0..100 {
            let scene = world.sample(index).scene;
            assert!(Test::ALL.iter().all(|&test| world.test_sample(test, index).scene != scene));
        }
    }

    #[test]
    fn tests_name_everything_and_keep_to_their_pairs() {
        let world = ShapesWorld::new(7);
        for test in Test::ALL {
            for index in 0..500 {
                let Sample { scene, description, caption } = world.test_sample(test, index);
                assert_eq!(Description::parse(&caption), Some(Description::of(&scene)));
                assert_eq!(description, Description::of(&scene));
                let held_out = scene.objects().iter().any(|o| is_held_out(o.color, o.shape));
                assert_eq!(held_out, test == Test::SingleHeldOut, "{caption}");
                assert_eq!(scene.objects().len(), if test == Test::Pair { 2 } else { 1 });
            }
        }
    }
}

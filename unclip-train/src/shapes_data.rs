//! The shapes world as data to train on.

use unclip_core::resize::bicubic_8bit;
use unclip_shapes::{Region, Sample, ShapesWorld, render, render_into};

use crate::data::fill;
use crate::dataset::DataError;
use crate::draws::Draws;
use crate::shown::{Data, Items, Lesson, Shown, anywhere};

/// Captions from which a vocabulary is learned.
const VOCABULARY_CAPTIONS: u64 = 20_000;
/// Samples over which statistics are taken, whatever the seed of a run.
const STATISTICS_SAMPLES: u64 = 4096;
/// How much larger pictures are drawn that are then shrunk.
const LARGER: u32 = 4;

impl Shown for Sample {
    fn caption(&self) -> &str {
        &self.caption
    }

    fn draw(&self, part: Region, out: &mut [f32]) {
        render_into(&self.scene, part, out);
    }

    /// Shrunk as CLIP shrinks pictures.
    fn draw_shrunk(&self, side: u32, out: &mut [f32]) {
        fill(out, &bicubic_8bit(&render(&self.scene, side * LARGER), side, side));
    }

    /// Three of four lie around a point near the outline of an object, since most of a picture is
    /// flat.
    fn corner(&self, side: u32, crop: u32, draws: &mut Draws) -> [u32; 2] {
        let objects = self.scene.objects();
        let object = &objects[draws.below(1, objects.len())[0]];
        if draws.chance(0.25) {
            return anywhere(side, crop, draws);
        }
        object.center.map(|center| {
            let at = center + object.radius * draws.within(-1.2..1.2);
            let corner = at * side as f32 - crop as f32 / 2.0;
            corner.round().clamp(0.0, (side - crop) as f32) as u32
        })
    }
}

impl Data for ShapesWorld {
    fn batch(&self, step: u64, n: usize, _: u32, lesson: Lesson) -> Result<Items, DataError> {
        Ok(boxed(match lesson {
            Lesson::Contrast => contrasting_batch(self, step, n),
            Lesson::Mixed => mixed_batch(self, step, n),
        }))
    }

    fn typical(&self, chunk: u64, n: usize, _: u32) -> Result<Items, DataError> {
        if chunk * n as u64 >= STATISTICS_SAMPLES {
            return Ok(Items::new());
        }
        Ok(boxed(mixed_batch(&Self::new(0), chunk, n)))
    }

    fn captions(&self) -> Box<dyn Iterator<Item = String> + Send + '_> {
        Box::new((0..VOCABULARY_CAPTIONS).map(|index| self.sample(index).caption))
    }

    fn name(&self) -> String {
        String::new()
    }
}

fn boxed(samples: Vec<Sample>) -> Items {
    samples.into_iter().map(|sample| Box::new(sample) as Box<dyn Shown>).collect()
}

/// The samples of a training step: half random, half in groups of four that differ in one thing
/// and whose captions name everything.
fn mixed_batch(world: &ShapesWorld, step: u64, size: usize) -> Vec<Sample> {
    let first = step * size as u64;
    let groups = (size / 2).div_ceil(4) as u64;
    let mut samples: Vec<Sample> =
        (0..groups).flat_map(|n| world.contrasts(first + n)).take(size / 2).collect();
    let rest = size - samples.len();
    samples.extend((0..rest as u64).map(|n| world.sample(first + n)));
    samples
}

/// Steps at the beginning in which CLIP sees nothing but scenes beside their opposites.
///
/// What lies where is a plateau, and it has to be broken first: a batch of nothing else makes it
/// the only thing by which captions can be told apart.
const OPPOSITES_FIRST: u64 = 600;

/// The samples of a step of CLIP's training: two objects beside the same two the other way around;
/// later one fifth of those, half in groups of four that differ in one thing, the rest random.
fn contrasting_batch(world: &ShapesWorld, step: u64, size: usize) -> Vec<Sample> {
    let first = step * size as u64;
    let (opposites, contrasts) = match step {
        0..OPPOSITES_FIRST => (size, 0),
        _ => (size / 5, size / 2),
    };
    let at = |n: usize| first + n as u64;
    let mut samples: Vec<Sample> =
        (0..opposites.div_ceil(2)).flat_map(|n| world.opposites(at(n))).collect();
    samples.extend((0..contrasts.div_ceil(4)).flat_map(|n| world.contrasts(at(n))));
    samples.truncate(size);
    let rest = size - samples.len();
    samples.extend((0..rest).map(|n| world.sample(at(n))));
    samples
}

#[cfg(test)]
mod tests {
    use super::*;
    use unclip_shapes::Layout;

    #[test]
    fn lessons_begin_with_opposites_and_go_on_mixed() {
        let world = ShapesWorld::new(3);
        let pairs = |samples: &[Sample]| {
            let pair = |sample: &&Sample| matches!(sample.scene.layout, Layout::Pair { .. });
            samples.iter().filter(pair).count()
        };
        let first = contrasting_batch(&world, 0, 64);
        assert_eq!((first.len(), pairs(&first)), (64, 64));
        let later = contrasting_batch(&world, OPPOSITES_FIRST, 64);
        assert_eq!(later.len(), 64);
        assert!((20..60).contains(&pairs(&later)), "{}", pairs(&later));
        assert_ne!(later, contrasting_batch(&world, OPPOSITES_FIRST + 1, 64));
    }

    #[test]
    fn batches_of_any_size_are_full_and_follow_from_the_step() {
        let world = ShapesWorld::new(3);
        for size in [1, 2, 5, 32] {
            for step in [0, 1, OPPOSITES_FIRST] {
                assert_eq!(contrasting_batch(&world, step, size).len(), size);
                assert_eq!(mixed_batch(&world, step, size).len(), size);
                assert_eq!(mixed_batch(&world, step, size), mixed_batch(&world, step, size));
            }
        }
    }
}

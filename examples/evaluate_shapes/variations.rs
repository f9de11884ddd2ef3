//! Variations of pictures that the model made itself: the first thing that people do.
//!
//! Only pictures that show what they should are varied, at their full size; what the variation
//! shows is compared with the same caption. Places and sizes may change, so they are not counted.

use std::fmt;

use image::RgbImage;
use unclip::Error;
use unclip::decoder::Condition;
use unclip::train::shapes::{Attribute, Background, Description, Sample, Tally, Test, judge, read};

use crate::{Evaluation, is_right};

/// What a variation has to keep.
const KEPT: [Attribute; 4] =
    [Attribute::Count, Attribute::Background, Attribute::Color, Attribute::Shape];

pub(crate) struct Variations {
    /// Of right pictures, by kind and background.
    rows: Vec<(Test, Background, Tally)>,
}

pub(crate) fn measure(evaluation: &Evaluation) -> Result<Variations, Error> {
    let tests = [Test::SingleSeen, Test::Pair];
    // as many captions in all as one series of pictures has
    let each = evaluation.captions.div_ceil(tests.len());
    evaluation.begin("variations", tests.len() * each);
    let blank = tests.iter().flat_map(|&test| Background::ALL.map(|ground| (test, ground)));
    let mut rows: Vec<_> = blank.map(|(test, ground)| (test, ground, Tally::default())).collect();
    for test in tests {
        for indices in evaluation.large_batches(each) {
            let samples: Vec<Sample> =
                indices.iter().map(|&i| evaluation.world.test_sample(test, i)).collect();
            let pictures = evaluation.drawn(&samples, &indices)?;
            evaluation.bar.inc(samples.len() as u64);
            for (sample, picture) in evaluation.varied(&samples, pictures, &indices)? {
                let verdict = judge(&Description::of(&sample.scene), &read(&picture));
                let of = |row: &&mut (Test, Background, Tally)| {
                    (row.0, row.1) == (test, sample.scene.background)
                };
                rows.iter_mut().find(of).into_iter().for_each(|row| row.2.add(&verdict));
            }
        }
    }
    Ok(Variations { rows })
}

impl Evaluation {
    /// A variation of each picture that shows what it should, by the noise of other seeds than the
    /// picture's own, which would lead back to it.
    fn varied<'a>(
        &self,
        samples: &'a [Sample],
        pictures: Vec<RgbImage>,
        indices: &[u64],
    ) -> Result<Vec<(&'a Sample, RgbImage)>, Error> {
        let rows = samples.iter().zip(pictures).zip(indices);
        let rows = rows.filter(|((sample, picture), _)| is_right(sample, picture));
        let (pairs, indices): (Vec<_>, Vec<u64>) = rows.unzip();
        let (samples, pictures): (Vec<&Sample>, Vec<RgbImage>) = pairs.into_iter().unzip();
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let seeds: Vec<u64> =
            indices.iter().map(|i| self.seed.wrapping_add(i + (1 << 33))).collect();
        let image = self.unclip.embed_images(&pictures)?;
        let text = self.text(&vec![String::new(); seeds.len()])?;
        let made = self.finished(&Condition::new(image, text), &seeds)?;
        Ok(samples.into_iter().zip(made).collect())
    }
}

impl fmt::Display for Variations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (test, background, tally) in &self.rows {
            writeln!(f, "variations of own right pictures, {}, on {background}", test.name())?;
            for attribute in KEPT {
                writeln!(f, "{:<10}  {}", attribute.name(), tally.get(attribute))?;
            }
        }
        Ok(())
    }
}

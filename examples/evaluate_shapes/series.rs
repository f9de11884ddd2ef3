//! How often pictures of captions show what the captions say, by where the decoder's image
//! embedding comes from.

use std::fmt;
use std::ops::Range;

use unclip::Error;
use unclip::decoder::Condition;
use unclip::train::shapes::{
    Description, Sample, Scene, Tally, Test, calibrate, grade, judge, read,
};
use unclip::unclip_core::ImageEmbedding;
use unclip::unclip_core::image::to_rgb;

use crate::Evaluation;

/// Pictures on which the checker is calibrated.
const CALIBRATION: u64 = 2000;

/// Where the decoder's image embedding comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the caption through the prior: the system itself.
    Prior,
    /// From the true picture: what the prior can reach at best.
    TruePicture,
    /// The caption's own embedding: what there would be without a prior.
    TextEmbedding,
    /// Of another, random picture: how far the caption alone carries.
    Random,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::Prior => "(a) text, prior, decoder",
            Self::TruePicture => "(b) true picture's embedding, decoder",
            Self::TextEmbedding => "(c) text embedding, decoder",
            Self::Random => "(d) random picture's embedding, decoder",
        }
    }
}

/// Every series of pictures of the report.
const SERIES: [(Test, Way); 8] = [
    (Test::SingleSeen, Way::Prior),
    (Test::SingleSeen, Way::TruePicture),
    (Test::SingleSeen, Way::TextEmbedding),
    (Test::SingleSeen, Way::Random),
    (Test::SingleHeldOut, Way::Prior),
    (Test::SingleHeldOut, Way::TruePicture),
    (Test::Pair, Way::Prior),
    (Test::Pair, Way::TruePicture),
];

pub(crate) struct Series {
    /// The checker on true pictures.
    calibration: Tally,
    /// The checker on the true pictures of the captions of each test.
    checker: Vec<(Test, Tally)>,
    pictures: Vec<(Test, Way, Tally)>,
}

pub(crate) fn measure(evaluation: &Evaluation) -> Result<Series, Error> {
    let Evaluation { captions, batch, world, .. } = evaluation;
    evaluation.begin("pictures", SERIES.len() * captions);
    let mut pictures = Vec::new();
    for (test, way) in SERIES {
        let mut tally = Tally::default();
        for first in (0..*captions).step_by(*batch) {
            let range = first..(first + batch).min(*captions);
            evaluation.bar.inc(range.len() as u64);
            evaluation.batch(test, way, range, &mut tally)?;
        }
        pictures.push((test, way, tally));
    }
    let checker = Test::ALL.map(|test| {
        let samples = (0..*captions as u64).map(|index| world.test_sample(test, index));
        (test, grade(&samples.collect::<Vec<_>>(), evaluation.side()))
    });
    Ok(Series {
        calibration: calibrate(world, evaluation.side(), CALIBRATION),
        checker: checker.into(),
        pictures,
    })
}

impl Evaluation {
    fn batch(
        &self,
        test: Test,
        way: Way,
        range: Range<usize>,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let samples: Vec<Sample> =
            range.clone().map(|i| self.world.test_sample(test, i as u64)).collect();
        let captions: Vec<String> = samples.iter().map(|sample| sample.caption.clone()).collect();
        let scenes: Vec<Scene> = samples.iter().map(|sample| sample.scene).collect();
        let seeds: Vec<u64> = range.map(|i| self.seed.wrapping_add(i as u64)).collect();
        let mut run = self.unclip.run(&seeds);
        let text = self.text(&captions)?;
        let image = match way {
            Way::Prior => self.imagine(&text, &seeds)?,
            Way::TruePicture => self.true_embedding(&scenes)?,
            Way::TextEmbedding => ImageEmbedding(text.pooled.clone()),
            Way::Random => self.true_embedding(&self.others(&seeds))?,
        };
        let pictures = run.decode(&Condition::new(image, text), &self.decoder)?;
        let pictures = run.upsample(pictures, &self.upsample[..self.upsamplers])?;
        for (sample, picture) in samples.iter().zip(to_rgb(pictures)) {
            tally.add(&judge(&Description::of(&sample.scene), &read(&picture)));
        }
        Ok(())
    }

    /// Scenes that have nothing to do with those under test.
    fn others(&self, seeds: &[u64]) -> Vec<Scene> {
        seeds.iter().map(|&seed| self.world.sample(seed.wrapping_add(1 << 32)).scene).collect()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "checker on {CALIBRATION} true pictures of training\n{}", self.calibration)?;
        for (test, tally) in &self.checker {
            writeln!(f, "checker on the true pictures, {}\n{tally}", test.name())?;
        }
        for (test, way, tally) in &self.pictures {
            writeln!(f, "{}: {}\n{tally}", test.name(), way.name())?;
        }
        Ok(())
    }
}

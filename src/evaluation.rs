//! How well a shapes model draws what it is asked for: the report beside the bundled model.
//!
//! A program reads the pictures back, so the figures need no human and no other network. The same
//! program's reading of *true* pictures is printed beside them: no figure can be trusted further.

use std::fmt;

use burn::tensor::Tensor;
use unclip_core::{ImageEmbedding, InvalidSetting, TextEmbedding, normalize};
use unclip_decoder::Condition;
use unclip_train::shapes::{
    Description, Sample, ShapesWorld, Tally, Test, calibrate, judge, read, render,
};

use crate::{Error, StageOptions, StageSettings, UnClip};

/// Pictures among which a caption has to find its own.
const RETRIEVAL: usize = 100;
/// Pictures on which the checker is calibrated.
const CALIBRATION: u64 = 2000;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationOptions {
    /// Captions of each kind, 1 to 100,000.
    pub captions: usize,
    /// Seed of captions and pictures.
    pub seed: u64,
    /// Pictures made at once, 1 to 1,000.
    pub batch: usize,
    /// Upsamplers that a picture goes through before it is read.
    pub upsamplers: usize,
    /// The prior.
    pub prior: StageOptions,
    /// The decoder.
    pub decoder: StageOptions,
}

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

/// A model under test.
#[derive(Debug)]
pub struct Evaluation<'a> {
    unclip: &'a UnClip,
    options: EvaluationOptions,
    prior: StageSettings,
    decoder: StageSettings,
    upsample: Vec<StageSettings>,
    world: ShapesWorld,
}

impl<'a> Evaluation<'a> {
    /// # Errors
    /// Options out of range.
    pub fn new(unclip: &'a UnClip, options: EvaluationOptions) -> Result<Self, Error> {
        let bundle = unclip.bundle();
        let check = |name: &str, n: usize, most: usize| match n {
            n if (1..=most).contains(&n) => Ok(()),
            _ => Err(InvalidSetting::new(name, n, format!("1 to {most}"))),
        };
        check("captions", options.captions, 100_000)?;
        check("batch", options.batch, 1000)?;
        if options.upsamplers > bundle.upsamplers.len() {
            let expected = format!("at most {}", bundle.upsamplers.len());
            return Err(InvalidSetting::new("upsamplers", options.upsamplers, expected).into());
        }
        let upsample = bundle.upsamplers[..options.upsamplers].iter().map(|stage| {
            StageOptions::default().resolve("upsample", &stage.manifest.config.diffusion)
        });
        Ok(Self {
            unclip,
            options,
            prior: options.prior.resolve("prior", &bundle.prior()?.manifest.config.diffusion)?,
            decoder: options
                .decoder
                .resolve("decoder", &bundle.decoder.manifest.config.diffusion)?,
            upsample: upsample.collect::<Result<_, _>>()?,
            world: ShapesWorld::new(options.seed),
        })
    }

    /// Pictures that [`run`](Self::run) will make.
    pub fn pictures(&self) -> usize {
        SERIES.len() * self.options.captions
    }

    /// Side of the pictures that are read.
    fn side(&self) -> u32 {
        let bundle = self.unclip.bundle();
        let factors = bundle.upsamplers[..self.upsample.len()].iter();
        let factors = factors.map(|stage| stage.manifest.config.factor).product::<usize>();
        (bundle.decoder.manifest.config.unet.image_size * factors) as u32
    }

    /// Makes and reads all pictures; `progress` hears of each batch's size.
    ///
    /// # Errors
    /// What making a picture can give.
    pub fn run(&self, progress: &mut dyn FnMut(usize)) -> Result<Report, Error> {
        let mut series = Vec::new();
        for (test, way) in SERIES {
            let mut tally = Tally::default();
            for first in (0..self.options.captions).step_by(self.options.batch) {
                let end = (first + self.options.batch).min(self.options.captions);
                self.batch(test, way, first..end, &mut tally)?;
                progress(end - first);
            }
            series.push((format!("{}: {}", test.name(), way.name()), tally));
        }
        let (retrieval, cosine) = self.embeddings()?;
        Ok(Report {
            settings: self.settings(),
            calibration: calibrate(&self.world, self.side(), CALIBRATION),
            series,
            retrieval,
            cosine,
        })
    }

    fn settings(&self) -> String {
        format!(
            "{} captions of each kind, seed {}, read at {} px\nprior: {} steps, guidance {}; \
             decoder: {} steps of {:?}, guidance {}",
            self.options.captions,
            self.options.seed,
            self.side(),
            self.prior.steps,
            self.prior.guidance_scale,
            self.decoder.steps,
            self.decoder.sampler,
            self.decoder.guidance_scale,
        )
    }

    fn batch(
        &self,
        test: Test,
        way: Way,
        range: std::ops::Range<usize>,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let samples: Vec<Sample> =
            range.clone().map(|i| self.world.test_sample(test, i as u64)).collect();
        let seeds: Vec<u64> = range.map(|i| self.options.seed.wrapping_add(i as u64)).collect();
        let mut observer = ();
        let mut run = self.unclip.run(&seeds, &mut observer);
        let text = self.text(&samples)?;
        let image = match way {
            Way::Prior => run.prior(&text, &self.prior)?,
            Way::TruePicture => self.true_embedding(&samples)?,
            Way::TextEmbedding => ImageEmbedding(text.pooled.clone()),
            Way::Random => self.true_embedding(&self.others(&seeds))?,
        };
        let pictures = run.decode(&Condition { image, text }, &self.decoder)?;
        let pictures = run.upsample(pictures, &self.upsample)?;
        for (sample, picture) in samples.iter().zip(unclip_core::image::to_rgb(pictures)) {
            tally.add(&judge(&Description::of(&sample.scene), &read(&picture)));
        }
        Ok(())
    }

    /// Samples that have nothing to do with those under test.
    fn others(&self, seeds: &[u64]) -> Vec<Sample> {
        seeds.iter().map(|&seed| self.world.sample(seed.wrapping_add(1 << 32))).collect()
    }

    fn text(&self, samples: &[Sample]) -> Result<TextEmbedding, Error> {
        let captions: Vec<&str> = samples.iter().map(|sample| sample.caption.as_str()).collect();
        let tokens = self.unclip.bundle().tokenizer.encode(&captions);
        self.unclip.run(&[], &mut ()).encode(&tokens)
    }

    fn true_embedding(&self, samples: &[Sample]) -> Result<ImageEmbedding, Error> {
        let side = self.unclip.bundle().decoder.manifest.config.unet.image_size as u32;
        let pictures: Vec<_> = samples.iter().map(|s| render(&s.scene, side)).collect();
        self.unclip.embed_images(&pictures)
    }

    /// CLIP's retrieval both ways, and how close the prior's embeddings come to the true ones.
    fn embeddings(&self) -> Result<([f64; 2], [f64; 2]), Error> {
        let samples = self.different_captions();
        let seeds: Vec<u64> = (0..samples.len() as u64).collect();
        let text = self.text(&samples)?;
        let image = normalize(self.true_embedding(&samples)?.0);
        let mut observer = ();
        let prior = self.unclip.run(&seeds, &mut observer).prior(&text, &self.prior)?;
        let cosines = normalize(text.pooled).matmul(image.clone().transpose());
        let retrieval = [top_1(cosines.clone()), top_1(cosines.transpose())];
        let cosines = normalize(prior.0).matmul(image.transpose());
        let n = samples.len();
        let all = cosines.clone().sum().into_scalar::<f32>() as f64;
        let own = (cosines * Tensor::eye(n, &self.unclip.device())).sum().into_scalar::<f32>();
        let own = own as f64;
        let others = (all - own) / (n * (n - 1)).max(1) as f64;
        Ok((retrieval, [own / n as f64, others]))
    }

    fn different_captions(&self) -> Vec<Sample> {
        let mut samples: Vec<Sample> = Vec::new();
        let mut index = 0;
        while samples.len() < RETRIEVAL {
            let sample = self.world.test_sample(Test::SingleSeen, index);
            index += 1;
            if samples.iter().all(|other| other.caption != sample.caption) {
                samples.push(sample);
            }
        }
        samples
    }
}

/// The share of rows whose largest value lies on the diagonal.
fn top_1(scores: Tensor<2>) -> f64 {
    let n = scores.dims()[0];
    let best = scores.argmax(1).into_data();
    let right = best.iter::<i64>().enumerate().filter(|&(row, column)| row as i64 == column);
    right.count() as f64 / n as f64
}

/// The figures. Its `Display` is the report.
#[derive(Debug, Clone)]
pub struct Report {
    /// How the pictures were made.
    pub settings: String,
    /// The checker on true pictures.
    pub calibration: Tally,
    /// Each series of pictures.
    pub series: Vec<(String, Tally)>,
    /// Caption to picture, picture to caption: top 1 of 100.
    pub retrieval: [f64; 2],
    /// Mean cosine of the prior's embedding to the true one, and to those of other captions.
    pub cosine: [f64; 2],
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.settings)?;
        writeln!(f, "checker on {CALIBRATION} true pictures\n{}", self.calibration)?;
        for (name, tally) in &self.series {
            writeln!(f, "{name}\n{tally}")?;
        }
        let [to_picture, to_caption] = self.retrieval.map(|share| 100.0 * share);
        writeln!(
            f,
            "CLIP, top 1 of {RETRIEVAL}: caption to picture {to_picture:.0} %, picture to caption \
             {to_caption:.0} %"
        )?;
        let [own, others] = self.cosine;
        write!(
            f,
            "cosine of the prior's embedding: to the true one {own:.3}, to others {others:.3}"
        )
    }
}

//! The priors side by side, and what candidates gain.

use std::fmt;
use std::time::Instant;

use burn::tensor::Tensor;
use unclip::decoder::Condition;
use unclip::train::shapes::{Description, Rate, Sample, Scene, Test, judge, read};
use unclip::unclip_core::image::to_rgb;
use unclip::unclip_core::normalize;
use unclip::{Error, GenerateOptions, ImageEmbedding, PriorKind, PriorSettings, TextEmbedding};

use crate::Evaluation;

/// Numbers of candidates.
const CANDIDATES: [usize; 4] = [1, 2, 4, 8];

/// Single draws that are timed.
const TIMED: u64 = 5;

pub(crate) struct Priors {
    rows: Vec<Row>,
}

struct Row {
    kind: PriorKind,
    candidates: usize,
    /// Cosines to the caption and to the true picture, summed.
    cosines: [f64; 2],
    /// Pictures in which all is right.
    right: Rate,
    /// Of one embedding on its own, the fastest of some.
    seconds: f64,
}

pub(crate) fn measure(evaluation: &Evaluation) -> Result<Priors, Error> {
    let bundle = evaluation.unclip.bundle();
    let both = [
        bundle.prior.as_ref().map(|_| PriorKind::Diffusion),
        bundle.ar_prior.as_ref().map(|_| PriorKind::Autoregressive),
    ];
    let kinds: Vec<PriorKind> = both.into_iter().flatten().collect();
    evaluation.begin("priors", kinds.len() * CANDIDATES.len() * evaluation.captions);
    let mut rows = Vec::new();
    for kind in kinds {
        let options = GenerateOptions::default().with_prior_kind(kind);
        let Some(settings) = options.resolve(bundle)?.prior else { continue };
        for candidates in CANDIDATES {
            rows.push(evaluation.row(&settings, candidates)?);
        }
    }
    Ok(Priors { rows })
}

impl Evaluation {
    fn row(&self, settings: &PriorSettings, candidates: usize) -> Result<Row, Error> {
        let (mut cosines, mut right) = ([0.0; 2], Rate::default());
        for first in (0..self.captions).step_by(self.batch) {
            let numbers = first..(first + self.batch).min(self.captions);
            // held-out combinations and pairs in turn
            let sample = |number: usize| {
                let test = [Test::SingleHeldOut, Test::Pair][number % 2];
                self.world.test_sample(test, number as u64)
            };
            let samples: Vec<Sample> = numbers.clone().map(sample).collect();
            let seeds: Vec<u64> =
                numbers.map(|number| self.seed.wrapping_add(number as u64)).collect();
            let captions: Vec<String> = samples.iter().map(|it| it.caption.clone()).collect();
            let scenes: Vec<Scene> = samples.iter().map(|it| it.scene).collect();
            let text = self.text(&captions)?;
            let mut run = self.unclip.run(&seeds);
            let image = run.best_prior(&text, settings, candidates)?;
            cosines[0] += cosine(&image, &text.pooled);
            cosines[1] += cosine(&image, &self.true_embedding(&scenes)?.0);
            let pictures = run.decode(&Condition { image, text }, &self.decoder)?;
            let pictures = run.upsample(pictures, &self.upsample[..self.upsamplers])?;
            for (scene, picture) in scenes.iter().zip(to_rgb(pictures)) {
                right.add(judge(&Description::of(scene), &read(&picture)).all());
            }
            self.bar.inc(samples.len() as u64);
        }
        let cosines = cosines.map(|sum| sum / self.captions as f64);
        let text = self.text(&["a pink ring".to_string()])?;
        let seconds = self.seconds(&text, settings, candidates)?;
        Ok(Row { kind: settings.kind(), candidates, cosines, right, seconds })
    }

    fn seconds(
        &self,
        text: &TextEmbedding,
        settings: &PriorSettings,
        candidates: usize,
    ) -> Result<f64, Error> {
        let mut fastest = f64::INFINITY;
        for seed in 0..TIMED {
            let start = Instant::now();
            let image = self.unclip.run(&[seed]).best_prior(text, settings, candidates)?;
            // a GPU may not have begun
            drop(image.0.into_data());
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        Ok(fastest)
    }
}

/// Cosines of rows, summed.
fn cosine(image: &ImageEmbedding, other: &Tensor<2>) -> f64 {
    let product = normalize(image.0.clone()) * normalize(other.clone());
    f64::from(product.sum().into_scalar::<f32>())
}

impl fmt::Display for Priors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "priors: held-out combinations and pairs of objects, half each")?;
        writeln!(f, "prior      candidates  cosine to caption  to true picture  time  all right")?;
        for row in &self.rows {
            let [caption, picture] = row.cosines;
            let (kind, milliseconds) = (row.kind, 1000.0 * row.seconds);
            writeln!(
                f,
                "{kind:<10} {:>10} {caption:>18.4} {picture:>16.4} {milliseconds:>3.0} ms  {}",
                row.candidates, row.right
            )?;
        }
        Ok(())
    }
}

//! The priors side by side, what candidates gain, and the samplers of the diffusion prior.

use std::fmt;
use std::time::Instant;

use burn::tensor::Tensor;
use unclip::decoder::Condition;
use unclip::train::shapes::{Description, Rate, Sample, Scene, Test, judge, read};
use unclip::unclip_core::image::to_rgb;
use unclip::unclip_core::normalize;
use unclip::{
    AnalyticDpm, Ddim, Ddpm, DpmSolver, Error, ImageEmbedding, PriorKind, PriorSettings,
    SamplerKind, TextEmbedding,
};

use crate::Evaluation;

/// Numbers of candidates.
const CANDIDATES: [usize; 4] = [1, 2, 4, 8];

/// Single draws that are timed.
const TIMED: u64 = 5;

/// Numbers of steps.
const STEPS: [usize; 4] = [3, 5, 10, 25];

pub(crate) struct Priors {
    title: &'static str,
    rows: Vec<Row>,
}

struct Row {
    name: String,
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
        let mut options = evaluation.options.clone().with_prior_kind(kind);
        (options.gallery, options.neighbors) = (None, None);
        if kind != PriorKind::Diffusion {
            (options.prior.steps, options.prior.sampler) = (None, None);
        }
        let Some(settings) = options.resolve(bundle)?.prior else { continue };
        for candidates in CANDIDATES {
            rows.push(evaluation.row(format!("{kind}, {candidates}"), &settings, candidates)?);
        }
    }
    Ok(Priors { title: "prior, candidates", rows })
}

/// The diffusion prior by each sampler that it can have.
pub(crate) fn measure_samplers(evaluation: &Evaluation) -> Result<Priors, Error> {
    let bundle = evaluation.unclip.bundle();
    let Some(stage) = &bundle.prior else {
        return Ok(Priors { title: "no diffusion prior", rows: vec![] });
    };
    let suits = |kind: &SamplerKind| kind.suits(&stage.config().diffusion.variances()).is_ok();
    let kinds: Vec<SamplerKind> =
        [Ddpm.into(), AnalyticDpm.into(), Ddim { eta: 0.0 }.into(), DpmSolver::default().into()]
            .into_iter()
            .filter(suits)
            .collect();
    evaluation.begin("samplers", kinds.len() * STEPS.len() * evaluation.captions);
    let mut rows = Vec::new();
    for kind in kinds {
        for steps in STEPS {
            let mut options = evaluation.options.clone().with_prior_kind(PriorKind::Diffusion);
            options.prior.sampler = Some(kind.clone());
            options.prior.steps = Some(steps);
            let Some(settings) = options.resolve(bundle)?.prior else { continue };
            rows.push(evaluation.row(format!("{kind}, {steps}"), &settings, options.candidates)?);
        }
    }
    Ok(Priors { title: "sampler, steps", rows })
}

impl Evaluation {
    fn row(&self, name: String, settings: &PriorSettings, candidates: usize) -> Result<Row, Error> {
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
            let pictures = run.decode(&Condition::new(image, text), &self.decoder)?;
            let pictures = run.upsample(pictures, &self.upsample[..self.upsamplers])?;
            for (scene, picture) in scenes.iter().zip(to_rgb(pictures)) {
                right.add(judge(&Description::of(scene), &read(&picture)).all());
            }
            self.bar.inc(samples.len() as u64);
        }
        let cosines = cosines.map(|sum| sum / self.captions as f64);
        let text = self.text(&["a pink ring".to_string()])?;
        let seconds = self.seconds(&text, settings, candidates)?;
        Ok(Row { name, cosines, right, seconds })
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
        writeln!(f, "{:<17}  cosine to caption  to true picture    time  all right", self.title)?;
        for row in &self.rows {
            let [caption, picture] = row.cosines;
            let milliseconds = 1000.0 * row.seconds;
            writeln!(
                f,
                "{:<17}  {caption:>17.4} {picture:>16.4} {milliseconds:>4.0} ms  {}",
                row.name, row.right
            )?;
        }
        Ok(())
    }
}

//! Drawing image embeddings for captions, by any prior.

use std::time::Instant;

use burn::tensor::Tensor;
use unclip_core::{
    Draw, Guide, ImageEmbedding, InvalidSetting, NoiseSource, SeededNoise, Stage, TextEmbedding,
    check_guidance_scale, normalize,
};
use unclip_prior::{BoundArPrior, DiffusionPriorConfig};

use crate::bound::Listened;
use crate::finite::finite;
use crate::{Bound, Error, PriorSettings, Run, StageCost, StageId, StageSettings, Start};

/// A share of steps, at least one: what is left of a whole number is dropped, as by the reference.
pub(crate) fn share_of(steps: usize, share: f64) -> usize {
    ((share * steps as f64) as usize).clamp(1, steps)
}

/// The settings of a prior that can start from an embedding.
pub(crate) fn starting(settings: &PriorSettings) -> Result<&StageSettings, InvalidSetting> {
    match settings {
        PriorSettings::Diffusion(settings) => Ok(settings),
        other => {
            let expected = "diffusion: others cannot start from an embedding";
            Err(InvalidSetting::new("prior", other.kind(), expected))
        }
    }
}

/// The error for a negative prompt beside a prior that starts from a picture.
pub(crate) fn no_negative(negative_prompt: &str) -> InvalidSetting {
    let expected = "none: a prior that starts from a picture draws no embedding of it";
    InvalidSetting::new("negative prompt", format!("{negative_prompt:?}"), expected)
}

/// Refuses a share of steps that is none.
pub(crate) fn check_share(name: &str, share: f64) -> Result<(), InvalidSetting> {
    if share > 0.0 && share <= 1.0 {
        return Ok(());
    }
    Err(InvalidSetting::new(name, share, "a number above 0, up to 1"))
}

/// A prior with its captions fixed.
enum BoundPrior<'a> {
    Diffusion(Box<Bound<'a, DiffusionPriorConfig, 2>>),
    /// With its place among the costs.
    Autoregressive(Box<BoundArPrior>, usize),
    /// For each caption, the numbers of the nearest.
    Retrieval(Vec<Vec<usize>>),
}

impl<'a> Run<'a> {
    /// Runs the prior: text embeddings to image embeddings, `[seeds, d_embedding]`.
    ///
    /// # Errors
    /// Weights that cannot be read, a stop by the observer, or values that are not finite.
    ///
    /// # Panics
    /// If there is not one row for each seed.
    pub fn prior(
        &mut self,
        text: &TextEmbedding,
        settings: &PriorSettings,
    ) -> Result<ImageEmbedding, Error> {
        self.best_prior(text, settings, 1)
    }

    /// As [`prior`](Self::prior), with several candidates for each row, of which the one closest to
    /// its caption is kept (paper, section 2.2, which takes the better of two). The first candidate
    /// is that of the seed.
    ///
    /// # Errors
    /// As [`prior`](Self::prior); no candidate; recorded noise for more than one.
    ///
    /// # Panics
    /// As [`prior`](Self::prior).
    pub fn best_prior(
        &mut self,
        text: &TextEmbedding,
        settings: &PriorSettings,
        candidates: usize,
    ) -> Result<ImageEmbedding, Error> {
        if candidates == 0 || (candidates > 1 && self.noise.is_some()) {
            let expected = "at least 1, and no more with recorded noise";
            return Err(InvalidSetting::new("candidates", candidates, expected).into());
        }
        if !self.draws_negative() {
            return self.best_of(text, settings, candidates);
        }
        // captions, then the negative prompt for each of them, with seeds of its own
        let rows = self.seeds.len();
        let all = TextEmbedding::cat(vec![text.clone(), self.null_for_prior()?]);
        let others: Vec<u64> = self.seeds.iter().map(|seed| !seed).collect();
        let own = self.seeds.clone();
        self.seeds = own.iter().copied().chain(others).collect();
        self.is_doubled = true;
        let drawn = self.best_of(&all, settings, candidates);
        (self.seeds, self.is_doubled) = (own, false);
        let drawn = drawn?;
        let image = drawn.narrow(0, rows);
        self.negative_drawn = Some(drawn.narrow(rows, rows));
        self.trace_text(text);
        self.trace.prior = Some(image.clone());
        Ok(image)
    }

    /// As [`prior`](Self::prior), from noisy versions of embeddings, one row for each seed: a share of
    /// the prior's steps, at least one, takes them toward the captions (Kandinsky's prior from
    /// embeddings). A `strength` of 1 starts from pure noise, and one near 0 changes little.
    ///
    /// Noise is added to the embedding as the prior samples it, whitened; the reference adds it to the
    /// embedding as CLIP gives it, which is another point of the prior's space.
    ///
    /// # Errors
    /// As [`prior`](Self::prior); another prior than diffusion; a negative prompt that the prior would
    /// have to draw an embedding of.
    ///
    /// # Panics
    /// As [`prior`](Self::prior).
    pub fn prior_from(
        &mut self,
        image: &ImageEmbedding,
        text: &TextEmbedding,
        settings: &PriorSettings,
        strength: f64,
    ) -> Result<ImageEmbedding, Error> {
        check_share("strength of the prior", strength)?;
        let settings = starting(settings)?;
        if self.draws_negative() {
            return Err(no_negative(self.negative_prompt).into());
        }
        let bound = self.bind_prior(text, settings)?;
        let x_0 = bound.config.sample_of(&bound.network, image);
        let steps = Some(share_of(settings.steps, strength));
        let drawn = self.sample(&bound, Start { x_0: Some(x_0), steps, ..Start::default() })?;
        self.trace_text(text);
        self.trace.prior = Some(drawn.clone());
        Ok(drawn)
    }

    /// The best of several candidates for each row.
    fn best_of(
        &mut self,
        text: &TextEmbedding,
        settings: &PriorSettings,
        candidates: usize,
    ) -> Result<ImageEmbedding, Error> {
        let bound = self.bind_any_prior(text, settings)?;
        let own = self.seeds.to_vec();
        let towards = normalize(text.pooled.clone());
        let mut best: Option<(Tensor<2>, Tensor<2>)> = None;
        for k in 0..candidates as u64 {
            // the golden ratio's bits: the seeds of neighboring pictures stay apart
            let other = |seed: &u64| seed ^ k.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.seeds = own.iter().map(other).collect();
            let drawn = self.draw_prior(&bound);
            self.seeds = own.clone().into();
            let image = drawn?.0;
            let cosine = (normalize(image.clone()) * towards.clone()).sum_dim(1);
            best = Some(match best {
                None => (image, cosine),
                Some((kept, closest)) => {
                    let is_closer = cosine.clone().greater(closest.clone());
                    let rows = is_closer.clone().expand(image.dims());
                    (kept.mask_where(rows, image), closest.mask_where(is_closer, cosine))
                }
            });
        }
        let (image, _) = best.unwrap_or_else(|| unreachable!("at least one"));
        let image = ImageEmbedding(image);
        self.trace_text(text);
        self.trace.prior = Some(image.clone());
        Ok(image)
    }

    /// Writes down what a prior read of captions.
    fn trace_text(&mut self, text: &TextEmbedding) {
        let own = self.bundle.prior_text.is_some();
        let place = if own { &mut self.trace.prior_text } else { &mut self.trace.text };
        *place = Some(text.clone());
    }

    fn bind_any_prior(
        &mut self,
        text: &TextEmbedding,
        settings: &PriorSettings,
    ) -> Result<BoundPrior<'a>, Error> {
        Ok(match settings {
            PriorSettings::Diffusion(settings) => {
                BoundPrior::Diffusion(Box::new(self.bind_prior(text, settings)?))
            }
            PriorSettings::Autoregressive(settings) => {
                let scale = settings.guidance_scale;
                check_guidance_scale("ar_prior guidance", scale)?;
                let codes = self.bundle.ar_prior()?.config().n_codes;
                if settings.codes != codes {
                    let expected = format!("{codes}, which the model fixes");
                    return Err(InvalidSetting::new("codes", settings.codes, expected).into());
                }
                let null = if scale == 1.0 { None } else { Some(self.null_for_prior()?) };
                let slot = self.bundle.ar_prior()?;
                let (network, loading) = slot.network(self.placement)?;
                let start = Instant::now();
                let guide = null.as_ref().map(|null| Guide {
                    null,
                    scale,
                    image_scale: None,
                    within: None,
                });
                let bound = network.bind(text, guide);
                let cost = StageCost::new(slot.id(), loading, start, &network);
                self.costs.push(cost.of_rows(text.pooled.dims()[0]));
                BoundPrior::Autoregressive(Box::new(bound), self.costs.len() - 1)
            }
            PriorSettings::Retrieval(settings) => {
                let gallery = self.gallery()?;
                if !(1..=gallery.len()).contains(&settings.neighbors) {
                    let expected = format!("1 to {}, which the gallery has", gallery.len());
                    let found = settings.neighbors;
                    return Err(InvalidSetting::new("neighbors", found, expected).into());
                }
                if let (Some(noise), 2..) = (self.noise, settings.neighbors) {
                    let expected = "absent: which of several neighbors is taken, the seed says";
                    return Err(
                        InvalidSetting::new("recorded noise", noise.name(), expected).into()
                    );
                }
                let nearest = gallery.nearest(&text.pooled, settings.neighbors)?;
                let numbers = |row: Vec<(usize, f32)>| row.iter().map(|near| near.0).collect();
                BoundPrior::Retrieval(nearest.into_iter().map(numbers).collect())
            }
        })
    }

    /// One embedding for each seed.
    fn draw_prior(&mut self, bound: &BoundPrior<'_>) -> Result<ImageEmbedding, Error> {
        match bound {
            BoundPrior::Diffusion(bound) => self.sample(bound, Start::default()),
            BoundPrior::Autoregressive(bound, cost) => {
                let stage = StageId::ArPrior;
                let shape = [self.seeds.len(), 1];
                let mut noise: Box<dyn NoiseSource> = match self.noise {
                    None => Box::new(SeededNoise::new(&self.seeds, stage.noise_stream())),
                    Some(recorded) => Box::new(recorded.stage(
                        stage,
                        bound.n_codes(),
                        (&shape, self.is_doubled),
                    )?),
                };
                let preview = Box::new(|_: &Tensor<2>| None);
                let listened = Listened { stage, cost: *cost, preview };
                let drawn = self.listen(listened, |listen| {
                    bound.draw(&mut *noise, listen).map(|image| image.0)
                });
                Ok(ImageEmbedding(drawn?))
            }
            BoundPrior::Retrieval(nearest) => self.draw_near(nearest),
        }
    }

    /// One of the nearest for each seed, each as likely as the others.
    fn draw_near(&self, nearest: &[Vec<usize>]) -> Result<ImageEmbedding, Error> {
        let mut noise = SeededNoise::new(&self.seeds, StageId::Prior.noise_stream());
        let noise: &mut dyn NoiseSource = &mut noise;
        let device = &self.placement.device;
        let shares: Tensor<2> = noise.uniform(Draw::Initial, [nearest.len(), 1], device);
        let shares: Vec<f32> = shares.into_data().iter::<f32>().collect();
        let pick = |(near, share): (&Vec<usize>, &f32)| {
            near[((share * near.len() as f32) as usize).min(near.len() - 1)]
        };
        let rows: Vec<usize> = nearest.iter().zip(&shares).map(pick).collect();
        let image = self.gallery()?.rows(&rows, &self.placement.device);
        Ok(ImageEmbedding(finite(StageId::Prior, image.0)?))
    }
}

//! What CLIP sees of a picture, and how close the prior's embeddings come to the true ones.

use std::fmt;

use burn::tensor::Tensor;
use unclip::Error;
use unclip::train::ClipScore;
use unclip::train::shapes::{Sample, Scene, Test, render};
use unclip::unclip_core::{ImageEmbedding, TextEmbedding, normalize};

use crate::Evaluation;

/// Number of pictures among which a caption has to find its own.
const RETRIEVAL: usize = 100;

pub(crate) struct Sight {
    score: ClipScore,
    /// Caption to picture, picture to caption: top 1.
    retrieval: [f64; 2],
    /// Mean cosine of the prior's embedding to the true one, and to those of other captions.
    cosine: [f64; 2],
}

pub(crate) fn measure(evaluation: &Evaluation) -> Result<Sight, Error> {
    evaluation.begin("clip", ClipScore::QUESTIONS * evaluation.captions);
    let embed = |scenes: &[Scene], captions: &[String]| {
        let image = evaluation.true_embedding(scenes)?;
        evaluation.bar.inc(scenes.len() as u64);
        Ok::<_, Error>((image, evaluation.text(captions)?))
    };
    let score = ClipScore::measure(&evaluation.world, evaluation.captions, embed)?;
    let (scenes, captions) = different_captions(evaluation);
    let text = evaluation.text(&captions)?;
    let image = normalize(evaluation.true_embedding(&scenes)?.0);
    let cosines = normalize(text.pooled.clone()).matmul(image.clone().transpose());
    let retrieval = [top_1(cosines.clone()), top_1(cosines.transpose())];
    let seeds: Vec<u64> = (0..scenes.len() as u64).collect();
    let prior = evaluation.imagine(&text, &seeds)?;
    let cosine = own_and_others(normalize(prior.0).matmul(image.transpose()));
    Ok(Sight { score, retrieval, cosine })
}

impl Evaluation {
    /// Embeddings of captions.
    pub(crate) fn text(&self, captions: &[String]) -> Result<TextEmbedding, Error> {
        self.unclip.embed_texts(captions)
    }

    /// Embeddings of the true pictures of scenes.
    pub(crate) fn true_embedding(&self, scenes: &[Scene]) -> Result<ImageEmbedding, Error> {
        let side = self.unclip.bundle().image_encoder()?.config().image_size as u32;
        let pictures: Vec<_> = scenes.iter().map(|scene| render(scene, side)).collect();
        self.unclip.embed_images(&pictures)
    }
}

fn different_captions(evaluation: &Evaluation) -> (Vec<Scene>, Vec<String>) {
    let (mut scenes, mut captions) = (Vec::new(), Vec::new());
    for index in 0.. {
        let Sample { scene, caption, .. } = evaluation.world.test_sample(Test::SingleSeen, index);
        if scenes.len() == RETRIEVAL {
            break;
        }
        if !captions.contains(&caption) {
            scenes.push(scene);
            captions.push(caption);
        }
    }
    (scenes, captions)
}

/// The share of rows whose largest value lies on the diagonal.
fn top_1(scores: Tensor<2>) -> f64 {
    let n = scores.dims()[0];
    let best = scores.argmax(1).into_data();
    let right = best.iter::<i64>().enumerate().filter(|&(row, column)| row as i64 == column);
    right.count() as f64 / n as f64
}

/// Means of the diagonal and of the rest.
fn own_and_others(cosines: Tensor<2>) -> [f64; 2] {
    let n = cosines.dims()[0];
    let values: Vec<f64> = cosines.into_data().iter::<f64>().collect();
    let own: f64 = values.iter().step_by(n + 1).sum();
    let all: f64 = values.iter().sum();
    [own / n as f64, (all - own) / (n * (n - 1)).max(1) as f64]
}

impl fmt::Display for Sight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "CLIP: the true caption before every caption that differs in one thing")?;
        write!(f, "{}", self.score)?;
        let [to_picture, to_caption] = self.retrieval.map(|share| 100.0 * share);
        writeln!(
            f,
            "top 1 of {RETRIEVAL}: caption to picture {to_picture:.0} %, picture to caption \
             {to_caption:.0} %"
        )?;
        let [own, others] = self.cosine;
        writeln!(
            f,
            "cosine of the prior's embedding: to the true one {own:.3}, to others {others:.3}"
        )
    }
}

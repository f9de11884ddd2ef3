//! Drawing from the autoregressive prior.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Int, Tensor};
use unclip_core::{
    Draw, Guide, ImageEmbedding, Interrupted, NoiseSource, Observer, StepEvent, TextEmbedding,
};
use unclip_nn::KvCache;

use crate::ArPrior;
use crate::sequence::hidden;

/// An [`ArPrior`] that has read its captions, and what guidance leads away from, once for all that
/// it will write.
#[derive(Debug, Clone)]
pub struct BoundArPrior {
    prior: ArPrior,
    caption: KvCache,
    /// What tokens after the caption must not look at: `[rows, 1, later, seq]`.
    hidden: Tensor<4, Bool>,
    batch: usize,
    n_codes: usize,
    scale: Option<f64>,
}

impl ArPrior {
    /// Fixes the captions. All blocks read them here; later tokens only look back at them.
    ///
    /// Guidance acts on the scores of the buckets: u + scale·(c − u), as the paper's other stages
    /// have it on their predictions. A guide's range of noise levels means nothing here.
    ///
    /// # Panics
    /// If there is not one null caption for each given one.
    pub fn bind(
        &self,
        text: &TextEmbedding,
        guide: Option<Guide<'_, TextEmbedding>>,
    ) -> BoundArPrior {
        let both = match guide {
            None => text.clone(),
            Some(Guide { null, .. }) => {
                assert_eq!(text.batch(), null.batch(), "one null caption for each given one");
                TextEmbedding::cat(vec![text.clone(), null.clone()])
            }
        };
        let caption = self.positions(self.caption(&both), 0);
        let [_, seq, _] = self.positional_embedding.dims();
        let first = caption.dims()[1];
        let hidden = hidden(&both.mask, seq);
        let before = hidden.clone().narrow(2, 0, first).narrow(3, 0, first);
        BoundArPrior {
            prior: self.clone(),
            caption: self.transformer.prefill(caption, Some(before)),
            hidden: hidden.narrow(2, first, seq - first),
            batch: text.batch(),
            n_codes: seq - first,
            scale: guide.map(|guide| guide.scale),
        }
    }
}

impl BoundArPrior {
    /// Number of codes, which is the number of calls of the network.
    pub fn n_codes(&self) -> usize {
        self.n_codes
    }

    /// Draws an image embedding for each caption: first a similarity from the upper half of those
    /// that pairs have (the paper tried other parts, and found this one best), then code by code.
    /// The observer is called after each; its timestep is the number of codes that are left.
    ///
    /// # Errors
    /// [`Interrupted`] when the observer asked to stop.
    pub fn draw(
        &self,
        noise: &mut dyn NoiseSource,
        observer: &mut dyn Observer<2>,
    ) -> Result<ImageEmbedding, Interrupted> {
        let device = self.hidden.device();
        let mut uniform = |draw| noise.uniform::<2>(draw, [self.batch, 1], &device);
        let half = self.prior.unknown() / 2;
        let similarity = (uniform(Draw::Initial) * f64::from(half)).floor().int();
        let similarity = similarity.clamp_max(half - 1).reshape([self.batch]) + half;
        let mut token = self.prior.similarity_token(self.with_unknown(similarity));
        let mut cache = self.caption.clone();
        let mut codes: Option<Tensor<2, Int>> = None;
        // codes are finite whatever the odds are: what is not finite is carried along, and noticed
        let mut flaw = Tensor::<2>::zeros([self.batch, 1], &device);
        for index in 0..self.n_codes {
            let odds = self.odds(token, &mut cache, index);
            flaw = flaw + odds.clone().sum_dim(1) * 0.0;
            let left = self.n_codes - index;
            let code = pick(odds, uniform(Draw::Step(left)));
            let rows = self.rows(code.clone());
            token = self.prior.code_tokens(rows);
            let known = match codes.take() {
                None => code,
                Some(before) => Tensor::cat(vec![before, code], 1),
            };
            let so_far = self.prior.codebook.decode(codes.insert(known).clone()).0;
            let total = self.n_codes;
            let event = StepEvent { index, total, timestep: left - 1, x_0: &so_far };
            if observer.on_step(event).is_break() {
                return Err(Interrupted { done: index + 1, total });
            }
        }
        let codes = codes.unwrap_or_else(|| unreachable!("a configuration has at least one code"));
        Ok(ImageEmbedding(self.prior.codebook.decode(codes).0 + flaw))
    }

    /// Probabilities of the buckets of the next code, `[batch, n_buckets]`; the token before it is
    /// read and remembered.
    fn odds(&self, token: Tensor<3>, cache: &mut KvCache, index: usize) -> Tensor<2> {
        let seq = self.hidden.dims()[3];
        let place = seq - self.n_codes + index;
        let hidden = self.hidden.clone().narrow(2, index, 1).narrow(3, 0, place + 1);
        let x = self.prior.positions(token, place);
        let x = self.prior.transformer.extend(cache, x, Some(hidden));
        let logits: Tensor<2> = self.prior.logits(x).squeeze_dim(1);
        let given = logits.clone().narrow(0, 0, self.batch);
        let guided = match self.scale {
            None => given,
            Some(scale) => {
                let null = logits.narrow(0, self.batch, self.batch);
                null.clone() + (given - null) * scale
            }
        };
        softmax(guided, 1)
    }

    /// One row for each branch: what is written is the same for all.
    fn rows(&self, code: Tensor<2, Int>) -> Tensor<2, Int> {
        match self.scale {
            None => code,
            Some(_) => Tensor::cat(vec![code.clone(), code], 0),
        }
    }

    /// Similarities for every branch. How similar a picture is to the null caption is not known.
    fn with_unknown(&self, similarity: Tensor<1, Int>) -> Tensor<1, Int> {
        match self.scale {
            None => similarity,
            Some(_) => {
                let unknown = similarity.zeros_like() + self.prior.unknown();
                Tensor::cat(vec![similarity, unknown], 0)
            }
        }
    }
}

/// Draws from distributions by a number from 0 to 1 for each: `[batch, 1]`.
///
/// # Shapes
/// - `odds`: `[batch, n]`, each row sums to 1
/// - `uniform`: `[batch, 1]`
fn pick(odds: Tensor<2>, uniform: Tensor<2>) -> Tensor<2, Int> {
    let [batch, n] = odds.dims();
    let below = odds.cumsum(1).lower_equal(uniform.expand([batch, n]));
    // round-off may leave the sum of all below the number
    below.int().sum_dim(1).clamp_max(n as i32 - 1)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn numbers_pick_by_the_odds() {
        let device = Device::flex();
        let odds = [0.25, 0.0, 0.5, 0.25];
        for (uniform, expected) in [(0.0, 0), (0.24, 0), (0.26, 2), (0.74, 2), (0.76, 3), (1.0, 3)]
        {
            let uniform = Tensor::from_floats([[uniform]], &device);
            let picked = pick(Tensor::from_floats([odds], &device), uniform);
            assert_eq!(picked.into_scalar::<i32>(), expected);
        }
    }
}

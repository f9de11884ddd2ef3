//! The softmax of attention, one range of scores after the other.

use super::super::simd::exp;
use pulp::Simd;

/// Gives hidden keys the lowest score there is, and what is not a key, behind the first
/// `keys` scores, a lower one.
///
/// So a row of nothing but hidden keys has equal weights, none of them for the padding.
#[inline(always)]
pub fn hide(scores: &mut [f32], hidden: Option<&[bool]>, keys: usize) {
    if let Some(hidden) = hidden {
        for (score, hidden) in scores.iter_mut().zip(hidden) {
            *score = if *hidden { f32::MIN } else { *score };
        }
    }
    scores[keys..].fill(f32::NEG_INFINITY);
}

/// A softmax that goes on from one range of scores to the next.
#[derive(Clone, Copy)]
pub struct Softmax {
    /// The largest score.
    pub max: f32,
    /// The sum of `exp(score - max)`.
    pub sum: f32,
}

impl Softmax {
    pub const NOTHING: Self = Self { max: f32::MIN, sum: 0.0 };

    /// Turns scores, whole vectors of them, into `exp(score - max)`; returns the factor
    /// for sums of what earlier scores became.
    #[inline(always)]
    pub fn add<S: Simd>(&mut self, simd: S, scores: &mut [f32]) -> f32 {
        let scores = S::as_mut_simd_f32s(scores).0;
        let (mut max, start) = (simd.splat_f32s(self.max), self.max);
        for score in scores.iter() {
            max = simd.max_f32s(max, *score);
        }
        self.max = simd.reduce_max_f32s(max);
        let (max, mut sum) = (simd.splat_f32s(self.max), simd.splat_f32s(0.0));
        for score in scores {
            *score = weight(simd, simd.sub_f32s(*score, max));
            sum = simd.add_f32s(sum, *score);
        }
        let sum = simd.reduce_sum_f32s(sum);
        if self.sum == 0.0 {
            self.sum = sum;
            return 1.0;
        }
        let shrink = simd.reduce_max_f32s(weight(simd, simd.splat_f32s(start - self.max)));
        self.sum = self.sum * shrink + sum;
        shrink
    }
}

/// `exp(x)` of a difference to a maximum, which is not positive; zero below -87, where
/// the result would not be a normal number.
#[inline(always)]
pub fn weight<S: Simd>(simd: S, x: S::f32s) -> S::f32s {
    let gone = simd.less_than_f32s(x, simd.splat_f32s(-87.0));
    simd.select_f32s(gone, simd.splat_f32s(0.0), exp(simd, x))
}

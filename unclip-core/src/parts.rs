//! A batch in parts, for which less memory is enough.

use std::ops::Range;

use burn::tensor::Tensor;

use crate::{Denoiser, ImageEmbedding, Prediction, Step, TextEmbedding};

/// What has a row for each sample.
pub trait NarrowRows {
    /// NarrowRows `start .. start + len`.
    #[must_use]
    fn narrow(&self, start: usize, len: usize) -> Self;
}

impl NarrowRows for () {
    fn narrow(&self, _: usize, _: usize) {}
}

impl NarrowRows for TextEmbedding {
    fn narrow(&self, start: usize, len: usize) -> Self {
        self.narrow(start, len)
    }
}

impl NarrowRows for ImageEmbedding {
    fn narrow(&self, start: usize, len: usize) -> Self {
        self.narrow(start, len)
    }
}

/// Equal parts, but for the last, of so many rows, none of them of more than `most`.
///
/// ```
/// use unclip_core::split_rows;
///
/// assert_eq!(split_rows(7, 3), [0..3, 3..6, 6..7]);
/// assert_eq!(split_rows(4, 3), [0..2, 2..4]);
/// ```
pub fn split_rows(rows: usize, most: usize) -> Vec<Range<usize>> {
    let count = rows.div_ceil(most.max(1)).max(1);
    let each = rows.div_ceil(count).max(1);
    (0..rows).step_by(each).map(|first| first..rows.min(first + each)).collect()
}

/// Denoisers of parts of a batch as one of the whole of it: they are called one after the other. The rows
/// of a batch know nothing of each other, so that it makes no difference but of memory.
pub struct InParts<'a, const D: usize>(pub Vec<(Range<usize>, Box<dyn Denoiser<D> + 'a>)>);

impl<const D: usize> Denoiser<D> for InParts<'_, D> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        let part = |(rows, inner): &(Range<usize>, Box<dyn Denoiser<D> + '_>)| {
            inner.denoise(x_t.clone().narrow(0, rows.start, rows.len()), step)
        };
        let all: Vec<_> = self.0.iter().map(part).collect();
        let limit = all.first().and_then(|prediction| prediction.limit);
        let joined = |of: fn(&Prediction<D>) -> Option<Tensor<D>>| {
            let parts: Option<Vec<_>> = all.iter().map(of).collect();
            parts.filter(|parts| !parts.is_empty()).map(|parts| Tensor::cat(parts, 0))
        };
        Prediction {
            x_0: joined(|prediction| Some(prediction.x_0.clone())).unwrap_or(x_t.clone()),
            log_variance: joined(|prediction| prediction.log_variance.clone()),
            gradient: joined(|prediction| prediction.gradient.clone()),
            unclamped: joined(|prediction| prediction.unclamped.clone()),
            limit,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::{BetaSchedule, NoiseSchedule};

    proptest! {
        #[test]
        fn parts_are_the_whole(rows in 0usize..200, most in 0usize..70) {
            let parts = split_rows(rows, most);
            let all: Vec<usize> = parts.iter().cloned().flatten().collect();
            prop_assert_eq!(all, (0..rows).collect::<Vec<_>>());
            prop_assert!(parts.iter().all(|part| (1..=most.max(1)).contains(&part.len())));
        }
    }

    /// Predicts the sample itself, and its negative where something may be absent.
    struct Mirror(bool);

    impl Denoiser<2> for Mirror {
        fn denoise(&self, x_t: Tensor<2>, _: &Step) -> Prediction<2> {
            let negative = self.0.then(|| x_t.clone().neg());
            let (log_variance, gradient) = (negative.clone(), negative.clone());
            Prediction { log_variance, gradient, unclamped: negative, ..Prediction::new(x_t) }
        }
    }

    #[test]
    fn rows_come_back_in_their_places() {
        let x = Tensor::<2>::from_floats([[1.0], [2.0], [3.0], [4.0], [5.0]], &Device::flex());
        let step = &NoiseSchedule::new(BetaSchedule::SquaredCosine, 10).unwrap().step(3);
        for has in [true, false] {
            let part = |rows| (rows, Box::new(Mirror(has)) as Box<dyn Denoiser<2>>);
            let whole = Mirror(has).denoise(x.clone(), step);
            let prediction =
                InParts(split_rows(5, 2).into_iter().map(part).collect()).denoise(x.clone(), step);
            let values =
                |x: Option<Tensor<2>>| x.map(|x| x.into_data().iter::<f32>().collect::<Vec<_>>());
            let all = |p: Prediction<2>| {
                [Some(p.x_0), p.log_variance, p.gradient, p.unclamped].map(values)
            };
            assert_eq!(all(prediction), all(whole));
        }
    }
}

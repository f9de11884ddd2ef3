//! Moves in CLIP's space: text diffs and mixtures. Each keeps the lengths that embeddings have.

use burn::tensor::Tensor;

use crate::{ImageEmbedding, InvalidSetting, normalize, slerp};

/// Cosine below which two directions have no shortest way between them, in f32.
const OPPOSITE: f32 = -1.0 + 1e-6;
/// Shortest difference of two captions' directions that still says where to go.
const MIN_DIFFERENCE: f32 = 1e-4;

impl ImageEmbedding {
    /// The embeddings turned toward what `to` says and `from` does not (paper, section 3.3): by the
    /// share `theta` of the angle to the normalized difference of the two captions' directions. The
    /// paper goes up to 0.25 to 0.5. Lengths stay.
    ///
    /// # Shapes
    /// - `from`, `to`: `[batch, d_embedding]` or `[1, d_embedding]`,
    ///   [`TextEmbedding::pooled`](crate::TextEmbedding::pooled)
    ///
    /// # Errors
    /// `theta` outside [0, 1]; captions whose embeddings do not differ; embeddings of length 0 or
    /// that are not finite; other widths or numbers of rows.
    pub fn text_diff(
        &self,
        from: &Tensor<2>,
        to: &Tensor<2>,
        theta: f64,
    ) -> Result<Self, InvalidSetting> {
        InvalidSetting::check_range("theta", theta, 0.0, 1.0)?;
        let [from, to] = [("first caption", from), ("second caption", to)].map(|(name, rows)| {
            expect_rows(name, rows, &self.0)?;
            Ok(normalize(rows.clone()).expand(self.0.dims()))
        });
        let difference = to? - from?;
        if shortest(&difference) < MIN_DIFFERENCE {
            let expected = "two captions that say something else";
            return Err(InvalidSetting::new("text diff", "between equal captions", expected));
        }
        expect_rows("image embedding", &self.0, &self.0)?;
        let ends = (normalize(self.0.clone()), normalize(difference));
        Ok(Self(on_the_sphere(ends, theta)? * lengths(&self.0)))
    }

    /// The embeddings on the way to `other`, row by row: directions by [`slerp`], lengths by their
    /// weighted average (paper, section 3.2).
    ///
    /// # Errors
    /// `t` outside [0, 1]; opposite embeddings, between which there is no shortest way; embeddings
    /// of length 0 or that are not finite; other widths or numbers of rows.
    pub fn between(&self, other: &Self, t: f64) -> Result<Self, InvalidSetting> {
        InvalidSetting::check_range("interpolation position", t, 0.0, 1.0)?;
        let ends = [self, other];
        ends.iter().try_for_each(|end| expect_rows("image embedding", &end.0, &self.0))?;
        let [from, to] = ends.map(|end| normalize(end.0.clone()).expand(self.0.dims()));
        // the ends are what they are, without round-off
        if t == 0.0 {
            return Ok(self.clone());
        }
        if t == 1.0 {
            return Ok(Self(other.0.clone().expand(self.0.dims())));
        }
        let length = lengths(&self.0) * (1.0 - t) + lengths(&other.0) * t;
        Ok(Self(on_the_sphere((from, to), t)? * length))
    }

    /// The mixture of several embeddings, row by row: the weighted sum of their directions, as long
    /// as they are on the average by the weights' sizes. Weights count by their share; a negative
    /// one leads away.
    ///
    /// # Errors
    /// No part; weights that are not finite or that sum to 0 or less; parts that cancel each other
    /// out; embeddings of length 0 or that are not finite; other widths or numbers of rows.
    pub fn mix(parts: &[(Self, f64)]) -> Result<Self, InvalidSetting> {
        let weights: Vec<f64> = parts.iter().map(|(_, weight)| *weight).collect();
        let total: f64 = weights.iter().sum();
        let sizes: f64 = weights.iter().map(|weight| weight.abs()).sum();
        let Some(((first, _), true)) = parts.first().zip(Some(total > 0.0 && total.is_finite()))
        else {
            let expected = "at least one, finite, and with a sum above 0";
            return Err(InvalidSetting::new("weights", format!("{weights:?}"), expected));
        };
        let mut direction = Tensor::zeros_like(&first.0);
        let mut length = lengths(&first.0) * 0.0;
        for (part, weight) in parts {
            expect_rows("image embedding", &part.0, &first.0)?;
            direction = direction + normalize(part.0.clone()) * (weight / total);
            length = length + lengths(&part.0) * (weight.abs() / sizes);
        }
        if shortest(&direction) < MIN_DIFFERENCE || length.clone().min().into_scalar::<f32>() <= 0.0
        {
            let expected = "parts that do not cancel each other out";
            return Err(InvalidSetting::new("weights", format!("{weights:?}"), expected));
        }
        Ok(Self(normalize(direction) * length))
    }
}

/// Directions on the way from one to the other, of length 1.
fn on_the_sphere((from, to): (Tensor<2>, Tensor<2>), t: f64) -> Result<Tensor<2>, InvalidSetting> {
    let cosine = (from.clone() * to.clone()).sum_dim(1).min().into_scalar::<f32>();
    if cosine < OPPOSITE {
        let expected = "embeddings that are not opposite: no way between them is the shortest";
        return Err(InvalidSetting::new("cosine of the ends", cosine, expected));
    }
    Ok(normalize(slerp(from, to, t)?))
}

/// Refuses rows of another shape than `like` has (one row serves all), of length 0, or with values
/// that are not finite.
fn expect_rows(name: &str, rows: &Tensor<2>, like: &Tensor<2>) -> Result<(), InvalidSetting> {
    let (found, expected) = (rows.dims(), like.dims());
    if found[1] != expected[1] || ![1, expected[0]].contains(&found[0]) {
        let (name, found) = (format!("shape of the {name}"), format!("{found:?}"));
        return Err(InvalidSetting::new(name, found, format!("{expected:?}")));
    }
    let shortest = shortest(rows);
    if !(shortest > 0.0 && shortest.is_finite()) {
        let name = format!("length of the {name}");
        return Err(InvalidSetting::new(name, shortest, "a finite one above 0"));
    }
    Ok(())
}

/// `[batch, 1]`.
fn lengths(rows: &Tensor<2>) -> Tensor<2> {
    rows.clone().powf_scalar(2.0).sum_dim(1).sqrt()
}

/// Length of the shortest row; NaN or infinite if a value of any row is.
fn shortest(rows: &Tensor<2>) -> f32 {
    let lengths: Vec<f32> = lengths(rows).into_data().iter::<f32>().collect();
    match lengths.iter().find(|length| !length.is_finite()) {
        Some(&odd) => odd,
        None => lengths.into_iter().fold(f32::INFINITY, f32::min),
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn rows<const N: usize>(values: [[f32; 3]; N]) -> Tensor<2> {
        Tensor::from_floats(values, &Device::flex())
    }

    fn values(embedding: ImageEmbedding) -> Vec<f32> {
        embedding.0.into_data().iter::<f32>().collect()
    }

    fn near(found: &[f32], expected: &[f32]) {
        let close = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close && found.len() == expected.len(), "{found:?}, expected {expected:?}");
    }

    #[test]
    fn a_text_diff_turns_by_its_share_of_the_angle_and_keeps_lengths() {
        let image = ImageEmbedding(rows([[8.5, 0.0, 0.0], [0.0, 0.0, 2.0]]));
        let (from, to) = (rows([[0.0, 1.0, 0.0]]), rows([[0.0, 3.0, 0.0]]));
        // two lengths of one direction say the same
        let error = image.text_diff(&from, &to, 0.5).unwrap_err().to_string();
        assert!(error.contains("text diff"), "{error}");
        let to = rows([[0.0, -2.0, 0.0]]);
        let half = values(image.text_diff(&from, &to, 0.5).unwrap());
        let [a, b] = [8.5, 2.0].map(|length: f32| length * 0.5f32.sqrt());
        near(&half, &[a, -a, 0.0, 0.0, -b, b]);
        near(&values(image.text_diff(&from, &to, 0.0).unwrap()), &[8.5, 0.0, 0.0, 0.0, 0.0, 2.0]);
        near(&values(image.text_diff(&from, &to, 1.0).unwrap()), &[0.0, -8.5, 0.0, 0.0, -2.0, 0.0]);
    }

    #[test]
    fn the_way_between_two_keeps_its_ends_and_averages_lengths() {
        let [a, b] = [[4.0, 0.0, 0.0], [0.0, 2.0, 0.0]].map(|row| ImageEmbedding(rows([row])));
        near(&values(a.between(&b, 0.0).unwrap()), &[4.0, 0.0, 0.0]);
        near(&values(a.between(&b, 1.0).unwrap()), &[0.0, 2.0, 0.0]);
        let side = 3.0 * 0.5f32.sqrt();
        near(&values(a.between(&b, 0.5).unwrap()), &[side, side, 0.0]);
        near(&values(a.between(&a, 0.5).unwrap()), &[4.0, 0.0, 0.0]);
    }

    #[test]
    fn a_mixture_goes_by_shares_and_keeps_lengths() {
        let [a, b] = [[4.0, 0.0, 0.0], [0.0, 2.0, 0.0]].map(|row| ImageEmbedding(rows([row])));
        let side = 3.0 * 0.5f32.sqrt();
        for weights in [[0.5, 0.5], [7.0, 7.0]] {
            let parts = [(a.clone(), weights[0]), (b.clone(), weights[1])];
            near(&values(ImageEmbedding::mix(&parts).unwrap()), &[side, side, 0.0]);
        }
        let only = [(a.clone(), 2.0), (b, 0.0)];
        near(&values(ImageEmbedding::mix(&only).unwrap()), &[4.0, 0.0, 0.0]);
    }

    #[test]
    fn what_leads_nowhere_is_refused() {
        let image = ImageEmbedding(rows([[1.0, 2.0, 3.0]]));
        let [from, to] = [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]].map(|row| rows([row]));
        for theta in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(image.text_diff(&from, &to, theta).is_err(), "{theta}");
        }
        let zero = ImageEmbedding(rows([[0.0; 3]]));
        let odd = ImageEmbedding(rows([[f32::NAN, 0.0, 1.0]]));
        let two = ImageEmbedding(rows([[1.0; 3]; 2]));
        for image in [&zero, &odd] {
            assert!(image.text_diff(&from, &to, 0.5).is_err());
            assert!(ImageEmbedding::mix(&[(image.clone(), 1.0)]).is_err());
        }
        assert!(two.text_diff(&rows([[1.0; 3]; 3]), &to, 0.5).is_err());
        let away = ImageEmbedding(image.0.clone() * -1.0);
        assert!(image.between(&away, 0.5).is_err() && image.between(&zero, 0.5).is_err());
        assert!(image.between(&two, 0.5).is_err() && image.between(&image, 1.5).is_err());
        let refused: [&[(ImageEmbedding, f64)]; 6] = [
            &[],
            &[(image.clone(), 0.0)],
            &[(image.clone(), f64::NAN)],
            &[(image.clone(), 1.0), (image.clone(), -1.0)],
            &[(image.clone(), 1.0), (away, 1.0)],
            &[(image.clone(), 1.0), (two, 1.0)],
        ];
        for parts in refused {
            assert!(ImageEmbedding::mix(parts).is_err());
        }
    }
}

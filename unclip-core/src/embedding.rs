//! What the stages exchange: CLIP's embeddings of text and of images.

use burn::tensor::{Bool, Tensor};

use crate::InvalidSetting;

/// CLIP's view of a batch of captions.
#[derive(Debug, Clone)]
pub struct TextEmbedding {
    /// The captions as points of CLIP's space: `[batch, d_embedding]`, not normalized, unless the
    /// tower's `unit_length` is set.
    pub pooled: Tensor<2>,
    /// The text tower's final state of every token: `[batch, seq, d_model]`.
    pub tokens: Tensor<3>,
    /// Which tokens are real: `[batch, seq]`, true for the caption and its two marks, false for
    /// padding.
    pub mask: Tensor<2, Bool>,
}

impl TextEmbedding {
    /// Number of captions.
    pub fn batch(&self) -> usize {
        self.pooled.dims()[0]
    }

    /// Rows `start .. start + len`.
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        Self {
            pooled: self.pooled.clone().narrow(0, start, len),
            tokens: self.tokens.clone().narrow(0, start, len),
            mask: self.mask.clone().narrow(0, start, len),
        }
    }

    /// Repeats each row `n` times, copies next to each other.
    pub fn repeat_rows(&self, n: usize) -> Self {
        let rows = |row: usize| vec![self.narrow(row, 1); n];
        Self::cat((0..self.batch()).flat_map(rows).collect())
    }

    /// Concatenates several batches.
    pub fn cat(parts: Vec<Self>) -> Self {
        let mask = parts.iter().map(|p| p.mask.clone().int()).collect();
        Self {
            pooled: Tensor::cat(parts.iter().map(|p| p.pooled.clone()).collect(), 0),
            tokens: Tensor::cat(parts.iter().map(|p| p.tokens.clone()).collect(), 0),
            mask: Tensor::cat(mask, 0).equal_elem(1),
        }
    }
}

/// CLIP's view of a batch of images: `[batch, d_embedding]`, not normalized.
#[derive(Debug, Clone)]
pub struct ImageEmbedding(pub Tensor<2>);

impl ImageEmbedding {
    /// Number of images.
    pub fn batch(&self) -> usize {
        self.0.dims()[0]
    }

    /// Rows `start .. start + len`.
    #[must_use]
    pub fn narrow(&self, start: usize, len: usize) -> Self {
        Self(self.0.clone().narrow(0, start, len))
    }

    /// Repeats each row `n` times, copies next to each other.
    #[must_use]
    pub fn repeat_rows(&self, n: usize) -> Self {
        let rows = |row: usize| vec![self.narrow(row, 1); n];
        Self::cat((0..self.batch()).flat_map(rows).collect())
    }

    /// Concatenates several batches.
    #[must_use]
    pub fn cat(parts: Vec<Self>) -> Self {
        Self(Tensor::cat(parts.into_iter().map(|part| part.0).collect(), 0))
    }
}

/// Each row divided by its length; a row of zeros stays zero.
pub fn normalize(x: Tensor<2>) -> Tensor<2> {
    let length = x.clone().powf_scalar(2.0).sum_dim(1).sqrt();
    x / length.clamp_min(1e-12)
}

/// Spherical interpolation from `a` (t = 0) to `b` (t = 1), row by row, of embeddings or of noise;
/// lengths are interpolated linearly. Rows that point the same way, or exactly opposite ways (where
/// no shortest path exists), are interpolated linearly.
///
/// # Shapes
/// - `a`, `b`, result: `[batch, ..]`
///
/// # Example
/// ```
/// use burn::tensor::{Device, Tensor};
/// use unclip_core::slerp;
///
/// let [east, north] = [[1.0, 0.0], [0.0, 1.0]]
///     .map(|direction| Tensor::<2>::from_floats([direction], &Device::flex()));
/// let between = slerp(east, north, 0.5)?.into_data().into_vec::<f32>().unwrap();
/// assert!((between[0] - 0.5f32.sqrt()).abs() < 1e-6 && (between[1] - 0.5f32.sqrt()).abs() < 1e-6);
/// # Ok::<(), unclip_core::InvalidSetting>(())
/// ```
///
/// # Errors
/// `t` outside [0, 1], or ends of different shapes.
pub fn slerp<const D: usize>(
    a: Tensor<D>,
    b: Tensor<D>,
    t: f64,
) -> Result<Tensor<D>, InvalidSetting> {
    InvalidSetting::check_range("interpolation position", t, 0.0, 1.0)?;
    let shape = a.dims();
    if shape != b.dims() {
        let (found, expected) = (format!("{:?}", b.dims()), format!("{shape:?} as its start"));
        return Err(InvalidSetting::new("shape of the interpolation's end", found, expected));
    }
    // the ends are what they are, without round-off
    if t == 0.0 {
        return Ok(a);
    }
    if t == 1.0 {
        return Ok(b);
    }
    let values = a.shape().num_elements() / shape[0].max(1);
    let [a, b] = [a, b].map(|end| end.reshape([shape[0], values]));
    Ok(arc(a, b, t).reshape(shape))
}

/// The same of rows.
fn arc(a: Tensor<2>, b: Tensor<2>, t: f64) -> Tensor<2> {
    let length = |x: &Tensor<2>| x.clone().powf_scalar(2.0).sum_dim(1).sqrt();
    let (length_a, length_b) = (length(&a), length(&b));
    let (unit_a, unit_b) = (normalize(a.clone()), normalize(b.clone()));
    let cosine = (unit_a.clone() * unit_b.clone()).sum_dim(1).clamp(-1.0, 1.0);
    let angle = cosine.acos();
    let sine = angle.clone().sin();
    let degenerate = sine.clone().lower_elem(1e-4);
    let sine = sine.mask_fill(degenerate.clone(), 1.0);
    let weight_a = (angle.clone() * (1.0 - t)).sin() / sine.clone();
    let weight_b = (angle * t).sin() / sine;
    let arc = (unit_a * weight_a + unit_b * weight_b) * (length_a * (1.0 - t) + length_b * t);
    let shape = arc.dims();
    let line = a * (1.0 - t) + b * t;
    arc.mask_where(degenerate.expand(shape), line)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    fn row(values: [f32; 3]) -> Tensor<2> {
        Tensor::from_floats([values], &Device::flex())
    }

    fn distance(a: Tensor<2>, b: Tensor<2>) -> f32 {
        (a - b).abs().max().into_scalar::<f32>()
    }

    #[test]
    fn slerp_keeps_its_ends_and_halves_the_angle() {
        let (a, b) = (row([2.0, 0.0, 0.0]), row([0.0, 4.0, 0.0]));
        assert_eq!(distance(slerp(a.clone(), b.clone(), 0.0).unwrap(), a.clone()), 0.0);
        assert_eq!(distance(slerp(a.clone(), b.clone(), 1.0).unwrap(), b.clone()), 0.0);
        let middle = 3.0 * std::f32::consts::FRAC_1_SQRT_2;
        assert!(distance(slerp(a, b, 0.5).unwrap(), row([middle, middle, 0.0])) < 1e-5);
    }

    #[test]
    fn slerp_is_finite_where_the_angle_is_degenerate() {
        let a = row([1.0, 0.0, 0.0]);
        let half = slerp(a.clone(), a.clone() * -1.0, 0.5).unwrap();
        assert!(distance(half, row([0.0; 3])) < 1e-6);
        assert!(distance(slerp(a.clone(), a.clone(), 0.3).unwrap(), a.clone()) < 1e-6);
        let zero = slerp(row([0.0; 3]), a, 0.5).unwrap();
        assert!(zero.sum().into_scalar::<f32>().is_finite());
    }

    #[test]
    fn slerp_refuses_positions_outside_the_path() {
        for t in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(slerp(row([1.0; 3]), row([1.0; 3]), t).is_err());
        }
    }
}

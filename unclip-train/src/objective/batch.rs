//! Batches that can be cut into parts.

use burn::tensor::TensorData;
use unclip_clip::Tokens;

/// A batch that can be cut into parts.
pub trait Batch: Send + Sync + Sized {
    /// The items `start .. start + len`.
    #[must_use]
    fn narrow(&self, start: usize, len: usize) -> Self;
}

impl Batch for Tokens {
    fn narrow(&self, start: usize, len: usize) -> Self {
        Self::narrow(self, start, len)
    }
}

impl Batch for TensorData {
    fn narrow(&self, start: usize, len: usize) -> Self {
        let mut shape: Vec<usize> = self.shape().to_vec();
        let row = self.as_bytes().len() / shape[0].max(1);
        shape[0] = len;
        let bytes = self.as_bytes()[start * row..(start + len) * row].to_vec();
        Self::from_bytes_vec(bytes, shape, self.dtype())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_rows() {
        let data = TensorData::new((0..24).map(|it| it as f32).collect(), [4, 2, 3]);
        let part = Batch::narrow(&data, 1, 2);
        assert_eq!(part.shape().to_vec(), [2, 2, 3]);
        assert!(part.iter::<f32>().eq((6..18).map(|it| it as f32)));
        let whole = TensorData::new(vec![1, 2, 3i32], [3]);
        assert!(Batch::narrow(&whole, 2, 1).iter::<i32>().eq([3]));
    }
}

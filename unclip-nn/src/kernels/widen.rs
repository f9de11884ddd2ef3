//! 16-bit floats to f32.

use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::simd::JOB_VALUES;

/// The same values as f32; `wide` is overwritten.
///
/// # Panics
/// If the lengths differ.
pub fn widen<T: Sync>(narrow: &[T], wide: &mut [f32])
where
    [T]: HalfFloatSliceExt,
{
    assert_eq!(narrow.len(), wide.len(), "length");
    let pieces = narrow.par_chunks(JOB_VALUES).zip(wide.par_chunks_mut(JOB_VALUES));
    pieces.for_each(|(narrow, wide)| narrow.convert_to_f32_slice(wide));
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    /// All numbers there are.
    #[test]
    fn every_number_is_kept() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let mut wide = vec![f32::NAN; bits.len()];
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        let narrow: Vec<f16> = bits.iter().map(|&bits| f16::from_bits(bits)).collect();
        widen(&narrow, &mut wide);
        assert!(narrow.iter().zip(&wide).all(|(n, &wide)| same(n.to_f32_const(), wide)));
        let narrow: Vec<bf16> = bits.iter().map(|&bits| bf16::from_bits(bits)).collect();
        widen(&narrow, &mut wide);
        assert!(narrow.iter().zip(&wide).all(|(n, &wide)| same(n.to_f32_const(), wide)));
    }
}

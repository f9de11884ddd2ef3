//! Number formats of weights: in files, in memory, and in computation.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{DType, Device};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use unclip_core::InvalidSetting;

/// Number format of weights, in a file or in computation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats: half the size, three decimal digits, nothing beyond 65504.
    F16,
    /// The upper halves of 32-bit floats: half the size, two decimal digits, the same range.
    BF16,
}

impl Precision {
    /// burn's name of the format.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }

    /// Whether networks in this format can run on a device. The CPU runs all formats.
    pub fn is_supported(self, device: &Device) -> bool {
        is_cpu(device) || device.supports_dtype(self.dtype())
    }

    /// Bytes of a value.
    pub fn bytes_each(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Values in this format, and how many of them it turned infinite.
    pub(crate) fn bytes(self, values: &[f32]) -> (Vec<u8>, usize) {
        match self {
            Self::F32 => (bytemuck::cast_slice(values).to_vec(), 0),
            Self::F16 => narrow(values, f16::to_le_bytes, f16::is_infinite),
            Self::BF16 => narrow(values, bf16::to_le_bytes, bf16::is_infinite),
        }
    }
}

/// Whether a layer, by burn's name of its container, multiplies what it gets by its weight. These layers
/// work in 16 bits where a network does, and their weights alone decay in training.
pub fn is_product(container: &str) -> bool {
    matches!(container, "Struct:Linear" | "Struct:Conv2d")
}

/// Whether a device is the CPU, which computes on the threads of this process.
pub fn is_cpu(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// Values that one thread converts at once.
const PIECE: usize = 1024;

/// The same values as f32.
pub(crate) fn widen<T: Sync>(narrow: &[T]) -> Vec<f32>
where
    [T]: HalfFloatSliceExt,
{
    let mut wide = vec![0.0; narrow.len()];
    let pieces = narrow.par_chunks(PIECE).zip(wide.par_chunks_mut(PIECE));
    pieces.for_each(|(narrow, wide)| narrow.convert_to_f32_slice(wide));
    wide
}

/// Values narrowed to `T`, and how many of them that turned infinite.
fn narrow<T: Default + Copy>(
    values: &[f32],
    bytes: fn(T) -> [u8; 2],
    is_infinite: fn(T) -> bool,
) -> (Vec<u8>, usize)
where
    [T]: HalfFloatSliceExt,
{
    let mut all = vec![0; 2 * values.len()];
    let pieces = values.par_chunks(PIECE).zip(all.par_chunks_mut(2 * PIECE));
    let lost = pieces.map(|(values, all)| {
        let mut narrowed = [T::default(); PIECE];
        let narrowed = &mut narrowed[..values.len()];
        narrowed.convert_from_f32_slice(values);
        all.as_chunks_mut().0.iter_mut().zip(&*narrowed).for_each(|(all, &v)| *all = bytes(v));
        let pairs = values.iter().zip(&*narrowed);
        pairs.filter(|&(v, &narrowed)| v.is_finite() && is_infinite(narrowed)).count()
    });
    let lost = lost.sum();
    (all, lost)
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = InvalidSetting;

    fn from_str(name: &str) -> Result<Self, InvalidSetting> {
        match name.to_ascii_lowercase().as_str() {
            "f32" | "fp32" | "float32" | "float" => Ok(Self::F32),
            "f16" | "fp16" | "float16" | "half" => Ok(Self::F16),
            "bf16" | "bfloat16" => Ok(Self::BF16),
            _ => Err(InvalidSetting::new("precision", name, "f32, f16 or bf16")),
        }
    }
}

/// Where a network runs, and in which number format; a device alone means f32.
///
/// In a 16-bit format, the weights of linear layers and convolutions, their products, and
/// activations have 16 bits; norms and softmax, and everything outside the networks (schedules,
/// samplers, what stages exchange), stay f32. The CPU has no 16-bit arithmetic: it keeps the
/// weights in half the memory and widens each when it is used.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The device.
    pub device: Device,
    /// The number format.
    pub precision: Precision,
}

impl From<&Device> for Placement {
    fn from(device: &Device) -> Self {
        (device, Precision::default()).into()
    }
}

impl From<(&Device, Precision)> for Placement {
    fn from((device, precision): (&Device, Precision)) -> Self {
        Self { device: device.clone(), precision }
    }
}

impl From<&Self> for Placement {
    fn from(placement: &Self) -> Self {
        placement.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_its_format_and_others_are_refused() {
        for precision in [Precision::F32, Precision::F16, Precision::BF16] {
            assert_eq!(precision.to_string().parse::<Precision>().unwrap(), precision);
        }
        for (name, here) in [("fp16", Precision::F16), ("FP32", Precision::F32)] {
            assert_eq!(name.parse::<Precision>().unwrap(), here);
        }
        let message = "fp8".parse::<Precision>().unwrap_err().to_string();
        assert!(message.contains("fp8") && message.contains("f32, f16 or bf16"), "{message}");
    }

    /// All numbers there are.
    #[test]
    fn every_number_is_kept() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        let narrow: Vec<f16> = bits.iter().map(|&bits| f16::from_bits(bits)).collect();
        assert!(narrow.iter().zip(widen(&narrow)).all(|(n, wide)| same(n.to_f32_const(), wide)));
        let narrow: Vec<bf16> = bits.iter().map(|&bits| bf16::from_bits(bits)).collect();
        assert!(narrow.iter().zip(widen(&narrow)).all(|(n, wide)| same(n.to_f32_const(), wide)));
    }

    #[test]
    fn what_turns_infinite_is_counted() {
        let values = [1.0, 65504.0, 65520.0, f32::MAX, f32::INFINITY];
        let (bytes, lost) = Precision::F16.bytes(&values);
        let back: Vec<f32> =
            bytes.as_chunks().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect();
        assert_eq!(back, [1.0, 65504.0, f32::INFINITY, f32::INFINITY, f32::INFINITY]);
        assert_eq!(lost, 2);
        assert_eq!(Precision::BF16.bytes(&values).1, 1);
        assert_eq!(Precision::F32.bytes(&values).1, 0);
    }
}

//! Opens fixtures: what a reference implementation was given, what it answered, and the weights it
//! had. The test binaries of all crates include this file; `tools/reference` writes what it reads.

#![allow(dead_code, reason = "no crate needs all of it")]

use std::path::Path;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};

/// An open fixture of the crate under test.
pub(crate) struct Fixture {
    bytes: Vec<u8>,
    device: Device,
}

impl Fixture {
    /// Opens `tests/fixtures/<name>.safetensors`.
    pub(crate) fn open(name: &str) -> Self {
        Self::open_on(name, Device::flex())
    }

    /// The same, with tensors on a device of the caller's choice.
    pub(crate) fn open_on(name: &str, device: Device) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let bytes = std::fs::read(folder.join(format!("{name}.safetensors"))).unwrap();
        Self { bytes, device }
    }

    /// The hyper-parameters, as JSON.
    pub(crate) fn config(&self) -> String {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).unwrap();
        header.metadata().as_ref().unwrap()["config"].clone()
    }

    /// An f32 tensor; a scalar has one dimension here.
    pub(crate) fn tensor<const D: usize>(&self, key: &str) -> Tensor<D> {
        let (shape, bytes) = self.read(key, Dtype::F32);
        let values = numbers(&bytes, f32::from_le_bytes);
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// An integer tensor.
    pub(crate) fn integers<const D: usize>(&self, key: &str) -> Tensor<D, Int> {
        let (shape, bytes) = self.read(key, Dtype::I64);
        let values = numbers(&bytes, i64::from_le_bytes);
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }

    /// The values of an integer tensor that cannot be negative.
    pub(crate) fn counts(&self, key: &str) -> Vec<usize> {
        let (_, bytes) = self.read(key, Dtype::I64);
        numbers(&bytes, |b| usize::try_from(i64::from_le_bytes(b)).unwrap())
    }

    /// A mask: true where the fixture has 1.
    pub(crate) fn mask<const D: usize>(&self, key: &str) -> Tensor<D, Bool> {
        self.integers(key).equal_elem(1)
    }

    /// The values of an f64 tensor.
    pub(crate) fn doubles(&self, key: &str) -> Vec<f64> {
        numbers(&self.read(key, Dtype::F64).1, f64::from_le_bytes)
    }

    /// The tensors below `prefix`, without it, as a weights file of their own.
    pub(crate) fn weights(&self, prefix: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let weights = file
            .tensors()
            .into_iter()
            .filter_map(|(key, view)| Some((key.strip_prefix(prefix)?.to_owned(), view)));
        safetensors::serialize(weights.collect::<Vec<_>>(), None).unwrap()
    }

    fn read(&self, key: &str, format: Dtype) -> (Vec<usize>, Vec<u8>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(key).unwrap();
        assert_eq!(view.dtype(), format, "{key}");
        let shape = match view.shape() {
            [] => vec![1],
            shape => shape.to_vec(),
        };
        (shape, view.data().to_vec())
    }
}

fn numbers<T, const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (chunks, []) = bytes.as_chunks::<N>() else { panic!("a whole number of values") };
    chunks.iter().map(|&chunk| number(chunk)).collect()
}

/// Fails if any value differs by more than `tolerance` times the largest one wanted.
pub(crate) fn assert_close<const D: usize>(
    what: &str,
    got: Tensor<D>,
    want: Tensor<D>,
    tolerance: f64,
) {
    let (difference, scale) = difference(what, got, want);
    let error = difference / scale;
    assert!(error <= tolerance, "{what}: off by {error:.1e} of {scale:.1e}, not {tolerance:.0e}");
}

/// The largest difference, infinite where a value is NaN, and the largest value wanted.
pub(crate) fn difference<const D: usize>(
    what: &str,
    got: Tensor<D>,
    want: Tensor<D>,
) -> (f64, f64) {
    assert_eq!(got.dims(), want.dims(), "{what}: shape");
    let [got, want] = [got, want].map(|x| x.into_data().iter::<f64>().collect::<Vec<_>>());
    let larger = |a: f64, b: f64| if b.is_nan() { f64::INFINITY } else { a.max(b) };
    let difference = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, larger);
    (difference, want.iter().map(|v| v.abs()).fold(f64::MIN_POSITIVE, larger))
}

/// Values between −1.7 and 1.7 with variance 1, the same for the same seed.
pub(crate) fn noise<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    // SplitMix64: variety, not statistics, is what tests need
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let unit = ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u64 << 24) as f32;
        (2.0 * unit - 1.0) * 3.0f32.sqrt()
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

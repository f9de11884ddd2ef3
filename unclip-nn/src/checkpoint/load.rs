//! From a file into a module, strict in both directions.

use std::collections::HashSet;
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use safetensors::Dtype;
use serde::de::DeserializeOwned;

use unclip_core::Limit;

use super::weights::transpose;
use super::{KeyMap, LoadError, Mismatch, Weights, read_text};
use crate::{Placement, Precision, is_product};

/// Reads a JSON configuration. The caller validates its fields.
///
/// # Errors
/// A file that is missing, not regular, over [`Limit::ConfigBytes`], not JSON, or with fields that are
/// missing, unknown or of the wrong type.
pub fn load_config<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    parse_config(path, &read_text(path, Limit::ConfigBytes)?)
}

/// Parses a JSON configuration that is already in memory; `path` is named in errors.
///
/// # Errors
/// Not JSON, or fields that are missing, unknown or of the wrong type.
pub fn parse_config<T: DeserializeOwned>(path: &Path, json: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(json).map_err(|source| LoadError::Json { path: path.into(), source })
}

/// Replaces every parameter of `module` with the file's. Fresh weights that were not used yet are
/// never computed, and each tensor is read straight into the memory that the backend keeps.
///
/// # Errors
/// [`LoadError::Weights`] if a tensor is missing, left over, misshapen or of a number format that
/// is not read; [`LoadError::NonFinite`] if one holds NaN or infinite values;
/// [`LoadError::Overflow`] if one holds values that the precision asked for cannot hold.
pub fn load_weights<M: Module>(
    module: M,
    weights: &Weights,
    keys: &KeyMap,
    placement: impl Into<Placement>,
) -> Result<M, LoadError> {
    let mut loader = Loader {
        weights,
        keys,
        placement: placement.into(),
        path: Vec::new(),
        containers: Vec::new(),
        used: HashSet::new(),
        mismatch: Mismatch::default(),
        error: None,
    };
    let module = module.map(&mut loader);
    if let Some(error) = loader.error {
        return Err(error);
    }
    let mut mismatch = loader.mismatch;
    mismatch.unused = weights.keys().into_iter().filter(|k| !loader.used.contains(k)).collect();
    if mismatch.is_empty() { Ok(module) } else { Err(located(mismatch, weights)) }
}

/// The error for a mismatch, in the words of the file that it is about. Of several files, the
/// first one's.
fn located(mismatch: Mismatch, weights: &Weights) -> LoadError {
    let Mismatch { missing, unused, misshapen, formats } = mismatch;
    let keys = missing.iter().chain(&unused).chain(misshapen.iter().map(|(key, ..)| key));
    let first = keys.chain(formats.iter().map(|(key, _)| key)).next();
    let path = first.map_or(weights.path(), |key| weights.place(key).0);
    let inside = |key: &String| {
        let (place, key) = weights.place(key);
        (place == path).then(|| key.to_string())
    };
    let misshapen = misshapen.into_iter();
    let formats = formats.into_iter();
    let mismatch = Mismatch {
        missing: missing.iter().filter_map(inside).collect(),
        unused: unused.iter().filter_map(inside).collect(),
        misshapen: misshapen.filter_map(|(key, a, b)| Some((inside(&key)?, a, b))).collect(),
        formats: formats.filter_map(|(key, format)| Some((inside(&key)?, format))).collect(),
    };
    LoadError::Weights { path: path.into(), mismatch: Box::new(mismatch) }
}

struct Loader<'a> {
    weights: &'a Weights,
    keys: &'a KeyMap,
    placement: Placement,
    path: Vec<String>,
    containers: Vec<String>,
    used: HashSet<String>,
    mismatch: Mismatch,
    error: Option<LoadError>,
}

impl Loader<'_> {
    /// PyTorch keeps the matrix of a linear layer as `[d_output, d_input]`, burn the other way.
    ///
    /// A transposed view would do for the mathematics, but products with it round differently for
    /// different numbers of rows: a picture would depend on its batch in the last bits.
    fn is_transposed(&self, rank: usize) -> bool {
        rank == 2 && is_linear_weight(&self.path, &self.containers)
    }

    /// The tensor for the parameter at the current path, or `None` after noting what is wrong.
    fn tensor<const D: usize>(&mut self, expected: [usize; D]) -> Option<Tensor<D>> {
        let key = self.keys.key(&self.path);
        let transposed = self.is_transposed(D);
        let mut shape = expected.to_vec();
        if transposed {
            shape.reverse();
        }
        let Some(found) = self.weights.shape(&key) else {
            self.mismatch.missing.push(key);
            return None;
        };
        self.used.insert(key.clone());
        if found != shape {
            self.mismatch.misshapen.push((key, shape, found.to_vec()));
            return None;
        }
        if let Some(format) = self.weights.dtype(&key).filter(|&format| !is_read(format)) {
            self.mismatch.formats.push((key, format!("{format:?}")));
            return None;
        }
        let values = match self.weights.read(&key) {
            Ok(values) => values?,
            Err(error) => {
                self.error.get_or_insert(error);
                return None;
            }
        };
        let values = if transposed { transpose(&values, expected[0]) } else { values };
        self.place(&key, values, expected)
    }

    /// Takes values to the device, in the number format that their layer has there.
    fn place<const D: usize>(
        &mut self,
        key: &str,
        values: Vec<f32>,
        shape: [usize; D],
    ) -> Option<Tensor<D>> {
        let Placement { device, precision } = &self.placement;
        let is_of_product = self.containers.last().is_some_and(|container| is_product(container));
        if *precision == Precision::F32 || !is_of_product {
            return Some(Tensor::from_data(TensorData::new(values, shape), device));
        }
        let (bytes, count) = precision.bytes(&values);
        if count > 0 {
            let (path, key) = self.weights.place(key);
            let (path, key, format) = (path.into(), key.to_string(), *precision);
            self.error.get_or_insert(LoadError::Overflow { path, key, count, format });
            return None;
        }
        let data = TensorData::from_bytes_vec(bytes, shape, precision.dtype());
        Some(Tensor::from_data(data, (device, precision.dtype())))
    }
}

fn is_read(format: Dtype) -> bool {
    matches!(format, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Whether the innermost container of a path is a linear layer, and the field its matrix.
pub(super) fn is_linear_weight(path: &[String], containers: &[String]) -> bool {
    path.last().is_some_and(|name| name == "weight")
        && containers.last().is_some_and(|container| container == "Struct:Linear")
}

impl ModuleMapper for Loader<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.into());
        self.containers.push(container.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let expected = param.lazy_shape().dims();
        match self.tensor(expected) {
            Some(tensor) => Param::initialized(param.id, tensor),
            None => param,
        }
    }
}

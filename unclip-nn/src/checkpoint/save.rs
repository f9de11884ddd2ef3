//! From a module into a file, whole or not at all.

use std::io::{BufWriter, Write};
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use safetensors::Dtype;
use safetensors::tensor::{TensorInfo, TensorView};

use super::load::is_linear_weight;
use super::whole::{Pending, write_whole};
use super::{KeyMap, LoadError};
use crate::Precision;

/// Writes every parameter of `module`, under the names and in the orientation of PyTorch.
///
/// # Errors
/// [`LoadError::Io`] if the file cannot be written, [`LoadError::NonFinite`] if a value is not a
/// finite number, [`LoadError::Overflow`] if the format cannot hold it. Either way, a file that was
/// there before is unchanged.
pub fn save_weights<M: Module>(
    module: &M,
    path: &Path,
    keys: &KeyMap,
    format: Precision,
) -> Result<(), LoadError> {
    save_part(module, "", path, keys, format)
}

/// As [`save_weights`], for the parameters whose keys begin with `prefix`, under keys without it.
///
/// # Errors
/// As [`save_weights`].
pub fn save_part<M: Module>(
    module: &M,
    prefix: &str,
    path: &Path,
    keys: &KeyMap,
    format: Precision,
) -> Result<(), LoadError> {
    let mut collector =
        Collector { keys, prefix, path: Vec::new(), containers: Vec::new(), tensors: Vec::new() };
    module.visit(&mut collector);
    let mut tensors = collector.tensors;
    // the order in which safetensors itself writes
    tensors.sort_by(|a, b| a.key.cmp(&b.key));
    let io = |source| LoadError::Io { path: path.into(), source };
    let file = Pending::begin(path)?;
    let mut writer = BufWriter::new(file.as_file());
    writer.write_all(&header(path, &tensors, format)?).map_err(io)?;
    for tensor in &tensors {
        // one after the other: no second copy of the module
        let values: Vec<f32> = (tensor.data)().iter::<f32>().collect();
        expect_finite(path, &tensor.key, &values)?;
        let (bytes, count) = format.bytes(&values);
        if count > 0 {
            let (path, key) = (path.into(), tensor.key.clone());
            return Err(LoadError::Overflow { path, key, count, format });
        }
        writer.write_all(&bytes).map_err(io)?;
    }
    writer.flush().map_err(io)?;
    drop(writer);
    file.finish()
}

/// Refuses what no loader would take: values that are not numbers, or infinite.
fn expect_finite(path: &Path, key: &str, values: &[f32]) -> Result<(), LoadError> {
    let count = values.par_iter().filter(|value| !value.is_finite()).count();
    match count {
        0 => Ok(()),
        _ => Err(LoadError::NonFinite { path: path.into(), key: key.into(), count }),
    }
}

/// Length and header of a safetensors file.
fn header(path: &Path, tensors: &[Stored], format: Precision) -> Result<Vec<u8>, LoadError> {
    let json = |source| LoadError::Json { path: path.into(), source };
    // transformers refuses files that do not say of which library they are
    let mut header = r#"{"__metadata__":{"format":"pt"}"#.to_string();
    let mut end = 0;
    for Stored { key, shape, .. } in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * format.dtype().size();
        let (dtype, shape) = (stored(format), shape.clone());
        let info = TensorInfo { dtype, shape, data_offsets: (start, end) };
        let key = serde_json::to_string(key).map_err(json)?;
        header += &format!(",{key}:{}", serde_json::to_string(&info).map_err(json)?);
    }
    header.push('}');
    let len = header.len().next_multiple_of(8);
    let mut bytes = (len as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}

/// Writes named tensors (shape and values, row by row) in f32, with notes by name
/// ([`Weights::note`](super::Weights::note)).
///
/// # Errors
/// [`LoadError::Io`] if the file cannot be written; [`LoadError::Header`] if shape and values
/// contradict each other; [`LoadError::NonFinite`] if a value is not a finite number.
pub fn save_tensors(
    path: &Path,
    tensors: &[(String, Vec<usize>, Vec<f32>)],
    notes: &[(&str, String)],
) -> Result<(), LoadError> {
    let damaged = |error: safetensors::SafeTensorError| LoadError::Header {
        path: path.into(),
        message: error.to_string(),
    };
    let views = tensors
        .iter()
        .map(|(key, shape, values)| {
            expect_finite(path, key, values)?;
            let bytes = bytemuck::cast_slice(values);
            Ok((key, TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(damaged)?))
        })
        .collect::<Result<Vec<_>, LoadError>>()?;
    let notes = notes.iter().map(|(name, note)| (name.to_string(), note.clone())).collect();
    write_whole(path, &safetensors::serialize(views, Some(notes)).map_err(damaged)?)
}

/// A number format as safetensors calls it.
fn stored(format: Precision) -> Dtype {
    match format {
        Precision::F32 => Dtype::F32,
        Precision::F16 => Dtype::F16,
        Precision::BF16 => Dtype::BF16,
    }
}

/// A parameter on its way into a file.
struct Stored {
    key: String,
    shape: Vec<usize>,
    data: Box<dyn Fn() -> TensorData>,
}

struct Collector<'a> {
    keys: &'a KeyMap,
    prefix: &'a str,
    path: Vec<String>,
    containers: Vec<String>,
    tensors: Vec<Stored>,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.push(name.into());
        self.containers.push(container.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
        self.containers.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = self.keys.key(&self.path);
        let Some(key) = key.strip_prefix(self.prefix).map(String::from) else {
            return;
        };
        let tensor = param.val();
        let mut shape = tensor.dims().to_vec();
        let transposed = D == 2 && is_linear_weight(&self.path, &self.containers);
        if transposed {
            shape.reverse();
        }
        let data = move || {
            if transposed {
                tensor.clone().transpose().into_data()
            } else {
                tensor.clone().into_data()
            }
        };
        self.tensors.push(Stored { key, shape, data: Box::new(data) });
    }
}

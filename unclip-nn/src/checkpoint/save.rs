//! From a module into a file, whole or not at all.

use std::io::Write;
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::file::expect_regular;
use super::load::is_linear_weight;
use super::{KeyMap, LoadError};

/// Number format of a written file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaveFormat {
    /// 32-bit floats.
    F32,
    /// 16-bit floats: half the size, three decimal digits.
    F16,
}

/// Writes every parameter of `module`, under the names and in the orientation of PyTorch.
///
/// # Errors
/// [`LoadError::Io`] if the file cannot be written; what stood there before then still does.
pub fn save_weights<M: Module>(
    module: &M,
    path: &Path,
    keys: &KeyMap,
    format: SaveFormat,
) -> Result<(), LoadError> {
    let mut collector =
        Collector { keys, format, path: Vec::new(), containers: Vec::new(), tensors: Vec::new() };
    module.visit(&mut collector);
    let dtype = match format {
        SaveFormat::F32 => Dtype::F32,
        SaveFormat::F16 => Dtype::F16,
    };
    let damaged = |error: safetensors::SafeTensorError| LoadError::Header {
        path: path.into(),
        message: error.to_string(),
    };
    let views = collector
        .tensors
        .iter()
        .map(|(key, shape, bytes)| Ok((key, TensorView::new(dtype, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(damaged)?;
    write_whole(path, &safetensors::serialize(views, None).map_err(damaged)?)
}

/// Writes named tensors (shape and values, row by row) in f32.
///
/// # Errors
/// [`LoadError::Io`] if the file cannot be written; [`LoadError::Header`] if shape and values
/// contradict each other.
pub fn save_tensors(
    path: &Path,
    tensors: &[(String, Vec<usize>, Vec<f32>)],
) -> Result<(), LoadError> {
    let damaged = |error: safetensors::SafeTensorError| LoadError::Header {
        path: path.into(),
        message: error.to_string(),
    };
    let views = tensors
        .iter()
        .map(|(key, shape, values)| {
            let bytes = bytemuck::cast_slice(values);
            Ok((key, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(damaged)?;
    write_whole(path, &safetensors::serialize(views, None).map_err(damaged)?)
}

/// Writes a file so that it is there whole or not at all: beside its place, then moved.
///
/// # Errors
/// [`LoadError::Io`], with the path that was asked for; [`LoadError::NotAFile`] if something else
/// than a file stands there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), LoadError> {
    let io = |source| LoadError::Io { path: path.into(), source };
    if let Ok(metadata) = std::fs::metadata(path) {
        // moving a file onto a device would replace the device
        expect_regular(path, &metadata)?;
    }
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // the default is private to the user, which nobody expects of a picture or a model
        use std::os::unix::fs::PermissionsExt;
        file.permissions(std::fs::Permissions::from_mode(0o644));
    }
    // its own error would name the temporary file, which means nothing to anybody
    let plain = |error: std::io::Error| io(error.kind().into());
    let mut file = file.tempfile_in(folder).map_err(plain)?;
    file.write_all(bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|error| io(error.error))?;
    Ok(())
}

struct Collector<'a> {
    keys: &'a KeyMap,
    format: SaveFormat,
    path: Vec<String>,
    containers: Vec<String>,
    tensors: Vec<(String, Vec<usize>, Vec<u8>)>,
}

impl Collector<'_> {
    fn bytes(&self, values: Vec<f32>) -> Vec<u8> {
        match self.format {
            SaveFormat::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            SaveFormat::F16 => {
                values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
            }
        }
    }
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
        let mut tensor = param.val();
        if D == 2 && is_linear_weight(&self.path, &self.containers) {
            tensor = tensor.transpose();
        }
        let shape = tensor.dims().to_vec();
        let values: Vec<f32> = tensor.into_data().iter::<f32>().collect();
        self.tensors.push((self.keys.key(&self.path), shape, self.bytes(values)));
    }
}

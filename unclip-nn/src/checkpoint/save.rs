//! From a module into a file, whole or not at all.

use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::{TensorInfo, TensorView};
use tempfile::{NamedTempFile, TempDir};

use super::file::expect_regular;
use super::load::is_linear_weight;
use super::{KeyMap, LoadError};
use crate::Precision;

/// Writes every parameter of `module`, under the names and in the orientation of PyTorch.
///
/// # Errors
/// [`LoadError::Io`] if the file cannot be written, [`LoadError::Overflow`] if the format cannot
/// hold a value. Either way, a file that was there before is unchanged.
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
    let mut writer = BufWriter::new(file.file.as_file());
    writer.write_all(&header(path, &tensors, format)?).map_err(io)?;
    for tensor in &tensors {
        // one after the other: no second copy of the module
        let values: Vec<f32> = (tensor.data)().iter::<f32>().collect();
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
/// contradict each other.
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
            let bytes = bytemuck::cast_slice(values);
            Ok((key, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(damaged)?;
    let notes = notes.iter().map(|(name, note)| (name.to_string(), note.clone())).collect();
    write_whole(path, &safetensors::serialize(views, Some(notes)).map_err(damaged)?)
}

/// Writes a file whole or not at all: next to its place, then moved there. A link stays a link, and
/// its target is written; a file that is replaced passes on its permissions.
///
/// # Errors
/// [`LoadError::Io`], with the path that was asked for, also if a read-only file is there;
/// [`LoadError::NotAFile`] if something other than a file is.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), LoadError> {
    let mut pending = Pending::begin(path)?;
    // by the file itself, whose errors do not speak of its temporary name
    let written = pending.file.as_file_mut().write_all(bytes);
    written.map_err(|source| LoadError::Io { path: path.into(), source })?;
    pending.finish()
}

/// Checks that [`write_whole`] could write a file here, so that what takes long to make is not lost
/// at the end. Leaves nothing behind.
///
/// # Errors
/// As [`write_whole`].
pub fn check_place(path: &Path) -> Result<(), LoadError> {
    Pending::begin(path).map(drop)
}

/// Lets `fill` write a folder, whole or not at all: next to its place, then moved there.
///
/// # Errors
/// Errors of `fill`; [`LoadError::Io`] if something is there already, or if nothing can be written
/// there.
pub fn write_folder<E: From<LoadError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let io = |source| LoadError::Io { path: path.into(), source };
    // of a link that leads nowhere as well
    if path.symlink_metadata().is_ok() {
        let found = "something is there already, expected the name of a new folder";
        return Err(io(std::io::Error::new(std::io::ErrorKind::AlreadyExists, found)).into());
    }
    let folder = temporary_folder(path)?;
    fill(folder.path())?;
    std::fs::rename(folder.path(), path).map_err(io)?;
    // nothing is left to be removed
    let _ = folder.keep();
    Ok(())
}

/// A number format as safetensors calls it.
fn stored(format: Precision) -> Dtype {
    match format {
        Precision::F32 => Dtype::F32,
        Precision::F16 => Dtype::F16,
        Precision::BF16 => Dtype::BF16,
    }
}

/// The folder in which something lies.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// How something temporary is made: readable for everybody, as one expects of a picture or a
/// model. The default is private to the user.
fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    #[cfg_attr(not(unix), allow(unused_mut))]
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// A file that lies beside its place until it is whole.
struct Pending<'a> {
    file: NamedTempFile,
    /// Where it goes: what `path` leads to if that is a link.
    target: PathBuf,
    /// The place as it was asked for.
    path: &'a Path,
}

impl<'a> Pending<'a> {
    fn begin(path: &'a Path) -> Result<Self, LoadError> {
        let refused = |kind, why: &str| LoadError::Io {
            path: path.into(),
            source: std::io::Error::new(kind, why),
        };
        let permissions = match std::fs::metadata(path) {
            // moving a file onto a device would replace the device
            Ok(metadata) => {
                expect_regular(path, &metadata)?;
                Some(metadata.permissions())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            // a name that is too long, links in a circle, a folder that may not be entered
            Err(source) => return Err(LoadError::Io { path: path.into(), source }),
        };
        if permissions.as_ref().is_some_and(std::fs::Permissions::readonly) {
            let why = "the file there is read-only; expected another name, or one that may change";
            return Err(refused(ErrorKind::PermissionDenied, why));
        }
        let ends_so = path.to_string_lossy().ends_with(std::path::is_separator);
        if ends_so || path.file_name().is_none() {
            return Err(refused(ErrorKind::InvalidInput, "expected a file's name"));
        }
        let target = followed(path);
        let file = builder(0o644).tempfile_in(parent(&target));
        let file = file.map_err(|error| unnamed(path, &error))?;
        if let Some(permissions) = permissions {
            let io = |source| LoadError::Io { path: path.into(), source };
            file.as_file().set_permissions(permissions).map_err(io)?;
        }
        Ok(Self { file, target, path })
    }

    /// Moves the file to its place.
    fn finish(self) -> Result<(), LoadError> {
        let Self { file, target, path } = self;
        let io = |source| LoadError::Io { path: path.into(), source };
        file.as_file().sync_all().map_err(io)?;
        file.persist(target).map_err(|error| io(error.error))?;
        Ok(())
    }
}

/// The target of a link, even if nothing is there yet. A path that is not a link is returned
/// unchanged.
pub fn followed(path: &Path) -> PathBuf {
    const MOST: usize = 40;
    let mut target = path.to_path_buf();
    for _ in 0..MOST {
        match std::fs::read_link(&target) {
            Ok(next) => target = parent(&target).join(next),
            Err(_) => return target,
        }
    }
    path.to_path_buf()
}

/// A folder beside a place.
fn temporary_folder(path: &Path) -> Result<TempDir, LoadError> {
    builder(0o755).tempdir_in(parent(path)).map_err(|error| unnamed(path, &error))
}

/// The error of a temporary file or folder, without its meaningless name.
fn unnamed(path: &Path, error: &std::io::Error) -> LoadError {
    let source = match error.kind() {
        ErrorKind::NotFound => std::io::Error::new(ErrorKind::NotFound, "its folder was not found"),
        other => other.into(),
    };
    LoadError::Io { path: path.into(), source }
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

//! Errors in a file that holds a configuration or weights.

use std::fmt;
use std::path::{Path, PathBuf};
use unclip_core::{InvalidSetting, Limit, Printable};

use crate::Precision;

/// A model file that cannot be used: which file, what was found, what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There are several variants of the same weights, and none without a variant's name.
    #[error(
        "{}: there are several variants ({}), expected one: leave only one in the folder",
        Printable(path.display()), Printable(found)
    )]
    Variants {
        /// The file that would have been read first.
        path: PathBuf,
        /// Names of the files.
        found: String,
    },
    /// A link to a file that is not there.
    #[error(
        "{}: a link to {}, which is not there: it was moved or cleared away, or its download was \
         interrupted", Printable(path.display()), Printable(target.display())
    )]
    DanglingLink {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("{}: {}", Printable(path.display()), Printable(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The path is a folder, a device, a pipe or the like.
    #[error("{}: this is {found}, expected a regular file", Printable(path.display()))]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What lies there.
        found: &'static str,
    },
    /// The file is larger than one of its kind can be.
    #[error("{}: {found} bytes long, expected {limit}", Printable(path.display()))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The largest length that is read.
        limit: Limit,
    },
    /// The file is of a known kind that is not read here.
    #[error("{}: this is {found}, expected {expected}; {remedy}", Printable(path.display()))]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The safetensors header is damaged.
    #[error("{}: damaged safetensors file: {}", Printable(path.display()), Printable(message))]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with the numbers found and expected.
        message: String,
    },
    /// The file holds the wrong tensors.
    #[error("{}: {mismatch}", Printable(path.display()))]
    Weights {
        /// The file.
        path: PathBuf,
        /// What differs.
        mismatch: Box<Mismatch>,
    },
    /// A tensor holds values that are not finite.
    #[error(
        "{}: {} holds {count} values that are NaN or infinite, expected finite ones; the file is damaged, \
         or its training diverged", Printable(path.display()), Printable(key)
    )]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The first such tensor.
        key: String,
        /// How many of its values are affected.
        count: usize,
    },
    /// A tensor holds values that are too large for the number format in which they are to be
    /// written or kept.
    #[error(
        "{}: {count} values of {} are too large for {format}; expected f32 or bf16",
        Printable(path.display()), Printable(key)
    )]
    Overflow {
        /// The file.
        path: PathBuf,
        /// The first such tensor.
        key: String,
        /// How many of its values are affected.
        count: usize,
        /// The format.
        format: Precision,
    },
    /// The configuration is not JSON, or not of this kind.
    #[error("{}: {}", Printable(path.display()), Printable(source))]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, column and reason.
        source: serde_json::Error,
    },
    /// A field of the configuration cannot be used.
    #[error("{}: {source}", Printable(path.display()))]
    Config {
        /// The file.
        path: PathBuf,
        /// The field.
        source: InvalidSetting,
    },
}

macro_rules! path_of {
    ($error:expr) => {
        match $error {
            LoadError::Variants { path, .. }
            | LoadError::DanglingLink { path, .. }
            | LoadError::Io { path, .. }
            | LoadError::NotAFile { path, .. }
            | LoadError::TooLarge { path, .. }
            | LoadError::WrongKind { path, .. }
            | LoadError::Header { path, .. }
            | LoadError::Weights { path, .. }
            | LoadError::NonFinite { path, .. }
            | LoadError::Overflow { path, .. }
            | LoadError::Json { path, .. }
            | LoadError::Config { path, .. } => path,
        }
    };
}

impl LoadError {
    /// The file or folder that it is about.
    pub fn path(&self) -> &Path {
        path_of!(self)
    }

    pub(super) fn path_mut(&mut self) -> &mut PathBuf {
        path_of!(self)
    }
}

/// How the tensors of a file differ from those of the module that it was loaded into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Tensors that the module has and the file lacks.
    pub missing: Vec<String>,
    /// Tensors that the file has and the module lacks.
    pub unused: Vec<String>,
    /// Tensors of another shape: key, expected, found.
    pub misshapen: Vec<(String, Vec<usize>, Vec<usize>)>,
    /// Tensors of a number format that is not read: key and format.
    pub formats: Vec<(String, String)>,
}

impl Mismatch {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The first ten of a list, and how many more there are.
fn list(f: &mut fmt::Formatter<'_>, what: &str, items: &[String]) -> fmt::Result {
    const SHOWN: usize = 10;
    if items.is_empty() {
        return Ok(());
    }
    let shown = items.iter().take(SHOWN).map(|item| Printable(item).to_string());
    write!(f, "{} {what}: {}", items.len(), shown.collect::<Vec<_>>().join(", "))?;
    match items.len().saturating_sub(SHOWN) {
        0 => write!(f, "; "),
        more => write!(f, " and {more} more; "),
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not the weights of this module: ")?;
        list(f, "missing", &self.missing)?;
        list(f, "not expected", &self.unused)?;
        let shapes: Vec<String> = self
            .misshapen
            .iter()
            .map(|(key, expected, found)| format!("{key} (expected {expected:?}, found {found:?})"))
            .collect();
        list(f, "of another shape", &shapes)?;
        let formats: Vec<String> =
            self.formats.iter().map(|(key, format)| format!("{key} ({format})")).collect();
        list(f, "of a number format other than F32, F16 and BF16", &formats)?;
        write!(f, "is it another stage, another size, or another version?")
    }
}

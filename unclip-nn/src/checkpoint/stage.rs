//! A stage on disk: a folder with `config.json` and `model.safetensors`.

use std::path::{Path, PathBuf};

use burn::module::Module;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{KeyMap, LoadError, SaveFormat, Weights, load_config, parse_config, save_weights};
use crate::checkpoint::write_whole;

/// Version of the layout of a stage's folder.
const FORMAT_VERSION: u32 = 1;

/// The configuration file of a stage: what it is, and its sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest<T> {
    /// Version of the layout.
    pub format_version: u32,
    /// Which stage this is.
    pub stage: String,
    /// Fingerprint of the CLIP whose embeddings the stage was trained with. Stages with different
    /// fingerprints do not understand each other.
    pub embedding_space: String,
    /// The stage's own configuration.
    pub config: T,
}

/// A stage's files, opened and checked for being that stage's.
#[derive(Debug)]
pub struct StageFiles<T> {
    /// The configuration; its fields are not yet validated.
    pub manifest: Manifest<T>,
    /// Where the configuration came from, for errors about its fields.
    pub config_path: PathBuf,
    /// The weights.
    pub weights: Weights,
}

impl<T: DeserializeOwned> StageFiles<T> {
    /// Opens `folder`, which must hold the stage of that name.
    ///
    /// # Errors
    /// Missing or damaged files, another version, another stage.
    pub fn open(folder: &Path, stage: &str) -> Result<Self, LoadError> {
        let config_path = folder.join("config.json");
        let manifest = check(&config_path, stage, load_config(&config_path)?)?;
        let weights = Weights::open(&folder.join("model.safetensors"))?;
        Ok(Self { manifest, config_path, weights })
    }

    /// Takes files that are part of the program.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn embedded(
        folder: &str,
        stage: &str,
        config: &[u8],
        weights: &'static [u8],
    ) -> Result<Self, LoadError> {
        let config_path = Path::new(folder).join("config.json");
        let manifest = check(&config_path, stage, parse_config(&config_path, config)?)?;
        let weights = Weights::embedded(&format!("{folder}/model.safetensors"), weights)?;
        Ok(Self { manifest, config_path, weights })
    }

    /// An error about a field of this stage's configuration.
    pub fn config_error(&self, source: crate::ConfigError) -> LoadError {
        LoadError::Config { path: self.config_path.clone(), source }
    }
}

/// Checks version and stage before the stage's own fields are looked at.
fn check<T: DeserializeOwned>(
    path: &Path,
    stage: &str,
    manifest: Manifest<serde_json::Value>,
) -> Result<Manifest<T>, LoadError> {
    let wrong = |field: &str, found: &str, expected: &str| LoadError::Config {
        path: path.into(),
        source: crate::ConfigError::new(field, found, expected),
    };
    if manifest.format_version != FORMAT_VERSION {
        let found = manifest.format_version.to_string();
        return Err(wrong("format_version", &found, &FORMAT_VERSION.to_string()));
    }
    if manifest.stage != stage {
        return Err(wrong("stage", &manifest.stage, stage));
    }
    let config = serde_json::from_value(manifest.config)
        .map_err(|source| LoadError::Json { path: path.into(), source })?;
    Ok(Manifest {
        format_version: manifest.format_version,
        stage: manifest.stage,
        embedding_space: manifest.embedding_space,
        config,
    })
}

/// Writes a stage's folder, the configuration last: a folder that was interrupted is incomplete,
/// and says so when it is opened.
///
/// # Errors
/// [`LoadError::Io`] if the folder or a file cannot be written.
pub fn save_stage<T: Serialize, M: Module>(
    folder: &Path,
    stage: &str,
    embedding_space: &str,
    config: &T,
    module: &M,
    keys: &KeyMap,
    format: SaveFormat,
) -> Result<(), LoadError> {
    let io = |source| LoadError::Io { path: folder.into(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    save_weights(module, &folder.join("model.safetensors"), keys, format)?;
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        stage: stage.into(),
        embedding_space: embedding_space.into(),
        config,
    };
    save_config(&folder.join("config.json"), &manifest)
}

/// Writes a configuration as readable JSON.
///
/// # Errors
/// [`LoadError::Io`] if the file cannot be written.
pub fn save_config<T: Serialize>(path: &Path, config: &T) -> Result<(), LoadError> {
    let json = serde_json::to_string_pretty(config)
        .map_err(|source| LoadError::Json { path: path.into(), source })?;
    write_whole(path, format!("{json}\n").as_bytes())
}

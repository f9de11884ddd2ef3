//! A stage on disk: a folder with `config.json` and `model.safetensors`.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use unclip_core::{InvalidSetting, Limit};

use super::{
    KeyMap, LoadError, Weights, load_weights, parse_config, read_text, replace_folder,
    save_weights, write_whole,
};
use crate::{Placement, Precision};

/// Version of the layout of a stage's folder.
const FORMAT_VERSION: u32 = 1;

/// The configuration of a stage: all that is needed to build, load and save it.
pub trait StageConfig: Serialize + DeserializeOwned {
    /// Name of the stage, as its configuration file spells it.
    const STAGE: &'static str;
    /// Names of its tensors in files.
    const KEYS: KeyMap;
    /// The network.
    type Network: Module;

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    fn validate(&self) -> Result<(), InvalidSetting>;

    /// How many layers it asks for.
    fn layers(&self) -> Layers;

    /// The network, with fresh weights.
    fn init(&self, device: &Device) -> Self::Network;
}

/// How many layers a configuration asks for: `each` of them in each of `levels` levels.
#[derive(Debug, Clone)]
pub struct Layers {
    /// The field that says how many layers a level has.
    pub field: String,
    /// Its value.
    pub each: usize,
    /// Number of levels.
    pub levels: usize,
}

impl Layers {
    /// The same, with the field as part of `parent`.
    #[must_use]
    pub fn within(self, parent: &str) -> Self {
        Self { field: format!("{parent}.{}", self.field), ..self }
    }

    /// Checks that a file with this many tensors can have them. Otherwise all layers would be built
    /// before it turns out that they have no weights.
    fn check(&self, tensors: usize) -> Result<(), InvalidSetting> {
        // a few layers cost nothing, and the loader says better what they lack
        if self.each.saturating_mul(self.levels) <= tensors.max(16) {
            return Ok(());
        }
        let expected = format!("at most one layer for each of the {tensors} tensors there");
        Err(InvalidSetting::new(&self.field, self.each, expected))
    }
}

/// The configuration file of a stage: what it is, and its sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest<T> {
    /// Version of the layout.
    pub format_version: u32,
    /// Which stage this is.
    pub stage: String,
    /// Fingerprint of the CLIP whose embeddings the stage was trained with. Stages with different
    /// fingerprints do not work together.
    pub embedding_space: String,
    /// The stage's own configuration.
    pub config: T,
}

/// A stage's files, opened and checked to be that stage's.
#[derive(Debug)]
pub struct StageFiles<T> {
    /// The configuration, validated.
    pub manifest: Manifest<T>,
    weights: Weights,
}

impl<T: StageConfig> StageFiles<T> {
    /// Opens a folder, which must hold this stage.
    ///
    /// # Errors
    /// Missing or damaged files, another version, another stage, sizes that cannot be used.
    pub fn open(folder: &Path) -> Result<Self, LoadError> {
        let path = folder.join("config.json");
        let manifest = check(&path, &read_text(&path, Limit::ConfigBytes)?)?;
        Self::new(&path, manifest, Weights::open(&folder.join("model.safetensors"))?)
    }

    /// Takes files that are part of the program; `folder` is named in errors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn embedded(
        folder: &str,
        config: &[u8],
        weights: &'static [u8],
    ) -> Result<Self, LoadError> {
        let path = Path::new(folder).join("config.json");
        let manifest = check(&path, config)?;
        let weights = Weights::embedded(&format!("{folder}/model.safetensors"), weights)?;
        Self::new(&path, manifest, weights)
    }

    /// Takes what was read from another project's files; `path` is the configuration's, for errors.
    ///
    /// # Errors
    /// Sizes that cannot be used.
    pub fn of(path: &Path, config: T, weights: Weights) -> Result<Self, LoadError> {
        let unusable = |source| LoadError::Config { path: path.into(), source };
        config.validate().map_err(unusable)?;
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            stage: T::STAGE.into(),
            embedding_space: String::new(),
            config,
        };
        Self::new(path, manifest, weights)
    }

    fn new(path: &Path, manifest: Manifest<T>, weights: Weights) -> Result<Self, LoadError> {
        let unusable = |source| LoadError::Config { path: path.into(), source };
        manifest.config.layers().check(weights.keys().len()).map_err(unusable)?;
        let bytes = weights.values().saturating_mul(size_of::<f32>() as u64);
        Limit::ModelBytes.check("size of the weights", bytes).map_err(unusable)?;
        Ok(Self { manifest, weights })
    }

    /// Number of values of all tensors.
    pub fn parameters(&self) -> u64 {
        self.weights.values()
    }

    /// Fingerprint of the weights ([`Weights::fingerprint`]).
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn fingerprint(&self) -> Result<String, LoadError> {
        self.weights.fingerprint()
    }

    /// Builds the network and reads its weights.
    ///
    /// # Errors
    /// See [`load_weights`].
    pub fn load(&self, placement: impl Into<Placement>) -> Result<T::Network, LoadError> {
        let placement = placement.into();
        let network = self.manifest.config.init(&placement.device);
        load_weights(network, &self.weights, &T::KEYS, placement)
    }
}

/// What is said first of a stage: with another version or stage come other fields.
#[derive(Deserialize)]
struct Label {
    format_version: u32,
    stage: String,
}

/// Checks version and stage before the stage's own fields are looked at, then those. The text is
/// parsed twice, so that errors of the second time still tell the line.
fn check<T: StageConfig>(path: &Path, json: &[u8]) -> Result<Manifest<T>, LoadError> {
    let Label { format_version, stage } = parse_config(path, json)?;
    let field = match () {
        () if format_version != FORMAT_VERSION => {
            Some(InvalidSetting::new("format_version", format_version, FORMAT_VERSION.to_string()))
        }
        () if stage != T::STAGE => Some(InvalidSetting::new("stage", &stage, T::STAGE)),
        () => None,
    };
    let unusable = |source| LoadError::Config { path: path.into(), source };
    if let Some(source) = field {
        return Err(unusable(source));
    }
    let manifest: Manifest<T> = parse_config(path, json)?;
    manifest.config.validate().map_err(unusable)?;
    Ok(manifest)
}

/// Writes a stage's folder whole, also in the place of one that is there ([`replace_folder`]):
/// configuration and weights always belong together.
///
/// # Errors
/// As [`save_weights`]; [`LoadError::Io`] also if the folder cannot be written.
pub fn save_stage<T: StageConfig>(
    folder: &Path,
    embedding_space: &str,
    config: &T,
    network: &T::Network,
    format: Precision,
) -> Result<(), LoadError> {
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        stage: T::STAGE.into(),
        embedding_space: embedding_space.into(),
        config,
    };
    replace_folder(folder, |folder| {
        save_weights(network, &folder.join("model.safetensors"), &T::KEYS, format)?;
        save_config(&folder.join("config.json"), &manifest)
    })
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

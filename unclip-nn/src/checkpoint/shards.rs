//! Weights in several files, which an index lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use unclip_core::Limit;

use super::{LoadError, Weights, parse_config, read_text};

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Weights {
    /// Opens the weights `name` in a folder: `name.safetensors`, or the shards that
    /// `name.safetensors.index.json` lists. If there is neither, it opens their only variant there
    /// (`name.fp16.safetensors`, `name.safetensors.index.fp16.json`).
    ///
    /// # Errors
    /// As [`open`](Self::open), several variants, and an index that cannot be read, names a file
    /// outside the folder, or contradicts its shards. A pickle in place of the weights is refused
    /// as such.
    pub fn open_in(folder: &Path, name: &str) -> Result<Self, LoadError> {
        let file = |end: &str| folder.join(format!("{name}{end}"));
        let (single, index) = (file(".safetensors"), file(".safetensors.index.json"));
        let is_there = |path: &Path| path.symlink_metadata().is_ok();
        // the names that diffusers and transformers give to pickles
        let pickles = [file(".bin"), folder.join(format!("pytorch_{name}.bin"))];
        if is_there(&single) {
            return Self::open(&single);
        }
        if is_there(&index) {
            return open(folder, &index);
        }
        match (variants(folder, name).as_slice(), pickles.into_iter().find(|it| is_there(it))) {
            ([only], _) if only.extension().is_some_and(|it| it == "json") => open(folder, only),
            ([only], _) => Self::open(only),
            ([], Some(pickle)) => Self::open(&pickle),
            ([], None) => Self::open(&single),
            (several, _) => {
                let names = several.iter().filter_map(|path| path.file_name());
                let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
                Err(LoadError::Variants { path: single, found: names.join(", ") })
            }
        }
    }
}

/// Files of weights, or indices of their shards, with the name of a variant in theirs.
fn variants(folder: &Path, name: &str) -> Vec<PathBuf> {
    let is_variant = |file: &str| {
        let rest = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
        rest.is_some_and(|rest| {
            let single = rest.strip_suffix(".safetensors");
            let index = rest.strip_prefix("safetensors.index.");
            let index = index.and_then(|rest| rest.strip_suffix(".json"));
            // a shard is of the index beside it
            single.or(index).is_some_and(|variant| {
                !variant.is_empty() && !variant.contains('.') && !variant.contains("-of-")
            })
        })
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let found = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_variant));
    let mut found: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    found.sort_unstable();
    found
}

/// Opens every shard that an index lists, and checks that they hold what it says.
fn open(folder: &Path, path: &Path) -> Result<Weights, LoadError> {
    let index: Index = parse_config(path, &read_text(path, Limit::HeaderBytes)?)?;
    let names: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
    let refused = |message| Err(LoadError::Header { path: path.into(), message });
    let mut shards = Vec::new();
    for name in names {
        if !is_plain(name) {
            let message = format!("shard {name:?}, expected the name of a file in this folder");
            return refused(message);
        }
        let shard = Weights::open(&folder.join(name))?;
        let elsewhere = |key: &String| index.weight_map.get(key).is_none_or(|file| file != name);
        if let Some(key) = shard.keys().into_iter().find(elsewhere) {
            let found = index.weight_map.get(&key).map_or("nowhere", String::as_str);
            return refused(format!("{key} is in {name}, but listed in {found}"));
        }
        shards.push(shard);
    }
    let weights = Weights::join(path, shards)?;
    match index.weight_map.keys().find(|key| weights.shape(key).is_none()) {
        Some(key) => {
            refused(format!("{key} is listed in {}, which lacks it", index.weight_map[key]))
        }
        None => Ok(weights),
    }
}

/// Whether a name cannot lead out of its folder.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let first = components.next();
    matches!(first, Some(Component::Normal(_)))
        && components.next().is_none()
        && !name.contains(['/', '\\'])
}

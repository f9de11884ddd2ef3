//! Weights in several files, which an index lists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use super::{LoadError, Weights, parse_config, read_file};

/// Indices beyond this size are refused unread.
const MAX_INDEX_BYTES: u64 = 4 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens every shard that an index lists, and checks that they hold what it says.
pub(super) fn open(folder: &Path, path: &Path) -> Result<Weights, LoadError> {
    let index: Index = parse_config(path, &read_file(path, MAX_INDEX_BYTES)?)?;
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

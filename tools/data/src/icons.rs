//! The emoji of the packages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// An emoji in a style.
#[derive(Debug, Clone)]
pub struct Icon {
    /// Its CLDR name, with hyphens.
    pub concept: String,
    /// Whose drawing it is.
    pub style: &'static str,
    /// Words that go with it.
    pub keywords: Vec<String>,
    /// The drawing.
    pub svg: String,
}

impl Icon {
    /// A name that no other has.
    pub fn id(&self) -> String {
        format!("{}-{}", self.style.to_lowercase(), self.concept)
    }
}

/// Packages by the beginning of their folders' names.
const STYLES: [(&str, &str); 2] =
    [("iconify-json-noto-", "Noto"), ("iconify-json-fluent-emoji-flat-", "Fluent")];
const WORDS: &str = "emojilib-";

/// Skin tones, as names end with them, the longest first.
const TONES: [&str; 5] = ["medium-light", "medium-dark", "light", "medium", "dark"];

#[derive(Deserialize)]
struct Set {
    icons: BTreeMap<String, Drawing>,
    width: Option<f64>,
    height: Option<f64>,
}

#[derive(Deserialize)]
struct Drawing {
    body: String,
    width: Option<f64>,
    height: Option<f64>,
    #[serde(default)]
    left: f64,
    #[serde(default)]
    top: f64,
}

/// Every emoji in every style, by name.
pub fn all(packages: &Path) -> Result<Vec<Icon>, String> {
    let words = folder(packages, WORDS)?;
    let words: BTreeMap<String, Vec<String>> = read(&words.join("dist/emoji-en-US.json"))?;
    // the first word is the name, with underscores
    let words: BTreeMap<String, Vec<String>> = words
        .into_values()
        .filter_map(|words| {
            let (name, others) = words.split_first()?;
            Some((name.replace('_', "-"), others.to_vec()))
        })
        .collect();
    let mut icons = Vec::new();
    for (beginning, style) in STYLES {
        let set: Set = read(&folder(packages, beginning)?.join("icons.json"))?;
        for (name, drawing) in &set.icons {
            let concept = &concept(&set, name);
            let keywords = words.get(untoned(concept)).cloned().unwrap_or_default();
            let keywords = keywords.into_iter().map(|word| word.replace('_', " "));
            let keywords =
                keywords.filter(|word| word.chars().all(|c| c.is_ascii_alphabetic() || c == ' '));
            icons.push(Icon {
                concept: concept.clone(),
                style,
                keywords: keywords.take(6).collect(),
                svg: svg(&set, drawing),
            });
        }
    }
    Ok(icons)
}

/// The CLDR name: Fluent's leave `skin-tone` out.
fn concept(set: &Set, name: &str) -> String {
    for tone in TONES {
        let base = name.strip_suffix(tone).and_then(|base| base.strip_suffix('-'));
        if base.is_some_and(|base| set.icons.contains_key(base)) {
            return format!("{name}-skin-tone");
        }
    }
    name.to_string()
}

/// A name without its skin tones.
pub fn untoned(concept: &str) -> &str {
    let Some(rest) = concept.strip_suffix("-skin-tone") else { return concept };
    let rest = TONES.iter().find_map(|tone| rest.strip_suffix(&format!("-{tone}")));
    rest.map_or(concept, untoned)
}

/// Whether a name ends with a skin tone.
fn is_toned(concept: &str) -> bool {
    concept.ends_with("-skin-tone")
}

fn svg(set: &Set, drawing: &Drawing) -> String {
    let width = drawing.width.or(set.width).unwrap_or(16.0);
    let height = drawing.height.or(set.height).unwrap_or(16.0);
    let Drawing { body, left, top, .. } = drawing;
    let spaces = r#"xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink""#;
    format!(r#"<svg {spaces} viewBox="{left} {top} {width} {height}">{body}</svg>"#)
}

fn folder(packages: &Path, beginning: &str) -> Result<PathBuf, String> {
    let entries =
        fs::read_dir(packages).map_err(|error| format!("{}: {error}", packages.display()))?;
    let mut found = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        path.is_dir() && name.is_some_and(|name| name.starts_with(beginning))
    });
    found.next().ok_or_else(|| format!("{}: no folder {beginning}…", packages.display()))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, String> {
    let bytes = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", path.display()))
}

/// The emoji that training does not see: a tenth of those whose concept the other style has too, and of those
/// with a skin tone a tenth.
pub fn held_out(icons: &[Icon]) -> BTreeSet<String> {
    let of = |style: &str| -> BTreeSet<&str> {
        let own = icons.iter().filter(|icon| icon.style == style);
        own.map(|icon| icon.concept.as_str()).collect()
    };
    let styles = STYLES.map(|(_, style)| of(style));
    let in_both: BTreeSet<&str> = styles[0].intersection(&styles[1]).copied().collect();
    let is_lost = |icon: &&Icon| {
        let lot = hash(&icon.concept);
        if is_toned(&icon.concept) {
            // the same cell of role, gender and tone in every style
            return lot.is_multiple_of(10);
        }
        // of the two styles of a concept, one at most
        let style = usize::from(icon.style == STYLES[1].1);
        in_both.contains(icon.concept.as_str()) && lot % 20 == style as u64
    };
    icons.iter().filter(is_lost).map(Icon::id).collect()
}

/// FNV-1a: the same number for the same text, on every machine.
pub fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

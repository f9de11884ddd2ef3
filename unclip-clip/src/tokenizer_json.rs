//! `tokenizer.json`, the one file in which newer libraries keep a tokenizer.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::TokenizerError;

/// How CLIP cuts a caption into words.
pub(crate) const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// The file, as far as it is read, of a model and of added tokens.
#[derive(Deserialize)]
#[serde(bound(deserialize = "M: Deserialize<'de>, A: Deserialize<'de>"))]
pub(crate) struct File<M, A> {
    pub(crate) model: M,
    #[serde(default)]
    pub(crate) normalizer: Value,
    #[serde(default)]
    pub(crate) pre_tokenizer: Value,
    #[serde(default)]
    pub(crate) added_tokens: Vec<A>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

/// Two tokens, in the spelling of older and of newer versions.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// The `vocab.json` and `merges.txt` that the file replaces. Its model options, the kinds of its
/// other steps and its word pattern must be CLIP's: nothing else is built here.
pub(crate) fn split(path: &Path, json: &[u8]) -> Result<(Vec<u8>, Vec<u8>), TokenizerError> {
    let invalid = |message: String| TokenizerError::Invalid { path: path.into(), message };
    let file: File<Model, Added> =
        serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
    file.check().map_err(invalid)?;
    let vocab =
        serde_json::to_vec(&file.model.vocab).map_err(|error| invalid(error.to_string()))?;
    let mut merges = String::from("#version: 0.2\n");
    for merge in &file.model.merges {
        match merge {
            Merge::Line(line) => merges.push_str(line),
            Merge::Pair(left, right) => {
                merges.push_str(left);
                merges.push(' ');
                merges.push_str(right);
            }
        }
        merges.push('\n');
    }
    Ok((vocab, merges.into_bytes()))
}

impl File<Model, Added> {
    /// Says what is not as in CLIP's tokenizer, if anything.
    fn check(&self) -> Result<(), String> {
        let Model { kind, end_of_word_suffix: end, continuing_subword_prefix: inner, .. } =
            &self.model;
        let expect = |name: &str, found: Value, expected: Value| {
            let differs = || format!("{name} is {found}, expected {expected}, as CLIP has it");
            (found == expected).then_some(()).ok_or_else(differs)
        };
        expect("model.type", json!(kind.as_deref().unwrap_or("BPE")), json!("BPE"))?;
        expect("model.end_of_word_suffix", json!(end), json!("</w>"))?;
        let inner = inner.as_deref().unwrap_or_default();
        expect("model.continuing_subword_prefix", json!(inner), json!(""))?;
        expect("model.dropout", json!(self.model.dropout), Value::Null)?;
        expect("model.byte_fallback", json!(self.model.byte_fallback), json!(false))?;
        expect("model.ignore_merges", json!(self.model.ignore_merges), json!(false))?;
        let normalizers = json!(kinds(&self.normalizer, "normalizers"));
        expect("normalizer", normalizers, json!(["NFC", "Replace", "Lowercase"]))?;
        let pre_tokenizers = json!(kinds(&self.pre_tokenizer, "pretokenizers"));
        expect("pre_tokenizer", pre_tokenizers, json!(["Split", "ByteLevel"]))?;
        let words = self.pre_tokenizer.pointer("/pretokenizers/0/pattern/Regex");
        let words = words.and_then(Value::as_str).unwrap_or("absent");
        // newer versions write the marks into the pattern, which are tokens before it is applied
        let plain = words.strip_prefix(r"<\|startoftext\|>|<\|endoftext\|>|").unwrap_or(words);
        expect("pre_tokenizer's pattern", json!(plain), json!(WORDS))?;
        let known = |added: &&Added| self.model.vocab.get(&added.content) != Some(&added.id);
        match self.added_tokens.iter().find(known) {
            None => Ok(()),
            Some(Added { id, content }) => Err(format!(
                "the added token {content:?} with the id {id} is not in the vocabulary, expected \
                 none that the text encoder was not published with"
            )),
        }
    }
}

/// The types of a sequence's parts.
fn kinds<'a>(sequence: &'a Value, parts: &str) -> Vec<&'a str> {
    let parts = sequence.get(parts).and_then(Value::as_array).into_iter().flatten();
    parts.filter_map(|part| part.get("type").and_then(Value::as_str)).collect()
}

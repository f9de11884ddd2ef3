//! `tokenizer.json` of XLM-RoBERTa's tokenizer, sentencepiece's unigram model, with the `tokenizers`
//! crate.
//!
//! Only the steps that that tokenizer consists of are accepted: the crate's own reader would take any
//! program of normalizers, and trusts a file's table of replacements. Marks, padding and cutting are
//! decided here, whatever the file says of them.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{Precompiled, Sequence as Normalizers};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::whitespace::WhitespaceSplit;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper};
use unclip_core::{Limit, Printable};

use crate::charsmap;
use crate::error::TokenizerError;
use crate::tokenizer_json::File;

/// The name of the model's type.
pub(crate) const KIND: &str = "Unigram";
/// Marks before and after a caption, and what fills a row up.
const MARKS: [&str; 3] = ["<s>", "</s>", "<pad>"];
/// Tokens that a caption may spell out, of which the last takes the spaces before it.
const ADDED: [&str; 5] = ["<s>", "</s>", "<pad>", "<unk>", MASK];
const MASK: &str = "<mask>";
/// Bytes of all pieces together; XLM-RoBERTa's 250,000 are a few letters each. The crate makes a tree
/// of them, with a node for each byte.
const MAX_PIECE_BYTES: usize = 4 << 20;
/// Bytes of one piece, of which sentencepiece makes none with more than 16 characters by default. That
/// tree is as deep, and the crate drops it by recursion.
const MAX_PIECE: usize = 256;
/// What stands for a space in pieces.
const SPACE: char = '▁';

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    vocab: Vec<(String, f64)>,
    unk_id: usize,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    special: bool,
}

/// A tokenizer of pieces, and the numbers of its marks.
#[derive(Debug)]
pub(crate) struct Pieces {
    pub(crate) inner: tokenizers::Tokenizer,
    /// Before a caption, after it, and what fills a row up.
    pub(crate) marks: [u32; 3],
    pub(crate) vocab_size: usize,
}

/// Reads the file.
pub(crate) fn read(path: &Path, json: &[u8]) -> Result<Pieces, TokenizerError> {
    let invalid = |message: String| TokenizerError::Invalid { path: path.into(), message };
    let file: File<Model, Added> =
        serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
    file.assemble().map_err(invalid)
}

impl File<Model, Added> {
    fn assemble(self) -> Result<Pieces, String> {
        let numbers = numbers(&self.model)?;
        let number = |mark: &str| numbers.get(mark).copied();
        let marks = MARKS.map(number);
        let [Some(start), Some(end), Some(pad)] = marks else {
            return Err(format!("lacks one of the tokens {}", MARKS.join(", ")));
        };
        let is_new = |it: &&Added| {
            !ADDED.contains(&it.content.as_str()) || number(&it.content) != Some(it.id)
        };
        if let Some(Added { id, content, .. }) = self.added_tokens.iter().find(is_new) {
            return Err(format!(
                "the added token {content:?} with the id {id} is not of the vocabulary's marks, \
                 expected {} as there",
                ADDED.join(", ")
            ));
        }
        // others can cut a caption into parts that overlap
        let is_strange =
            |it: &&Added| it.rstrip || it.single_word || (it.lstrip && it.content != MASK);
        if let Some(Added { content, .. }) = self.added_tokens.iter().find(is_strange) {
            return Err(format!(
                "the added token {content:?} takes spaces or whole words, expected lstrip of {MASK} \
                 alone"
            ));
        }
        let vocab_size = self.model.vocab.len();
        let normalizer = normalizer(&self.normalizer)?;
        let pre_tokenizer = pre_tokenizer(&self.pre_tokenizer)?;
        let error = |error: tokenizers::Error| error.to_string();
        let model = Unigram::from(self.model.vocab, Some(self.model.unk_id), false);
        let mut inner = tokenizers::Tokenizer::new(model.map_err(error)?);
        inner.with_normalizer(Some(normalizer)).map_err(error)?;
        inner.with_pre_tokenizer(Some(pre_tokenizer));
        let added: Vec<AddedToken> = self.added_tokens.into_iter().map(Added::token).collect();
        inner.add_tokens(added).map_err(error)?;
        Ok(Pieces { inner, marks: [start, end, pad], vocab_size })
    }
}

impl Added {
    fn token(self) -> AddedToken {
        AddedToken::from(self.content, self.special)
            .lstrip(self.lstrip)
            .rstrip(self.rstrip)
            .single_word(self.single_word)
            // whatever the file says: one that normalizes to nothing would be found everywhere
            .normalized(false)
    }
}

/// The number of each piece.
fn numbers(model: &Model) -> Result<HashMap<String, u32>, String> {
    if let Some(kind) = model.kind.as_ref().filter(|kind| *kind != KIND) {
        return Err(format!("model.type is {kind:?}, expected {KIND:?}"));
    }
    let n = model.vocab.len();
    let limited = Limit::VocabularyEntries.check_len("number of pieces", n);
    limited.map_err(|error| error.to_string())?;
    let bytes: usize = model.vocab.iter().map(|(piece, _)| piece.len()).sum();
    if bytes > MAX_PIECE_BYTES {
        return Err(format!("pieces of {bytes} bytes, expected at most {MAX_PIECE_BYTES}"));
    }
    if model.unk_id >= n {
        return Err(format!("model.unk_id is {}, expected below {n}", model.unk_id));
    }
    if model.byte_fallback {
        return Err("model.byte_fallback is true, expected false, as XLM-RoBERTa has it".into());
    }
    let mut numbers = HashMap::with_capacity(n);
    for ((piece, score), id) in model.vocab.iter().zip(0..) {
        if piece.len() > MAX_PIECE {
            let n = piece.len();
            return Err(format!("piece {id} has {n} bytes, expected at most {MAX_PIECE}"));
        }
        if piece.is_empty() || !score.is_finite() {
            return Err(format!(
                "piece {id} is {piece:?} with {score}, expected text and a number"
            ));
        }
        if let Some(first) = numbers.insert(piece.clone(), id) {
            return Err(format!("piece {piece:?} has the ids {first} and {id}, expected one"));
        }
    }
    Ok(numbers)
}

/// The type that a step says it has.
fn kind_of(step: &Value) -> Option<&str> {
    step.get("type").and_then(Value::as_str)
}

/// The steps of a sequence, or the only one.
fn steps<'a>(value: &'a Value, name: &str) -> Vec<&'a Value> {
    let is_sequence = kind_of(value) == Some("Sequence");
    match value.get(name).and_then(Value::as_array).filter(|_| is_sequence) {
        Some(steps) => steps.iter().collect(),
        None if value.is_null() => Vec::new(),
        None => vec![value],
    }
}

/// What a caption's characters are replaced by: sentencepiece's table, and what different versions
/// of transformers write after it.
fn normalizer(value: &Value) -> Result<Normalizers, String> {
    let spaces =
        |to: &str| json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": to });
    let known = [
        json!({ "type": "Strip", "strip_left": false, "strip_right": true }),
        spaces(" "),
        spaces(&SPACE.to_string()),
    ];
    let mut normalizers = Vec::new();
    for step in steps(value, "normalizers") {
        let table = step.get("precompiled_charsmap");
        let table = table.filter(|_| kind_of(step) == Some("Precompiled"));
        if let Some(table) = table.filter(|_| normalizers.is_empty()) {
            normalizers.push(NormalizerWrapper::Precompiled(table_of(table)?));
        } else if known.contains(step) && (1..3).contains(&normalizers.len()) {
            let read = serde_json::from_value(step.clone());
            normalizers.push(read.map_err(|error| error.to_string())?);
        } else {
            let expected = "a precompiled_charsmap first, then Strip or Replace of spaces";
            return Err(unknown("normalizer", step, expected));
        }
    }
    if normalizers.is_empty() {
        return Err("normalizer is absent, expected one with a precompiled_charsmap".into());
    }
    Ok(Normalizers::new(normalizers))
}

fn table_of(value: &Value) -> Result<Precompiled, String> {
    let invalid = |error: String| format!("precompiled_charsmap: {error}");
    let text = value.as_str().ok_or_else(|| invalid(format!("{value:.40}, expected text")));
    let bytes = charsmap::decode(text?).map_err(invalid)?;
    charsmap::check(&bytes).map_err(invalid)?;
    Precompiled::from(&bytes).map_err(|error| invalid(error.to_string()))
}

/// How a caption is cut into words.
fn pre_tokenizer(value: &Value) -> Result<PreTokenizers, String> {
    let mut all: Vec<PreTokenizerWrapper> = Vec::new();
    let mut has_spaces = false;
    for step in steps(value, "pretokenizers") {
        let is = |name: &str, expected: Value| step.get(name).is_none_or(|it| *it == expected);
        let is_usual = is("replacement", json!(SPACE.to_string()))
            && is("add_prefix_space", json!(true))
            && is("prepend_scheme", json!("always"))
            && is("split", json!(true));
        match kind_of(step) {
            Some("WhitespaceSplit") if all.is_empty() => all.push(WhitespaceSplit.into()),
            Some("Metaspace") if is_usual && !has_spaces => {
                all.push(Metaspace::new(SPACE, PrependScheme::Always, true).into());
                has_spaces = true;
            }
            _ => {
                let expected = "WhitespaceSplit at most, then Metaspace as XLM-RoBERTa has it";
                return Err(unknown("pre_tokenizer", step, expected));
            }
        }
    }
    if !has_spaces {
        return Err("pre_tokenizer has no Metaspace, expected one, as XLM-RoBERTa has it".into());
    }
    Ok(PreTokenizers::new(all))
}

fn unknown(name: &str, step: &Value, expected: &str) -> String {
    // a table is long, and says nothing to people
    let mut step = step.clone();
    step.as_object_mut().and_then(|fields| fields.remove("precompiled_charsmap"));
    format!("{name} has the step {}, expected {expected}", Printable(step))
}

//! Captions to tokens: CLIP's byte-pair encoding, with the `tokenizers` crate.
//!
//! Input that would make the crate panic is rejected first, and what it leaves open (marks,
//! padding, truncation, what was cut off) is decided here.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};
use unclip_nn::checkpoint::read_text;

use crate::error::TokenizerError;
use crate::tokenizer_json::{self, WORDS};
use crate::tokens::{Row, Tokens};

/// Mark before a caption.
const START: &str = "<|startoftext|>";
/// Mark after a caption, and stand-in for what the vocabulary lacks.
const END: &str = "<|endoftext|>";
/// The token with which Karlo fills a row up.
const EXCLAMATION: &str = "!";
/// Characters of a caption that are looked at. No context is long enough for more.
const MAX_CHARS: usize = 10_000;
/// Entries of a vocabulary or merge list that are accepted.
const MAX_ENTRIES: usize = 1_000_000;
/// Bytes of a vocabulary or merge file that are accepted.
const MAX_BYTES: u64 = 64 << 20;

/// Which token fills the rest of a row. Padding is hidden from the prior and the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// The token `!`; a `!` in a caption is read as the same token (Karlo in diffusers).
    Exclamation,
    /// The token `!`, but a `!` in a caption stays an exclamation mark (original Karlo, which pads
    /// with 0, the number of that token).
    Zero,
    /// The mark after a caption (CLIP in transformers).
    End,
}

/// How captions are read where implementations differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenizerOptions {
    /// Positions of a row: tokens, two marks, padding. Default 77.
    pub context_length: usize,
    /// What pads a row. Default [`Padding::Exclamation`].
    pub padding: Padding,
}

impl Default for TokenizerOptions {
    fn default() -> Self {
        Self { context_length: 77, padding: Padding::Exclamation }
    }
}

/// Turns captions into [`Tokens`].
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    pad: u32,
    vocab_size: usize,
    options: TokenizerOptions,
}

impl Tokenizer {
    /// Reads `vocab.json` and `merges.txt` from a folder or, if they are missing, `tokenizer.json`,
    /// in which newer libraries keep both ([`vocabulary_files`]).
    ///
    /// # Errors
    /// A file that is missing, too large, malformed, or that contradicts the other; a context
    /// that has no room for a token.
    pub fn from_folder(folder: &Path, options: TokenizerOptions) -> Result<Self, TokenizerError> {
        let (vocab, merges) = vocabulary_files(folder)?;
        let tokenizer = Self::from_bytes(folder, &vocab, &merges, options);
        // what is wrong with the two is wrong in the one that they came from
        tokenizer.map_err(|error| match single_file(folder) {
            Some(file) => error.at(&file),
            None => error,
        })
    }

    /// Takes the contents of `vocab.json` and `merges.txt`; `folder` is named in errors.
    ///
    /// # Errors
    /// As [`from_folder`](Self::from_folder).
    pub fn from_bytes(
        folder: &Path,
        vocab: &[u8],
        merges: &[u8],
        options: TokenizerOptions,
    ) -> Result<Self, TokenizerError> {
        if options.context_length < 3 {
            let found = options.context_length;
            let message =
                format!("context length {found}, expected at least 3: two marks, a token");
            return Err(TokenizerError::Invalid { path: folder.into(), message });
        }
        let vocab = parse_vocab(&folder.join("vocab.json"), vocab)?;
        let merges = parse_merges(&folder.join("merges.txt"), merges, &vocab)?;
        let path = folder.join("vocab.json");
        let pad = match options.padding {
            Padding::Exclamation | Padding::Zero => EXCLAMATION,
            Padding::End => END,
        };
        let [start, end, pad] = [START, END, pad].map(|token| vocab.get(token).copied());
        let (Some(start), Some(end), Some(pad)) = (start, end, pad) else {
            let message = format!("lacks one of the tokens {START}, {END} and {EXCLAMATION}");
            return Err(TokenizerError::Invalid { path, message });
        };
        let vocab_size = vocab.len();
        let inner = assemble(vocab, merges, options)
            .map_err(|error| TokenizerError::Invalid { path, message: error.to_string() })?;
        Ok(Self { inner, start, end, pad, vocab_size, options })
    }

    /// Number of tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Number of the mark after a caption.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Which token pads rows.
    pub fn padding(&self) -> Padding {
        self.options.padding
    }

    /// Tokenizes captions. Those that do not fit are cut, and [`Tokens::dropped`] says what was
    /// lost; encoding never fails. The empty caption is the null condition.
    pub fn encode<S: AsRef<str>>(&self, captions: &[S]) -> Tokens {
        let rows = captions.iter().map(|caption| self.row(caption.as_ref())).collect();
        Tokens::new(rows, self.options.context_length)
    }

    fn row(&self, caption: &str) -> Row {
        let cut = caption.char_indices().nth(MAX_CHARS).map_or(caption.len(), |(i, _)| i);
        let room = self.options.context_length - 2;
        let mut ids = vec![self.start];
        let mut read = cut;
        // the model has a token for every byte and one for the unknown: encoding cannot fail
        if let Ok(encoding) = self.inner.encode(&caption[..cut], false) {
            ids.extend(encoding.get_ids().iter().take(room));
            if let Some(&(start, _)) = encoding.get_offsets().get(room) {
                read = start;
            }
        }
        ids.push(self.end);
        let len = ids.len();
        ids.resize(self.options.context_length, self.pad);
        // a token may be a part of a character: all of it is lost then
        let rest = &caption[caption.floor_char_boundary(read)..];
        let dropped = (!rest.is_empty()).then(|| rest.into());
        // a caption may hold the mark itself; CLIP takes the first for the end
        let end = ids.iter().position(|&id| id == self.end).unwrap_or(len - 1);
        Row { ids, len, end, dropped }
    }
}

/// The contents of a folder's `vocab.json` and `merges.txt`; if they are missing, their equivalents
/// from its `tokenizer.json`.
///
/// # Errors
/// A file that is missing or too large; a `tokenizer.json` that is not of CLIP's kind.
pub fn vocabulary_files(folder: &Path) -> Result<(Vec<u8>, Vec<u8>), TokenizerError> {
    let read = |name: &str| -> Result<Vec<u8>, TokenizerError> {
        Ok(read_text(&folder.join(name), MAX_BYTES)?)
    };
    match single_file(folder) {
        Some(file) => tokenizer_json::split(&file, &read("tokenizer.json")?),
        None => Ok((read("vocab.json")?, read("merges.txt")?)),
    }
}

/// The one file that is read in place of two, if it is.
fn single_file(folder: &Path) -> Option<PathBuf> {
    let file = folder.join("tokenizer.json");
    (!folder.join("vocab.json").exists() && file.exists()).then_some(file)
}

/// The pipeline of Hugging Face's CLIP tokenizer.
fn assemble(
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    options: TokenizerOptions,
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let vocab: ahash::AHashMap<String, u32> = vocab.into_iter().collect();
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .unk_token(END.into())
        .end_of_word_suffix("</w>".into())
        .build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let spaces = tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".into());
    tokenizer.with_normalizer(Some(Normalizers::new(vec![
        NFC.into(),
        Replace::new(spaces, " ")?.into(),
        Lowercase.into(),
    ])))?;
    let words = SplitPattern::Regex(WORDS.into());
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![
        Split::new(words, SplitDelimiterBehavior::Removed, true)?.into(),
        ByteLevel::new(false, true, true).into(),
    ])));
    let mut special = vec![START, END];
    if options.padding == Padding::Exclamation {
        special.push(EXCLAMATION);
    }
    let special = special.into_iter().map(|token| AddedToken::from(token, true));
    tokenizer.add_special_tokens(special.collect::<Vec<_>>())?;
    Ok(tokenizer)
}

/// The vocabulary, with ids that are unique and without gaps.
fn parse_vocab(path: &Path, json: &[u8]) -> Result<HashMap<String, u32>, TokenizerError> {
    let invalid = |message: String| TokenizerError::Invalid { path: path.into(), message };
    let vocab: HashMap<String, u32> =
        serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
    if vocab.len() > MAX_ENTRIES {
        let message = format!("{} tokens, expected at most {MAX_ENTRIES}", vocab.len());
        return Err(invalid(message));
    }
    let mut seen = HashSet::new();
    for (token, &id) in &vocab {
        if id as usize >= vocab.len() || !seen.insert(id) {
            let message = format!(
                "token {token:?} has id {id}, expected each id from 0 to {} once",
                vocab.len() - 1
            );
            return Err(invalid(message));
        }
    }
    Ok(vocab)
}

/// The merges, each of two known tokens into a known one.
fn parse_merges(
    path: &Path,
    bytes: &[u8],
    vocab: &HashMap<String, u32>,
) -> Result<Vec<(String, String)>, TokenizerError> {
    let invalid = |message: String| TokenizerError::Invalid { path: path.into(), message };
    let text = std::str::from_utf8(bytes).map_err(|error| invalid(error.to_string()))?;
    let mut merges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("#version") || line.trim().is_empty() {
            continue;
        }
        let at = |message: String| invalid(format!("line {}: {message}", number + 1));
        let Some((left, right)) = line.split_once(' ') else {
            return Err(at(format!("{line:?} is not two tokens with a space between them")));
        };
        for token in [left, right, &format!("{left}{right}")] {
            if !vocab.contains_key(token) {
                return Err(at(format!("token {token:?} is not in the vocabulary")));
            }
        }
        merges.push((left.into(), right.into()));
        if merges.len() > MAX_ENTRIES {
            return Err(at(format!("more than {MAX_ENTRIES} merges")));
        }
    }
    Ok(merges)
}

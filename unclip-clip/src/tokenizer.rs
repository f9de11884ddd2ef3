//! Captions to tokens, with the `tokenizers` crate: CLIP's byte-pair encoding, GPT-2's, or
//! XLM-RoBERTa's pieces.
//!
//! Input that would make the crate panic is rejected first, and what it leaves open (marks,
//! padding, truncation, what was cut off) is decided here.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use unclip_core::Limit;
use unclip_nn::checkpoint::read_text;

use crate::bpe::{END, EXCLAMATION, START, assemble, parse_merges, parse_vocab};
use crate::error::TokenizerError;
use crate::gpt2::{GPT2_END, assemble_gpt2, missing_byte};
use crate::tokenizer_json;
use crate::tokens::{Row, Tokens};
use crate::unigram::{self, Pieces};

/// Characters of a caption that are looked at. No context is long enough for more.
const MAX_CHARS: usize = 10_000;

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
    /// The token `<pad>`, of XLM-RoBERTa's tokenizer, which has no other (Kandinsky 2.1).
    Pad,
    /// None that counts: the tower has learned what stands there. Of GPT-2's tokenizer, which has no
    /// other (GLIDE).
    Learned,
}

impl Padding {
    /// Whether its tokenizer has another that could be chosen instead.
    pub fn is_choice(self) -> bool {
        !matches!(self, Self::Pad | Self::Learned)
    }
}

impl fmt::Display for Padding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exclamation => "exclamation",
            Self::Zero => "zero",
            Self::End => "end",
            Self::Pad => "pad",
            Self::Learned => "learned",
        })
    }
}

/// How captions are read where implementations differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenizerOptions {
    /// Positions of a row: tokens, two marks, padding. Default 77.
    pub context_length: usize,
    /// What pads a row. Default [`Padding::Exclamation`], or [`Padding::Pad`] of XLM-RoBERTa's
    /// tokenizer. With [`Padding::Learned`], the two files are GPT-2's.
    pub padding: Option<Padding>,
}

impl TokenizerOptions {
    /// What pads a row of CLIP's tokenizer, if nothing is said.
    pub const PADDING: Padding = Padding::Exclamation;
}

impl Default for TokenizerOptions {
    fn default() -> Self {
        Self { context_length: 77, padding: None }
    }
}

/// Turns captions into [`Tokens`].
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The marks before and after a caption, if it has such.
    marks: Option<[u32; 2]>,
    pad: u32,
    vocab_size: usize,
    context_length: usize,
    padding: Padding,
}

impl Tokenizer {
    /// Reads `vocab.json` and `merges.txt` from a folder (`encoder.json` and `vocab.bpe`, as GPT-2's own
    /// code names them) or, if they are missing, `tokenizer.json`,
    /// in which newer libraries keep both ([`vocabulary_files`]), and which is the only file of
    /// XLM-RoBERTa's tokenizer that is read.
    ///
    /// # Errors
    /// A file that is missing, too large, malformed, or that contradicts the other; a context
    /// that has no room for a token; padding that the tokenizer does not have.
    pub fn from_folder(folder: &Path, options: TokenizerOptions) -> Result<Self, TokenizerError> {
        let file = single_file(folder);
        let is_asked = options.padding == Some(Padding::Pad);
        if let Some(file) = file.as_deref().filter(|file| is_asked || has_pieces(file)) {
            return Self::of_pieces(file, options);
        }
        let (vocab, merges) = vocabulary_files(folder)?;
        let names = pair(folder).map(|name| folder.join(name));
        let tokenizer = Self::from_files(names, &vocab, &merges, options);
        // what is wrong with the two is wrong in the one that they came from
        tokenizer.map_err(|error| match &file {
            Some(file) => error.at(file),
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
        let names = NAMES[0].map(|name| folder.join(name));
        Self::from_files(names, vocab, merges, options)
    }

    /// Takes the contents of the two files of these names.
    fn from_files(
        [path, of_merges]: [PathBuf; 2],
        vocab: &[u8],
        merges: &[u8],
        options: TokenizerOptions,
    ) -> Result<Self, TokenizerError> {
        check_room(&path, options)?;
        let vocab = parse_vocab(&path, vocab)?;
        let merges = parse_merges(&of_merges, merges, &vocab)?;
        let padding = options.padding.unwrap_or(TokenizerOptions::PADDING);
        let pad = match padding {
            Padding::Exclamation | Padding::Zero => EXCLAMATION,
            Padding::End => END,
            Padding::Learned => return Self::of_gpt2(&path, vocab, merges, options),
            Padding::Pad => {
                let message = "padding pad, expected exclamation, zero or end, as CLIP's tokenizer \
                               has them";
                return Err(TokenizerError::Invalid { path, message: message.into() });
            }
        };
        let [start, end, pad] = [START, END, pad].map(|token| vocab.get(token).copied());
        let (Some(start), Some(end), Some(pad)) = (start, end, pad) else {
            let message = format!("lacks one of the tokens {START}, {END} and {EXCLAMATION}");
            return Err(TokenizerError::Invalid { path, message });
        };
        let vocab_size = vocab.len();
        let inner = assemble(vocab, merges, padding == Padding::Exclamation)
            .map_err(|error| TokenizerError::Invalid { path, message: error.to_string() })?;
        let (marks, context_length) = (Some([start, end]), options.context_length);
        Ok(Self { inner, marks, pad, vocab_size, context_length, padding })
    }

    /// GPT-2's, of its vocabulary and merges.
    fn of_gpt2(
        path: &Path,
        vocab: HashMap<String, u32>,
        merges: Vec<(String, String)>,
        options: TokenizerOptions,
    ) -> Result<Self, TokenizerError> {
        let invalid = |message: String| TokenizerError::Invalid { path: path.into(), message };
        let (vocab_size, context_length) = (vocab.len(), options.context_length);
        if vocab.contains_key(START) {
            return Err(invalid(format!("has {START}, as CLIP's vocabulary; expected GPT-2's")));
        }
        let last = vocab_size.saturating_sub(1) as u32;
        let pad = vocab.get(GPT2_END).copied().filter(|&id| id == last).ok_or_else(|| {
            invalid(format!("expected {GPT2_END} as its last token, as GPT-2's vocabulary has it"))
        })?;
        if let Some(byte) = missing_byte(&vocab) {
            return Err(invalid(format!(
                "lacks the token {byte:?}: GPT-2's has one for each byte"
            )));
        }
        let inner = assemble_gpt2(vocab, merges).map_err(|error| invalid(error.to_string()))?;
        let padding = Padding::Learned;
        Ok(Self { inner, marks: None, pad, vocab_size, context_length, padding })
    }

    /// Reads XLM-RoBERTa's `tokenizer.json`.
    fn of_pieces(file: &Path, options: TokenizerOptions) -> Result<Self, TokenizerError> {
        check_room(file, options)?;
        let padding = options.padding.unwrap_or(Padding::Pad);
        if padding != Padding::Pad {
            let message = format!("padding {padding}, expected pad: the tokenizer has no other");
            return Err(TokenizerError::Invalid { path: file.into(), message });
        }
        let pieces = unigram::read(file, &read_text(file, Limit::VocabularyBytes)?)?;
        let Pieces { inner, marks: [start, end, pad], vocab_size } = pieces;
        let (marks, context_length) = (Some([start, end]), options.context_length);
        Ok(Self { inner, marks, pad, vocab_size, context_length, padding })
    }

    /// Number of tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Number of the mark after a caption; of GPT-2's tokenizer, which marks no captions, that of the
    /// mark in its vocabulary.
    pub fn end(&self) -> u32 {
        self.marks.map_or(self.pad, |[_, end]| end)
    }

    /// Which token pads rows.
    pub fn padding(&self) -> Padding {
        self.padding
    }

    /// Number of the token that pads rows.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// Tokenizes captions. Those that do not fit are cut, and [`Tokens::dropped`] says what was
    /// lost; encoding never fails. The empty caption is the null condition.
    pub fn encode<S: AsRef<str>>(&self, captions: &[S]) -> Tokens {
        let rows = captions.iter().map(|caption| self.row(caption.as_ref())).collect();
        Tokens::new(rows, self.context_length)
    }

    fn row(&self, caption: &str) -> Row {
        let cut = caption.char_indices().nth(MAX_CHARS).map_or(caption.len(), |(i, _)| i);
        let room = self.context_length - self.marks.map_or(0, |marks| marks.len());
        let mut ids: Vec<u32> = self.marks.into_iter().map(|[start, _]| start).collect();
        let mut read = cut;
        // there is a token for the unknown, or for every byte: encoding cannot fail
        if let Ok(encoding) = self.inner.encode(&caption[..cut], false) {
            ids.extend(encoding.get_ids().iter().take(room));
            if let Some(&(start, _)) = encoding.get_offsets().get(room) {
                read = start;
            }
        }
        ids.extend(self.marks.map(|[_, end]| end));
        let len = ids.len();
        ids.resize(self.context_length, self.pad);
        // a token may be a part of a character: all of it is lost then
        let rest = &caption[caption.floor_char_boundary(read)..];
        let dropped = (!rest.is_empty()).then(|| rest.into());
        // a caption may hold the mark itself; CLIP takes the first for the end
        let end = ids.iter().position(|&id| id == self.end()).unwrap_or(len.saturating_sub(1));
        Row { ids, len, end, dropped }
    }
}

/// Refuses a context that is too short.
fn check_room(path: &Path, options: TokenizerOptions) -> Result<(), TokenizerError> {
    let found = options.context_length;
    if found >= 3 {
        return Ok(());
    }
    let message = format!("context length {found}, expected at least 3: two marks, a token");
    Err(TokenizerError::Invalid { path: path.into(), message })
}

/// Whether a folder holds XLM-RoBERTa's tokenizer, which has no `vocab.json` and `merges.txt`.
pub fn is_of_pieces(folder: &Path) -> bool {
    single_file(folder).is_some_and(|file| has_pieces(&file))
}

/// Whether a `tokenizer.json` says that it is XLM-RoBERTa's kind. One that cannot be read is not:
/// what is wrong with it is said when it is read.
fn has_pieces(file: &Path) -> bool {
    #[derive(Deserialize)]
    struct File {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(rename = "type", default)]
        kind: Option<String>,
        /// Of CLIP's, this is a token's name, `unk_token`.
        #[serde(default)]
        unk_id: Option<usize>,
    }
    let text = read_text(file, Limit::VocabularyBytes).ok();
    let file: Option<File> = text.and_then(|text| serde_json::from_slice(&text).ok());
    // old files do not say their kind
    file.is_some_and(|File { model }| {
        model.kind.map_or(model.unk_id.is_some(), |kind| kind == unigram::KIND)
    })
}

/// The names of the two files: transformers', and those of GPT-2's own code.
const NAMES: [[&str; 2]; 2] = [["vocab.json", "merges.txt"], ["encoder.json", "vocab.bpe"]];

/// Which of them a folder has; the first, if it has neither.
fn pair(folder: &Path) -> [&'static str; 2] {
    let has = |names: &&[&str; 2]| folder.join(names[0]).exists();
    *NAMES.iter().find(has).unwrap_or(&NAMES[0])
}

/// The contents of a folder's two files, by either pair of names; if they are missing, their equivalents
/// from its `tokenizer.json`.
///
/// # Errors
/// A file that is missing or too large; a `tokenizer.json` that is not of CLIP's kind.
pub fn vocabulary_files(folder: &Path) -> Result<(Vec<u8>, Vec<u8>), TokenizerError> {
    let read = |name: &str| -> Result<Vec<u8>, TokenizerError> {
        Ok(read_text(&folder.join(name), Limit::VocabularyBytes)?)
    };
    match single_file(folder) {
        Some(file) => tokenizer_json::split(&file, &read("tokenizer.json")?),
        None => {
            let [vocab, merges] = pair(folder);
            Ok((read(vocab)?, read(merges)?))
        }
    }
}

/// The one file that is read in place of two, if it is.
fn single_file(folder: &Path) -> Option<PathBuf> {
    let file = folder.join("tokenizer.json");
    let has_pair = NAMES.iter().any(|names| folder.join(names[0]).exists());
    (!has_pair && file.exists()).then_some(file)
}

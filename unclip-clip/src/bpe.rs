//! CLIP's byte-pair encoding: its two files, and the tokenizer that they are.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::error::TokenizerError;
use crate::tokenizer_json::WORDS;

/// Mark before a caption.
pub(crate) const START: &str = "<|startoftext|>";
/// Mark after a caption, and stand-in for what the vocabulary lacks.
pub(crate) const END: &str = "<|endoftext|>";
/// The token with which Karlo fills a row up.
pub(crate) const EXCLAMATION: &str = "!";
/// Entries of a vocabulary or merge list that are accepted.
const MAX_ENTRIES: usize = 1_000_000;

/// The pipeline of Hugging Face's CLIP tokenizer, with `!` as a mark or not.
pub(crate) fn assemble(
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
    marks_exclamation: bool,
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
    if marks_exclamation {
        special.push(EXCLAMATION);
    }
    let special = special.into_iter().map(|token| AddedToken::from(token, true));
    tokenizer.add_special_tokens(special.collect::<Vec<_>>())?;
    Ok(tokenizer)
}

/// The vocabulary, with ids that are unique and without gaps.
pub(crate) fn parse_vocab(
    path: &Path,
    json: &[u8],
) -> Result<HashMap<String, u32>, TokenizerError> {
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
pub(crate) fn parse_merges(
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

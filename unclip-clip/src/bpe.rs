//! CLIP's byte-pair encoding: its two files, and the tokenizer that they are.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, SplitDelimiterBehavior,
};

use unclip_core::Limit;

use crate::error::TokenizerError;
use crate::tokenizer_json::WORDS;

/// Mark before a caption.
pub(crate) const START: &str = "<|startoftext|>";
/// Mark after a caption, and stand-in for what the vocabulary lacks.
pub(crate) const END: &str = "<|endoftext|>";
/// The token with which Karlo fills a row up.
pub(crate) const EXCLAMATION: &str = "!";

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
    tokenizer.with_normalizer(Some(normalizer()?))?;
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer()?));
    let mut special = vec![START, END];
    if marks_exclamation {
        special.push(EXCLAMATION);
    }
    let special = special.into_iter().map(|token| AddedToken::from(token, true));
    tokenizer.add_special_tokens(special.collect::<Vec<_>>())?;
    Ok(tokenizer)
}

fn normalizer() -> tokenizers::Result<Normalizers> {
    let spaces = tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".into());
    Ok(Normalizers::new(vec![NFC.into(), Replace::new(spaces, " ")?.into(), Lowercase.into()]))
}

fn pre_tokenizer() -> tokenizers::Result<PreTokenizers> {
    let words = SplitPattern::Regex(WORDS.into());
    Ok(PreTokenizers::new(vec![
        Split::new(words, SplitDelimiterBehavior::Removed, true)?.into(),
        ByteLevel::new(false, true, true).into(),
    ]))
}

/// What CLIP's tokenizer merges tokens in: the words of a caption, in small letters, each byte as its
/// printable stand-in.
pub struct CaptionWords {
    normalizer: Normalizers,
    pre_tokenizer: PreTokenizers,
}

impl CaptionWords {
    /// The words as the tokenizer finds them.
    ///
    /// # Errors
    /// None in practice; the library's patterns are parsed here.
    pub fn new() -> Result<Self, String> {
        let made = || -> tokenizers::Result<Self> {
            Ok(Self { normalizer: normalizer()?, pre_tokenizer: pre_tokenizer()? })
        };
        made().map_err(|error| error.to_string())
    }

    /// The words of a caption, in their order.
    pub fn of(&self, caption: &str) -> Vec<String> {
        let split = || -> tokenizers::Result<Vec<String>> {
            let mut normalized = NormalizedString::from(caption);
            self.normalizer.normalize(&mut normalized)?;
            let mut words = PreTokenizedString::from(normalized);
            self.pre_tokenizer.pre_tokenize(&mut words)?;
            let splits = words.get_splits(OffsetReferential::Normalized, OffsetType::Byte);
            Ok(splits.into_iter().map(|(word, ..)| word.to_string()).collect())
        };
        split().unwrap_or_default()
    }
}

/// The vocabulary, with ids that are unique and without gaps.
pub(crate) fn parse_vocab(
    path: &Path,
    json: &[u8],
) -> Result<HashMap<String, u32>, TokenizerError> {
    let invalid = |message: String| TokenizerError::Invalid { path: path.into(), message };
    let vocab: HashMap<String, u32> =
        serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
    let limited = Limit::VocabularyEntries.check_len("number of tokens", vocab.len());
    limited.map_err(|error| invalid(error.to_string()))?;
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
        let limited = Limit::VocabularyEntries.check_len("number of merges", merges.len());
        limited.map_err(|error| at(error.to_string()))?;
    }
    Ok(merges)
}

//! A vocabulary for a model that is trained from nothing.

use std::collections::BTreeMap;
use std::path::Path;

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{Model, Trainer};
use unclip_clip::CaptionWords;
use unclip_core::{InvalidSetting, Limit};
use unclip_nn::checkpoint::{LoadError, read_file, write_whole};

use crate::TrainError;

/// Learns a byte-pair vocabulary of CLIP's kind, of so many merges at most, and writes `vocab.json` and
/// `merges.txt`.
///
/// Every byte has a token, so that any text can be read; words that occur often become one token
/// each. The same captions give the same files.
///
/// # Errors
/// Files that cannot be written.
pub fn train_vocabulary(
    folder: &Path,
    merges: usize,
    captions: impl Iterator<Item = String> + Send,
) -> Result<(), TrainError> {
    let merges = learn_merges(merges, captions).map_err(|error| TrainError::Checkpoint {
        path: folder.join("merges.txt"),
        message: error.to_string(),
    })?;
    let mut vocab = BTreeMap::new();
    let mut add = |token: String| {
        let id = vocab.len();
        vocab.entry(token).or_insert(id);
    };
    let bytes = byte_symbols();
    bytes.iter().for_each(|symbol| add(symbol.to_string()));
    bytes.iter().for_each(|symbol| add(format!("{symbol}</w>")));
    merges.iter().for_each(|(left, right)| add(format!("{left}{right}")));
    ["<|startoftext|>", "<|endoftext|>"].into_iter().for_each(|mark| add(mark.into()));
    let json = serde_json::to_string(&vocab)
        .map_err(|source| LoadError::Json { path: folder.into(), source })?;
    let lines: String = merges.iter().map(|(left, right)| format!("{left} {right}\n")).collect();
    std::fs::create_dir_all(folder)
        .map_err(|source| LoadError::Io { path: folder.into(), source })?;
    write_whole(&folder.join("vocab.json"), json.as_bytes())?;
    write_whole(&folder.join("merges.txt"), format!("#version: 0.2\n{lines}").as_bytes())?;
    Ok(())
}

/// Takes over a vocabulary: into an empty place, or where the same one is already.
///
/// # Errors
/// Files that cannot be read or written; another vocabulary.
pub(crate) fn copy_vocabulary(from: &Path, to: &Path) -> Result<(), TrainError> {
    std::fs::create_dir_all(to).map_err(|source| LoadError::Io { path: to.into(), source })?;
    for name in ["vocab.json", "merges.txt"] {
        let (bytes, path) = (read_file(&from.join(name), Limit::VocabularyBytes)?, to.join(name));
        match path.exists() {
            false => write_whole(&path, &bytes)?,
            true if read_file(&path, Limit::VocabularyBytes)? == bytes => {}
            true => {
                let expected = format!("that of {}; or write to another folder", from.display());
                let found = format!("another one in {}", to.display());
                return Err(InvalidSetting::new("vocabulary", found, expected).into());
            }
        }
    }
    Ok(())
}

/// Longer words teach nothing, in bytes.
const MAX_WORD: usize = 256;

/// The merges in the order in which they apply. The library gives them only as a file.
fn learn_merges(
    most: usize,
    captions: impl Iterator<Item = String> + Send,
) -> tokenizers::Result<Vec<(String, String)>> {
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(256 + most)
        .end_of_word_suffix("</w>".into())
        .build();
    let reader = CaptionWords::new()?;
    let words = |caption: &str| {
        let mut words = reader.of(caption);
        // what has no spaces is no word, and takes longer than all words together
        words.retain(|word| word.len() <= MAX_WORD);
        Ok(words)
    };
    trainer.feed(captions, words)?;
    let mut model = BPE::default();
    trainer.train(&mut model)?;
    let folder = tempfile::tempdir()?;
    model.save(folder.path(), None)?;
    let text = std::fs::read_to_string(folder.path().join("merges.txt"))?;
    let pair = |line: &str| line.split_once(' ').map(|(l, r)| (l.to_string(), r.to_string()));
    Ok(text.lines().filter(|line| !line.starts_with("#version")).filter_map(pair).collect())
}

/// GPT-2's printable stand-ins for the 256 bytes, in CLIP's order: `!` is the first.
fn byte_symbols() -> Vec<char> {
    let printable = |b: &u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let others = (0u32..256).filter(|b| !printable(b)).count() as u32;
    (0u32..256).filter(printable).chain(256..256 + others).filter_map(char::from_u32).collect()
}

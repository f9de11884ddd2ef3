//! GPT-2's byte-pair encoding, by which GLIDE reads captions: no marks, and spaces count.

use std::collections::HashMap;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::Lowercase;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// The last token of its vocabulary. It stands for no text of a caption.
pub(crate) const GPT2_END: &str = "<|endoftext|>";

/// GLIDE's pipeline: lower case, then GPT-2's words and bytes.
pub(crate) fn assemble_gpt2(
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let vocab: ahash::AHashMap<String, u32> = vocab.into_iter().collect();
    let model = BPE::builder().vocab_and_merges(vocab, merges).build()?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_normalizer(Some(Lowercase))?;
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    Ok(tokenizer)
}

/// The first byte's token that a vocabulary lacks, if any: without an unknown token, there must be one
/// for each.
pub(crate) fn missing_byte(vocab: &HashMap<String, u32>) -> Option<char> {
    let mut bytes: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    bytes.sort_unstable();
    bytes.into_iter().find(|byte| !vocab.contains_key(&byte.to_string()))
}

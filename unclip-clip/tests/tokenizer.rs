//! Captions against transformers' tokenizer.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use unclip_clip::{Padding, Tokenizer, TokenizerOptions};

/// Positions of a row of the table.
const LENGTH: usize = 24;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer")
}

fn tokenizer(padding: Padding) -> Tokenizer {
    let options = TokenizerOptions { context_length: LENGTH, padding: Some(padding) };
    Tokenizer::from_folder(&folder(), options).unwrap()
}

#[derive(Deserialize)]
struct Table {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    mask: Vec<usize>,
    plain_ids: Vec<u32>,
    plain_mask: Vec<usize>,
}

fn table() -> Vec<Case> {
    let json = std::fs::read(folder().join("table.json")).unwrap();
    serde_json::from_slice::<Table>(&json).unwrap().cases
}

#[test]
fn every_string_of_the_table() {
    let (padding, plain) = (tokenizer(Padding::Exclamation), tokenizer(Padding::Zero));
    for case in table() {
        let rows = [(&padding, &case.ids, &case.mask), (&plain, &case.plain_ids, &case.plain_mask)];
        for (tokenizer, ids, mask) in rows {
            let tokens = tokenizer.encode(&[&case.text]);
            assert_eq!(tokens.ids(0), ids, "{:?}", case.text);
            assert_eq!(tokens.len(0), mask.iter().sum::<usize>(), "{:?}", case.text);
        }
    }
}

#[test]
fn a_batch_is_its_rows() {
    let tokenizer = tokenizer(Padding::Exclamation);
    let table = table();
    let texts: Vec<&str> = table.iter().map(|case| case.text.as_str()).collect();
    let tokens = tokenizer.encode(&texts);
    assert_eq!([tokens.batch(), tokens.context_length()], [table.len(), LENGTH]);
    for (row, case) in table.iter().enumerate() {
        assert_eq!(tokens.ids(row), case.ids, "{:?}", case.text);
    }
}

#[test]
fn what_does_not_fit_is_told() {
    for padding in [Padding::Exclamation, Padding::Zero] {
        let tokenizer = tokenizer(padding);
        for case in table() {
            let tokens = tokenizer.encode(&[&case.text]);
            let Some(dropped) = tokens.dropped(0) else { continue };
            // what was dropped is the end, and without it the tokens are the same
            let kept = case.text.strip_suffix(dropped).unwrap();
            assert_eq!(tokens.len(0), LENGTH, "{:?}", case.text);
            let again = tokenizer.encode(&[kept]);
            assert_eq!(again.dropped(0), None, "{:?}", case.text);
        }
        let dropped = |text: &str| tokenizer.encode(&[text]).dropped(0).map(str::to_owned);
        assert_eq!(dropped(&"cat ".repeat(22)), None);
        assert_eq!(dropped("cat cat").as_deref(), None);
        let lost = dropped(&format!("{}dog!", "cat ".repeat(22))).unwrap();
        assert_eq!(lost, "dog!");
    }
}

#[test]
fn an_absurdly_long_caption_is_cut() {
    let tokens = tokenizer(Padding::Exclamation).encode(&["猫 ".repeat(1_000_000)]);
    assert_eq!(tokens.len(0), LENGTH);
    assert!(tokens.dropped(0).unwrap().len() > 1_000_000);
}

#[test]
fn damaged_files_are_refused_with_their_place() {
    let read = |name: &str| std::fs::read(folder().join(name)).unwrap();
    let (vocab, merges) = (read("vocab.json"), read("merges.txt"));
    let refusal = |vocab: &[u8], merges: &[u8]| {
        let folder = Path::new("folder");
        Tokenizer::from_bytes(folder, vocab, merges, TokenizerOptions::default())
            .unwrap_err()
            .to_string()
    };
    assert!(refusal(b"{", &merges).starts_with("folder/vocab.json: "));
    let gap = refusal(br#"{"!": 0, "a": 2}"#, b"");
    assert!(gap.contains(r#"token "a" has id 2"#), "{gap}");
    let marks = refusal(br#"{"!": 0, "a": 1}"#, b"");
    assert!(marks.contains("<|startoftext|>"), "{marks}");
    let line = refusal(&vocab, b"#version: 0.2\na\n");
    assert!(line.starts_with("folder/merges.txt: line 2: "), "{line}");
    let unknown = refusal(&vocab, "a \u{732b}".as_bytes());
    assert!(unknown.contains("not in the vocabulary"), "{unknown}");
}

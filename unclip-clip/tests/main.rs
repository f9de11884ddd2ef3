//! Integration tests of unclip-clip.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

// opens fixtures and compares with them
#[path = "../../unclip-nn/tests/fixture.rs"]
mod fixture;
// both towers, preprocessing and the loss against transformers and PyTorch
mod parity;
// captions against transformers' tokenizer
mod tokenizer;

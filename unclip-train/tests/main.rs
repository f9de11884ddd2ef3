//! Training from outside: the loop, its checkpoints, and what each stage learns from.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

/// Folders and shards of captioned pictures.
mod dataset;
/// What CLIP says of the data, computed once.
mod embeddings;
// opens fixtures and compares with them
#[path = "../../unclip-nn/tests/fixture.rs"]
mod fixture;
/// Steps of every stage against PyTorch.
mod steps;
/// Loop, clipping, averaging, skipping, and going on after an interruption.
mod training;
/// The vocabulary of a model that is trained from nothing.
mod vocabulary;

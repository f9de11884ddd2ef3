//! Integration tests of unclip-decoder.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

// opens fixtures and compares with them
#[path = "../../unclip-nn/tests/fixture.rs"]
mod fixture;
// the conditioner and a guided call against diffusers, and what binding keeps
mod parity;

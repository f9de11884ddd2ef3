//! Integration tests of unclip-autoencoder.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

// opens fixtures and compares with them
#[path = "../../unclip-nn/tests/fixture.rs"]
mod fixture;
// both kinds against diffusers
mod parity;

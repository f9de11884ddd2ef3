//! Integration tests of unclip-upsample.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

// opens fixtures and compares with them
#[path = "../../unclip-nn/tests/fixture.rs"]
mod fixture;
// what an upsampler does at any size, and who takes its last step
mod laws;
// the network and the blur against diffusers and PyTorch
mod parity;

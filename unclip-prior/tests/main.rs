//! Integration tests of unclip-prior.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

// opens fixtures and compares with them
#[path = "../../unclip-nn/tests/fixture.rs"]
mod fixture;
// the network against diffusers, and what binding keeps
mod parity;
// the autoregressive prior against PyTorch, and its laws
mod autoregressive;

//! Integration tests of unclip-core.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

// opens fixtures and compares with them
#[path = "../../unclip-nn/tests/fixture.rs"]
mod fixture;
// what guidance is at its ends, and what it leaves alone
mod guidance;
// laws for any numbers
mod laws;
// schedules, single steps, losses and resizing against diffusers and PyTorch
mod parity;
// what bicubic resizing keeps
mod resize;
// what every sampler must do with denoisers that are known in closed form
mod sampling;

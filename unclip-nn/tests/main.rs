//! Integration tests of unclip-nn.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

// weights on disk: what comes back, and what is refused
mod checkpoint;
// opens fixtures and compares with them
mod extremes;
mod fixture;
// kernels against burn's own operations, values and gradients
mod ops;
// layers and both U-Nets against diffusers
mod parity;
// files and folders that are written whole or not at all
mod whole;

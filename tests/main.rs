//! The facade from outside: what works, and what is refused with a message that helps.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

/// Configurations and tokenizer files that cannot be used.
mod bad_configs;
/// Checkpoints and folders that cannot be used.
mod bad_files;
/// Places where nothing can be saved.
mod bad_places;
/// Options, captions, positions, pictures and devices that cannot be used.
mod bad_requests;
/// A tiny model from its folder to pictures, and back from the pictures to their recipes.
mod end_to_end;
/// The tiny model, and files to damage.
mod support;
/// The rules of the house: who imports whom, headers, sizes.
mod tidy;
/// A GPU backend against the processor.
#[cfg(feature = "wgpu")]
mod wgpu;

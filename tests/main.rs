//! The facade from outside: what works, and what is refused with a message that helps.

#![allow(clippy::print_stdout, reason = "figures for those who ask with --nocapture")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

/// ADM's folders.
mod adm;
/// Configurations and tokenizer files that cannot be used.
mod bad_configs;
/// Checkpoints and folders that cannot be used.
mod bad_files;
/// Configurations in diffusers' layout that cannot be used.
mod bad_karlo;
/// Files in diffusers' layout that cannot be used.
mod bad_karlo_files;
/// LAION's folders with something wrong in them.
mod bad_laion;
/// Places where nothing can be saved.
mod bad_places;
/// Options, captions, positions, pictures and devices that cannot be used.
mod bad_requests;
/// Decoders that are told of every pixel; pictures of other sizes.
mod controls;
/// Published folders, damaged at random.
mod damage;
/// Edited pictures.
mod edits;
/// A tiny model from its folder to pictures, and back from the pictures to their recipes.
mod end_to_end;
/// What a call will need, before it is made.
mod estimates;
/// What a machine does to the work.
mod faults;
/// Folders as today's tools and yesterday's write them.
mod folders;
/// GLIDE's folders.
mod glide;
/// Weights and noise that follow from names.
mod hashed;
/// What strangers may give.
#[cfg(feature = "train")]
mod hostile;
/// Kandinsky's folders: what diffusers gives on them.
mod kandinsky;
/// Kandinsky 2.1: what diffusers gives on it.
mod kandinsky21;
/// Karlo's folders: what diffusers gives on them.
mod karlo;
/// Folders written in diffusers' layout.
mod karlo_write;
/// LAION's folders: what DALLE2-pytorch gives on them.
mod laion;
/// Both latents of pictures.
mod latents;
/// Karlo in the files of its own code; CLIP in its three layouts.
mod layouts;
/// A second folder of each family.
mod odd;
/// Models of somebody's own pictures.
#[cfg(feature = "train")]
mod own_pictures;
/// Pictures in files, as other programs make them and as this one does.
mod pictures;
/// Every prior, and which of them draws.
mod priors;
/// The programs that people type.
mod programs;
/// What the reference wrote down.
mod reference;
/// Stable unCLIP's folder: what diffusers gives on it.
mod stable;
/// The tiny model, and files to damage.
mod support;
/// What strangers may give: what is tried with it.
#[cfg(feature = "train")]
#[path = "hostile/targets.rs"]
mod targets;
/// The rules of the house: who imports whom, headers, sizes.
mod tidy;
/// Variations with a caption, less of the picture, or by way of the prior.
mod variations;
/// A GPU backend against the CPU.
#[cfg(feature = "wgpu")]
mod wgpu;

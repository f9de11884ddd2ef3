//! See `tests/hostile/targets.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| unclip_fuzz::watch("plan", data));

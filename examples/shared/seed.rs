//! Seeds as people ask for them.

use std::hash::{BuildHasher, Hasher};
use std::str::FromStr;

/// A number, or a random one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed(pub(crate) u64);

impl FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            // each new state has random keys
            "random" | "-1" => Ok(Self(std::hash::RandomState::new().build_hasher().finish())),
            _ => match text.parse() {
                Ok(seed) => Ok(Self(seed)),
                Err(_) => Err(format!("expected 0 to {}, or random", u64::MAX)),
            },
        }
    }
}

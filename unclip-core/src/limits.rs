//! The limits on what comes from outside: one place for all crates.
//!
//! They hold for the whole process, and are checked before anything of that size is computed: sizes of files and
//! tensors before they are read, entries of a file that fits in its own limit when they are counted. A program that
//! needs more says so once, before its first call.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::InvalidSetting;

macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $variant:ident $name:literal $default:expr, $unit:literal;)+) => {
        /// A limit on what comes from outside. All of them, with their defaults:
        ///
        /// | limit | default | unit |
        /// |---|---|---|
        $(#[doc = concat!("| `", $name, "` | ", stringify!($default), " | ", $unit, " |")])+
        ///
        /// ```
        /// use unclip_core::Limit;
        ///
        /// Limit::PictureSide.set(20_000);
        /// assert!(Limit::PictureSide.check("width", 17_000).is_ok());
        /// let refused = Limit::PictureSide.check("width", 30_000).unwrap_err();
        /// assert!(refused.to_string().contains("picture_side"));
        /// # Limit::PictureSide.set(Limit::PictureSide.default_value());
        /// ```
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Limit {
            $($(#[doc = $doc])+ $variant,)+
        }

        static VALUES: [AtomicU64; Limit::ALL.len()] = [$(AtomicU64::new($default)),+];

        impl Limit {
            /// All limits.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name, as programs and messages spell it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it is until somebody says otherwise.
            pub fn default_value(self) -> u64 {
                match self { $(Self::$variant => $default,)+ }
            }

            /// What it counts.
            pub fn unit(self) -> &'static str {
                match self { $(Self::$variant => $unit,)+ }
            }
        }
    };
}

limits! {
    /// The longest side of a picture that is read.
    PictureSide "picture_side" 1 << 14, "pixels";
    /// A picture when it is decoded.
    PictureBytes "picture_bytes" 3 << 29, "bytes";
    /// The file of a picture.
    PictureFileBytes "picture_file_bytes" 512 << 20, "bytes";
    /// The recipes in a picture.
    RecipeBytes "recipe_bytes" 16 << 20, "bytes";
    /// A configuration.
    ConfigBytes "config_bytes" 1 << 20, "bytes";
    /// The header of a safetensors file, and an index of such files.
    HeaderBytes "header_bytes" 4 << 20, "bytes";
    /// A single tensor of a file.
    TensorBytes "tensor_bytes" 16 << 30, "bytes";
    /// A file of a tokenizer, or a list of names.
    VocabularyBytes "vocabulary_bytes" 64 << 20, "bytes";
    /// Tokens of a vocabulary, and merges of it.
    VocabularyEntries "vocabulary_entries" 1_000_000, "entries";
    /// A list of the captions of a data set.
    ListBytes "list_bytes" 4 << 30, "bytes";
    /// A file of captions to draw.
    PromptFileBytes "prompt_file_bytes" 64 << 20, "bytes";
    /// The captions of such a file.
    Prompts "prompts" 100_000, "captions";
    /// One caption, of which a model reads the beginning; and the file of captions beside a picture.
    CaptionBytes "caption_bytes" 1 << 20, "bytes";
    /// The pictures of a call.
    Images "images" 64, "pictures";
    /// The timesteps of a stage, of which a sampler visits all at most.
    Steps "steps" 100_000, "steps";
    /// What the pictures of a call hold in memory at once, beside the weights: with more, parts of them
    /// go through the networks one after the other. It is no reason to refuse anything, and does not count what
    /// is computed once for each picture (a prior keeps keys and values of its caption).
    BatchBytes "batch_bytes" 2 << 30, "bytes";
    /// The weights of a stage, as they are held in memory in f32.
    ModelBytes "model_bytes" 256 << 30, "bytes";
    /// The memory that a call needs by its estimate. A program sets it to what its machine has.
    MemoryBytes "memory_bytes" u64::MAX, "bytes";
}

impl Limit {
    /// What it is now.
    pub fn value(self) -> u64 {
        VALUES[self as usize].load(Ordering::Relaxed)
    }

    /// Sets it, for the whole process.
    pub fn set(self, value: u64) {
        VALUES[self as usize].store(value, Ordering::Relaxed);
    }

    /// Refuses more than that of something, by its name.
    ///
    /// # Errors
    /// Names the limit, what was found, and how the limit is raised.
    pub fn check(self, name: &str, found: u64) -> Result<(), InvalidSetting> {
        if found <= self.value() {
            return Ok(());
        }
        Err(InvalidSetting::new(name, format!("{found} {}", self.unit()), self.to_string()))
    }

    /// As [`check`](Self::check), for what has a size in memory.
    ///
    /// # Errors
    /// As there.
    pub fn check_len(self, name: &str, found: usize) -> Result<(), InvalidSetting> {
        self.check(name, u64::try_from(found).unwrap_or(u64::MAX))
    }
}

/// In words: how much is accepted, and how that is changed.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit, name) = (self.value(), self.unit(), self.name());
        write!(
            f,
            "at most {value} {unit} (the limit {name}: Limit::set, or UNCLIP_LIMITS={name}=N)"
        )
    }
}

/// A limit and its value, as in `picture_side=20000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitValue {
    /// The limit.
    pub limit: Limit,
    /// Its value.
    pub value: u64,
}

impl FromStr for LimitValue {
    type Err = InvalidSetting;

    fn from_str(text: &str) -> Result<Self, InvalidSetting> {
        let refused = || {
            let names: Vec<_> = Limit::ALL.iter().map(|limit| limit.name()).collect();
            InvalidSetting::new("limit", text, format!("NAME=NUMBER of {}", names.join(", ")))
        };
        let (name, value) = text.split_once('=').ok_or_else(refused)?;
        let limit = Limit::ALL.iter().find(|limit| limit.name() == name.trim());
        let digits = value.trim().replace('_', "");
        match (limit, digits.parse()) {
            (Some(&limit), Ok(value)) => Ok(Self { limit, value }),
            (Some(limit), Err(_)) => {
                let expected = format!("a whole number from 0 to {}", u64::MAX);
                Err(InvalidSetting::new(limit.name(), value.trim(), expected))
            }
            (None, _) => Err(refused()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_was_found_and_what_to_do() {
        let refused = Limit::Images.check("n", 65).unwrap_err().to_string();
        let said = "n is 65 pictures, expected at most 64 pictures (the limit images: Limit::set, \
                    or UNCLIP_LIMITS=images=N)";
        assert_eq!(refused, said);
        assert!(Limit::Images.check_len("n", 64).is_ok());
        assert!(Limit::Images.check_len("n", usize::MAX).is_err());
    }

    #[test]
    fn limits_are_spelled_by_name() {
        let spelled = "picture_side=20_000".parse();
        assert_eq!(spelled, Ok(LimitValue { limit: Limit::PictureSide, value: 20_000 }));
        for text in
            ["", "picture_side", "side=3", "picture_side=-1", "picture_side=99999999999999999999"]
        {
            assert!(text.parse::<LimitValue>().is_err(), "{text:?}");
        }
        for limit in Limit::ALL {
            let spelled = format!("{}={}", limit.name(), limit.value()).parse();
            assert_eq!(spelled, Ok(LimitValue { limit: *limit, value: limit.default_value() }));
        }
    }
}

//! Sizes of CLIP's towers.

use serde::{Deserialize, Serialize};
use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::KeyMap;
use unclip_nn::{TransformerConfig, check};

use crate::Padding;

/// What kind of text tower it is. Only CLIP's and M-CLIP's give embeddings in CLIP's space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TextTower {
    /// CLIP's: causal, and the end mark's state becomes the embedding.
    #[default]
    Clip,
    /// M-CLIP's XLM-RoBERTa, which Kandinsky 2.1 reads captions of a hundred languages by: padding is
    /// hidden, and the mean of all states becomes the embedding.
    Multilingual {
        /// Rows of its position table: the positions of a caption, and those up to the number of
        /// the padding token, which have no caption's token.
        positions: usize,
        /// Number of the token that fills a row up.
        padding: u32,
    },
    /// GLIDE's: every token sees every other, there is a learned embedding for each position of
    /// padding, and the last position's state becomes the embedding.
    Glide,
}

impl TextTower {
    /// Whether it is CLIP's.
    pub fn is_clip(&self) -> bool {
        *self == Self::Clip
    }

    /// What is special about it, if it is another's: its model, and what it always has.
    fn demand(&self) -> Option<&'static str> {
        match self {
            Self::Clip => None,
            Self::Multilingual { .. } => Some("true: M-CLIP's tower has a projection"),
            Self::Glide => Some("true: GLIDE's tower has a projection"),
        }
    }
}

/// Sizes of a [`TextEncoder`](crate::TextEncoder).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextEncoderConfig {
    /// Number of tokens that the tokenizer knows.
    pub vocab_size: usize,
    /// Number of positions: tokens of a caption with its two marks and padding.
    pub context_length: usize,
    /// The kind of tower.
    #[serde(default, skip_serializing_if = "TextTower::is_clip")]
    pub tower: TextTower,
    /// Width of CLIP's space; of a tower without a projection, that of its tokens; of GLIDE's, that of
    /// the timestep embedding.
    pub d_embedding: usize,
    /// Whether the embedding is the end mark's state after a projection into CLIP's space, or, of a
    /// tower that only reads captions for others, that state itself.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub projected: bool,
    /// The tower.
    pub transformer: TransformerConfig,
    /// What cosines of captions and pictures are multiplied by to be log-odds: the inverse of the
    /// temperature that CLIP was trained to. Published models were all trained to 100, the most
    /// that CLIP's paper allows.
    #[serde(default = "TextEncoderConfig::most")]
    pub logit_scale: f64,
    /// Whether embeddings are of length 1 (DALLE2-pytorch).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unit_length: bool,
    /// Which token pads its captions, where it is not that of
    /// [`TokenizerOptions::PADDING`](crate::TokenizerOptions::PADDING) and there is a choice. Used when the
    /// tokenizer is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub padding: Option<Padding>,
}

impl TextEncoderConfig {
    /// The logit scale of published models.
    pub const MOST: f64 = 100.0;

    fn most() -> f64 {
        Self::MOST
    }

    /// Whether its embeddings are in CLIP's space.
    pub fn is_of_clip(&self) -> bool {
        self.projected && self.tower != TextTower::Glide
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        check::size("vocab_size", self.vocab_size)?;
        check::size("context_length", self.context_length)?;
        check::size("d_embedding", self.d_embedding)?;
        if self.context_length < 3 {
            let expected = "at least 3: two marks and a token";
            return Err(InvalidSetting::new("context_length", self.context_length, expected));
        }
        self.check_tower()?;
        self.check_padding()?;
        if !self.projected {
            check::equal("d_embedding", self.d_embedding, self.transformer.d_model)?;
        }
        InvalidSetting::check_range("logit_scale", self.logit_scale, 0.0, 1000.0)?;
        self.transformer.validate().map_err(|error| error.within("transformer"))
    }

    fn check_padding(&self) -> Result<(), InvalidSetting> {
        match self.padding {
            Some(padding) if !(padding.is_choice() && self.tower.is_clip()) => {
                let expected = "exclamation, zero or end, of CLIP's tower; others have no choice";
                Err(InvalidSetting::new("padding", padding, expected))
            }
            _ => Ok(()),
        }
    }

    fn check_tower(&self) -> Result<(), InvalidSetting> {
        if let (false, Some(expected)) = (self.projected, self.tower.demand()) {
            return Err(InvalidSetting::new("projected", false, expected));
        }
        let TextTower::Multilingual { positions, padding } = self.tower else { return Ok(()) };
        check::size("positions", positions).map_err(|error| error.within("tower"))?;
        let least = self.context_length + padding as usize + 1;
        if padding as usize >= self.vocab_size {
            let expected = format!("below vocab_size, which is {}", self.vocab_size);
            return Err(InvalidSetting::new("tower.padding", padding, expected));
        }
        if positions < least {
            let expected = format!(
                "at least {least}: one row for each of {} positions, after those up to the number \
                 of the padding token",
                self.context_length
            );
            return Err(InvalidSetting::new("tower.positions", positions, expected));
        }
        Ok(())
    }
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// How a picture is fitted to the image tower's square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// The shorter side is resized to the square's, and the longer one is cut at both ends (OpenAI,
    /// diffusers).
    Crop,
    /// Both sides are resized, which loses the proportions (original Karlo).
    Squash,
    /// The same by Lanczos' kernel, on the 8-bit grid (dalle2-laion).
    Lanczos,
}

/// Sizes of an [`ImageEncoder`](crate::ImageEncoder), and the form of its pictures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEncoderConfig {
    /// Side of the square picture, in pixels.
    pub image_size: usize,
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width of CLIP's space.
    pub d_embedding: usize,
    /// The tower.
    pub transformer: TransformerConfig,
    /// Mean of each channel over the training pictures, in [0, 1].
    pub mean: [f32; 3],
    /// Standard deviation of each channel, in [0, 1].
    pub std: [f32; 3],
    /// How pictures of other proportions are fitted.
    pub fit: Fit,
    /// Whether embeddings are of length 1 (DALLE2-pytorch).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unit_length: bool,
}

/// Largest side of the pictures that a tower reads; published ones read up to 448 pixels.
const MAX_SIDE: usize = 4096;

impl ImageEncoderConfig {
    /// Number of tokens: one per patch, and the class token.
    pub fn tokens(&self) -> usize {
        (self.image_size / self.patch_size).pow(2) + 1
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        check::size("image_size", self.image_size)?;
        check::size("patch_size", self.patch_size)?;
        if self.image_size > MAX_SIDE {
            let expected = format!("at most {MAX_SIDE}");
            return Err(InvalidSetting::new("image_size", self.image_size, expected));
        }
        check::multiple("image_size", self.image_size, "patch_size", self.patch_size)?;
        check::size("d_embedding", self.d_embedding)?;
        let usable = |v: &f32| v.is_finite() && *v > 1e-6;
        if !self.std.iter().all(usable) || !self.mean.iter().all(|v| v.is_finite()) {
            let found = format!("{:?} and {:?}", self.mean, self.std);
            return Err(InvalidSetting::new("mean and std", found, "finite, std above 0"));
        }
        self.transformer.validate().map_err(|error| error.within("transformer"))
    }
}

/// Names of both towers' tensors in files, where they are not those of the fields.
pub(crate) const NAMES: KeyMap = KeyMap::new(TOWERS);

/// The same, to be added to others.
pub(crate) const TOWERS: &[(&str, &str)] = &[
    ("attn.to_out", "self_attn.out_proj"),
    ("attn.to_", "self_attn."),
    ("self_attn.q.", "self_attn.q_proj."),
    ("self_attn.k.", "self_attn.k_proj."),
    ("self_attn.v.", "self_attn.v_proj."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
    (".c_fc.", ".mlp.fc1."),
    (".c_proj.", ".mlp.fc2."),
];

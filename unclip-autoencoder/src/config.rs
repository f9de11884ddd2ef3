//! Sizes of an autoencoder.

use serde::{Deserialize, Serialize};
use unclip_core::InvalidSetting;
use unclip_core::image::PICTURE_CHANNELS;
use unclip_nn::{BLOCK_TENSORS, check};

/// Sizes of an [`Autoencoder`](crate::Autoencoder).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderConfig {
    /// Side of the pictures that it was trained on. It takes others: see
    /// [`factor`](Self::factor).
    pub image_size: usize,
    /// Channels of a latent.
    pub latent_channels: usize,
    /// Channels of each level, from the picture's size down; each level but the last halves it.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level of the encoder; the decoder has one more.
    pub num_res_blocks: usize,
    /// Groups of every norm.
    pub norm_groups: usize,
    /// Whether the places of the smallest level look at each other after each of its residual
    /// blocks. In the middle they do in any case.
    pub attention: bool,
    /// What latents are multiplied with, so that the decoder samples values of variance 1.
    pub scaling_factor: f64,
    /// What a latent is.
    pub latents: Latents,
}

/// What a latent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Latents {
    /// A normal distribution of each value (Rombach et al. 2022).
    Kl,
    /// Codes of a codebook, or what would be rounded to them.
    Codes {
        /// Entries of the codebook.
        n_codes: usize,
        /// Width of an entry.
        d_code: usize,
        /// Whether the latent modulates every norm of the decoder (MoVQ, Zheng et al. 2022).
        spatial_norm: bool,
    },
}

impl AutoencoderConfig {
    /// Channels of a picture.
    pub const CHANNELS: usize = PICTURE_CHANNELS;

    /// How many times smaller a latent is than its picture, on each side. Sides of pictures are
    /// multiples of it.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len().max(1) - 1)
    }

    /// What a picture of these sides, height and width, holds in memory at once, in bytes of f32: an
    /// upper estimate.
    pub fn row_bytes(&self, [height, width]: [usize; 2]) -> usize {
        let widest = |(level, &channels): (usize, &usize)| {
            (height.saturating_mul(width) >> (2 * level)).saturating_mul(channels)
        };
        let largest = self.block_out_channels.iter().enumerate().map(widest).max().unwrap_or(0);
        largest.saturating_mul(BLOCK_TENSORS * size_of::<f32>())
    }

    /// Channels of what is stored of a picture: those of a latent, or those of a code.
    pub fn stored_channels(&self) -> usize {
        match self.latents {
            Latents::Kl => self.latent_channels,
            Latents::Codes { d_code, .. } => d_code,
        }
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        few("latent_channels", self.latent_channels)?;
        check::layers("num_res_blocks", self.num_res_blocks)?;
        check::size("norm_groups", self.norm_groups)?;
        if !(1..=8).contains(&self.block_out_channels.len()) {
            let found = format!("{:?}", self.block_out_channels);
            return Err(InvalidSetting::new("block_out_channels", found, "1 to 8 numbers"));
        }
        for &channels in &self.block_out_channels {
            check::size("block_out_channels", channels)?;
            check::multiple("block_out_channels", channels, "norm_groups", self.norm_groups)?;
        }
        check::size("image_size", self.image_size)?;
        check::multiple("image_size", self.image_size, "the sizes of its levels", self.factor())?;
        InvalidSetting::check_range("scaling_factor", self.scaling_factor, 1e-6, 1e6)?;
        if let Latents::Codes { n_codes, d_code, spatial_norm } = self.latents {
            check::size("n_codes", n_codes)?;
            few("d_code", d_code)?;
            if spatial_norm {
                // norms read what is stored, in as many channels as a latent has
                check::equal("d_code", d_code, self.latent_channels)?;
            }
        }
        Ok(())
    }
}

/// Checks a number of channels that a latent may have.
fn few(field: &str, channels: usize) -> Result<(), InvalidSetting> {
    const MOST: usize = 64;
    match channels {
        1..=MOST => Ok(()),
        _ => Err(InvalidSetting::new(field, channels, format!("1 to {MOST}"))),
    }
}

//! Sizes of DALLE2-pytorch's U-Net.

use serde::{Deserialize, Serialize};
use unclip_core::InvalidSetting;

use crate::checkpoint::Layers;
use crate::{BLOCK_TENSORS, Comparison, check};

/// Largest side of a convolution's kernel.
const MAX_KERNEL: usize = 63;

/// Of which releases of DALLE2-pytorch a network is: they compute differently with the same sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaionRelease {
    /// From 0.23.3 to 1.1 (July 2022): pictures are halved by convolutions of two pixels' step, attention compares
    /// by products, linear attention takes values as they are.
    #[serde(rename = "1.0")]
    V1_0,
    /// From 1.10 on: every four pixels become channels of one, and values of linear attention have
    /// length 1.
    #[default]
    #[serde(rename = "1.15")]
    V1_15,
}

impl LaionRelease {
    /// Whether it is the later one.
    pub fn is_late(&self) -> bool {
        *self == Self::V1_15
    }
}

/// Sizes of a [`LaionUNet`](crate::LaionUNet).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaionUNetConfig {
    /// Side of the square picture, in pixels.
    pub image_size: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// How many of these, the last ones, are read once more before the last convolution: those of the
    /// small picture, in an upsampler.
    #[serde(default)]
    pub read_again: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Of which releases it is.
    #[serde(default, skip_serializing_if = "LaionRelease::is_late")]
    pub release: LaionRelease,
    /// Channels after the first convolutions, and sinusoids of the timestep.
    pub channels: usize,
    /// Channels of each level, outermost first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level, beside its first.
    pub num_res_blocks: Vec<usize>,
    /// The attention of each level; the middle has that of all pixels.
    pub attention: Vec<LevelAttention>,
    /// Width of a head of attention between pixels.
    pub d_head: usize,
    /// Number of its heads.
    pub n_heads: usize,
    /// Whether pixels are compared by their cosine.
    #[serde(default)]
    pub cosine_self: bool,
    /// Whether pixels and context tokens are.
    #[serde(default)]
    pub cosine_cross: bool,
    /// Width of a context token.
    pub d_context: usize,
    /// Number of context tokens made from the timestep.
    pub time_tokens: usize,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Sides of the first convolutions' kernels, which share out the channels: the smallest has half of
    /// them, the next one a quarter, and so on.
    pub kernels: Vec<usize>,
    /// Side of the last convolution's kernel.
    pub last_kernel: usize,
    /// Whether a level halves its picture first, instead of last (the memory-efficient U-Net of Imagen,
    /// Saharia et al. 2022).
    pub halves_first: bool,
    /// Whether pictures are doubled by pixel shuffle, instead of by repeating pixels.
    pub pixel_shuffle: bool,
    /// Whether the kernels of residual blocks are standardized (Qiao et al. 2019).
    #[serde(default)]
    pub standardized: bool,
    /// Whether what the way down left is scaled by 1/√2.
    #[serde(default)]
    pub scaled_skips: bool,
}

/// The attention of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LevelAttention {
    /// None.
    Absent,
    /// Of linear cost (Shen et al. 2018).
    Linear,
    /// Between all pixels.
    Full,
}

impl LaionUNetConfig {
    /// Heads of the attention to context tokens, and the width of each.
    pub(super) const CROSS: [usize; 2] = [8, 64];

    /// Width of the timestep embedding.
    pub fn d_embedding(&self) -> usize {
        4 * self.channels
    }

    /// What both sides of its pictures have to be multiples of.
    pub fn size_multiple(&self) -> usize {
        let levels = self.block_out_channels.len();
        1 << levels.saturating_sub(usize::from(!self.halves_first))
    }

    /// What a picture of these sides holds in memory at once, as of the other family
    /// ([`UNetConfig::row_bytes`](crate::UNetConfig::row_bytes)).
    pub(crate) fn row_bytes(&self, [height, width]: [usize; 2]) -> usize {
        let pixels = height.saturating_mul(width);
        let at =
            |level: usize, channels: usize| channels.saturating_mul((pixels >> (2 * level)).max(1));
        let mut skips = at(0, self.channels);
        let mut largest = at(0, 2 * self.channels).saturating_mul(BLOCK_TENSORS);
        for (place, &channels) in self.block_out_channels.iter().enumerate() {
            let level = if self.halves_first { place + 1 } else { place };
            let blocks = self.num_res_blocks.get(place).map_or(1, |blocks| blocks + 1);
            skips = skips.saturating_add(at(level, channels.saturating_mul(blocks)));
            largest = largest.max(at(level, 2 * channels).saturating_mul(BLOCK_TENSORS));
        }
        skips.saturating_add(largest).saturating_mul(size_of::<f32>())
    }

    /// How pixels are compared with each other.
    pub(super) fn comparison(&self) -> Comparison {
        match (self.cosine_self, self.release) {
            (true, _) => Comparison::Cosine,
            (false, LaionRelease::V1_0) => Comparison::Product,
            (false, LaionRelease::V1_15) => Comparison::ProductTwice,
        }
    }

    /// How many layers the configuration asks for.
    pub fn layers(&self) -> Layers {
        let each = self.num_res_blocks.iter().copied().max().unwrap_or(1);
        let levels = self.block_out_channels.len();
        Layers { field: "num_res_blocks".into(), each, levels }
    }

    /// Channels of each of the first convolutions.
    pub(super) fn shares(&self) -> Vec<usize> {
        let mut shares: Vec<usize> = (1..self.kernels.len()).map(|n| self.channels >> n).collect();
        shares.push(self.channels - shares.iter().sum::<usize>());
        shares
    }

    /// Channels in which each level works, outermost first: those before it, or its own.
    pub(super) fn working(&self) -> Vec<usize> {
        let own = &self.block_out_channels;
        if self.halves_first {
            return own.clone();
        }
        [self.channels].iter().chain(own).copied().take(own.len()).collect()
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let sizes = [
            ("image_size", self.image_size),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("channels", self.channels),
            ("d_head", self.d_head),
            ("n_heads", self.n_heads),
            ("d_context", self.d_context),
            ("time_tokens", self.time_tokens),
            ("norm_groups", self.norm_groups),
        ];
        for (field, size) in sizes {
            check::size(field, size)?;
        }
        check::multiple("channels", self.channels, "the halves of the sinusoids", 2)?;
        if self.channels < 4 {
            let expected = "at least 4: two sinusoids of the timestep and their cosines";
            return Err(InvalidSetting::new("channels", self.channels, expected));
        }
        if self.read_again >= self.in_channels {
            let expected = format!("less than in_channels, which is {}", self.in_channels);
            return Err(InvalidSetting::new("read_again", self.read_again, expected));
        }
        self.validate_kernels()?;
        self.validate_levels()
    }

    fn validate_kernels(&self) -> Result<(), InvalidSetting> {
        let is_odd = |side: &usize| (1..=MAX_KERNEL).contains(side) && side % 2 == 1;
        let expected = format!("odd numbers up to {MAX_KERNEL}");
        let n = self.kernels.len();
        if !(1..=8).contains(&n) || !self.kernels.iter().all(is_odd) {
            let found = format!("{:?}", self.kernels);
            return Err(InvalidSetting::new("kernels", found, format!("1 to 8 {expected}")));
        }
        if !self.kernels.is_sorted() || self.shares().contains(&0) {
            let found = format!("{:?}", self.kernels);
            let expected = "the smallest first, and few enough that each has a channel";
            return Err(InvalidSetting::new("kernels", found, expected));
        }
        if !is_odd(&self.last_kernel) {
            return Err(InvalidSetting::new("last_kernel", self.last_kernel, expected));
        }
        Ok(())
    }

    fn validate_levels(&self) -> Result<(), InvalidSetting> {
        let levels = self.block_out_channels.len();
        if !(1..=12).contains(&levels) {
            let found = format!("a list of {levels}");
            return Err(InvalidSetting::new("block_out_channels", found, "1 to 12 levels"));
        }
        for (field, found) in
            [("num_res_blocks", self.num_res_blocks.len()), ("attention", self.attention.len())]
        {
            if found != levels {
                let expected = format!("one for each of the {levels} levels");
                return Err(InvalidSetting::new(field, format!("a list of {found}"), expected));
            }
        }
        if !self.halves_first {
            check::equal("block_out_channels", self.block_out_channels[0], self.channels)?;
        }
        for &blocks in &self.num_res_blocks {
            check::layers("num_res_blocks", blocks)?;
        }
        let multiple = self.size_multiple();
        check::multiple("image_size", self.image_size, "2^(halvings)", multiple)?;
        let groups = self.norm_groups;
        check::multiple("channels", self.channels, "norm_groups", groups)?;
        for &channels in &self.block_out_channels {
            check::size("block_out_channels", channels)?;
            check::multiple("block_out_channels", channels, "norm_groups", groups)?;
        }
        Ok(())
    }
}

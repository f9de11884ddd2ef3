//! The arithmetic of a U-Net: which channels meet where. No tensors.

use serde::{Deserialize, Serialize};
use unclip_core::InvalidSetting;

use crate::check;

use crate::BLOCK_TENSORS;
use crate::checkpoint::Layers;

/// Largest side of a patch.
const MAX_PATCH: usize = 64;

/// Sizes of a [`UNet`](crate::UNet).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Side of the square picture, in pixels. The network itself is fully convolutional; the side
    /// only says which levels `attention_resolutions` means.
    pub image_size: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Channels of each level, outermost first.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level on the way down; the way up has one more.
    pub num_res_blocks: usize,
    /// Levels that have attention, by the side of their picture, in patches. If there are any, the
    /// middle has attention as well.
    pub attention_resolutions: Vec<usize>,
    /// Channels of one attention head, unless `n_heads` says how many there are.
    pub d_head: usize,
    /// Attention heads of every block, if their number is the same in all, whatever its channels (some
    /// of ADM's).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_heads: Option<usize>,
    /// Width of a context token, if there is context.
    pub d_context: Option<usize>,
    /// Groups of every group norm.
    pub norm_groups: usize,
    /// Whether the timestep enters a residual block by scale and shift, instead of by addition.
    pub scale_shift: bool,
    /// Whether two more input channels tell each pixel its position, from −1 to 1. Large networks
    /// learn it from the borders; small ones need the help. Published models have none.
    #[serde(default)]
    pub coordinates: bool,
    /// Side of the squares of pixels that the network treats as one: their values become channels
    /// before the first convolution and pixels again after the last. 1 in published models; a small
    /// model learns several times faster with 2.
    #[serde(default = "one")]
    pub patch_size: usize,
    /// Width of the timestep embedding, if it is not four times the outermost level's channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_time: Option<usize>,
    /// Number of the timestep's sinusoids, if it is not that of the outermost level's channels (ADM's
    /// for 512 pixels).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub d_sinusoid: Option<usize>,
    /// How pixels attend to each other and to the context.
    #[serde(default, skip_serializing_if = "AttentionKind::is_added")]
    pub attention: AttentionKind,
    /// By what pictures are halved and doubled.
    #[serde(default, skip_serializing_if = "ResampleKind::is_residual")]
    pub resampling: ResampleKind,
    /// What the norms of residual blocks and of the output add to a variance.
    #[serde(default = "default_norm_eps")]
    pub norm_eps: f64,
}

/// The attention of a U-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionKind {
    /// One attention over context and pixels together (GLIDE, Karlo, Kandinsky):
    /// [`AttentionBlock`](crate::AttentionBlock).
    #[default]
    Added,
    /// A block of a transformer (Stable Diffusion 2):
    /// [`SpatialTransformer`](crate::SpatialTransformer).
    Transformer,
}

impl AttentionKind {
    fn is_added(&self) -> bool {
        *self == Self::Added
    }
}

/// What halves and doubles the pictures of a U-Net.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResampleKind {
    /// Residual blocks that average or repeat pixels (ADM, Karlo, Kandinsky).
    #[default]
    Residual,
    /// Convolutions: one of two pixels' step, and one after repeating pixels (Stable Diffusion).
    Convolution,
}

impl ResampleKind {
    fn is_residual(&self) -> bool {
        *self == Self::Residual
    }
}

fn one() -> usize {
    1
}

fn default_norm_eps() -> f64 {
    1e-5
}

/// One level of the U-Net: pictures of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Side of the picture, in patches.
    pub resolution: usize,
    /// Channels of the level.
    pub channels: usize,
    /// Input channels of each residual block on the way down.
    pub down: Vec<usize>,
    /// Input channels (main path and skip) of each residual block on the way up.
    pub up: Vec<usize>,
    /// Whether attention follows each residual block.
    pub attention: bool,
    /// Whether a smaller level lies below.
    pub resampled: bool,
}

impl UNetConfig {
    /// Width of the timestep embedding.
    pub fn d_embedding(&self) -> usize {
        self.d_time.unwrap_or(4 * self.outer_channels())
    }

    /// Channels of one attention head, in a block of so many.
    pub(crate) fn head_of(&self, channels: usize) -> usize {
        self.n_heads.map_or(self.d_head, |n_heads| channels / n_heads)
    }

    /// Number of the timestep's sinusoids.
    pub(crate) fn sinusoids(&self) -> usize {
        self.d_sinusoid.unwrap_or(self.outer_channels())
    }

    /// Channels of the outermost level.
    pub(crate) fn outer_channels(&self) -> usize {
        self.block_out_channels.first().copied().unwrap_or(1)
    }

    /// Channels of the innermost level.
    pub(crate) fn inner_channels(&self) -> usize {
        self.block_out_channels.last().copied().unwrap_or(1)
    }

    /// The number that both sides of a picture must be a multiple of.
    pub fn size_multiple(&self) -> usize {
        self.patch_size << (self.block_out_channels.len().saturating_sub(1))
    }

    /// Channels of the first convolution's input.
    pub(crate) fn conv_in_channels(&self) -> usize {
        self.in_channels * self.patch_size.pow(2) + if self.coordinates { 2 } else { 0 }
    }

    /// Channels of the last convolution's output.
    pub(crate) fn conv_out_channels(&self) -> usize {
        self.out_channels * self.patch_size.pow(2)
    }

    /// How many layers the configuration asks for.
    pub fn layers(&self) -> Layers {
        let levels = self.block_out_channels.len();
        Layers { field: "num_res_blocks".into(), each: self.num_res_blocks, levels }
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
            ("patch_size", self.patch_size),
            ("d_time", self.d_time.unwrap_or(1)),
            ("d_head", self.d_head),
            ("n_heads", self.n_heads.unwrap_or(1)),
            ("d_sinusoid", self.d_sinusoid.unwrap_or(1)),
            ("norm_groups", self.norm_groups),
            ("d_context", self.d_context.unwrap_or(1)),
        ];
        for (field, size) in sizes {
            check::size(field, size)?;
        }
        check::layers("num_res_blocks", self.num_res_blocks)?;
        check::epsilon("norm_eps", self.norm_eps)?;
        if self.patch_size > MAX_PATCH {
            let expected = format!("1 to {MAX_PATCH}");
            return Err(InvalidSetting::new("patch_size", self.patch_size, expected));
        }
        self.validate_levels()
    }

    fn validate_levels(&self) -> Result<(), InvalidSetting> {
        let field = "block_out_channels";
        if !(1..=12).contains(&self.block_out_channels.len()) {
            let found = format!("a list of {}", self.block_out_channels.len());
            return Err(InvalidSetting::new(field, found, "1 to 12 levels"));
        }
        check::multiple(
            "image_size",
            self.image_size,
            "patch_size * 2^(levels - 1)",
            self.size_multiple(),
        )?;
        for &channels in &self.block_out_channels {
            check::size(field, channels)?;
        }
        for level in self.levels() {
            let groups = self.norm_groups;
            for channels in level.down.iter().chain(&level.up).chain([&level.channels]) {
                check::multiple(field, *channels, "norm_groups", groups)?;
            }
            match self.n_heads {
                Some(n) if level.attention => {
                    check::multiple(field, level.channels, "n_heads", n)?;
                }
                None if level.attention => {
                    check::multiple(field, level.channels, "d_head", self.d_head)?;
                }
                _ => {}
            }
        }
        self.validate_attention()
    }

    fn validate_attention(&self) -> Result<(), InvalidSetting> {
        let sides: Vec<usize> = self.levels().iter().map(|level| level.resolution).collect();
        match self.attention_resolutions.iter().find(|side| !sides.contains(side)) {
            Some(side) => {
                let expected = format!("sides of levels, which are {sides:?}");
                Err(InvalidSetting::new("attention_resolutions", side, expected))
            }
            None => Ok(()),
        }
    }

    /// What a picture of these sides holds in memory at once while the network runs on it, in bytes of
    /// f32: what the way down left for the way up, and the largest of what a block works on. An upper
    /// estimate; `time_calls` measures it.
    pub fn row_bytes(&self, [height, width]: [usize; 2]) -> usize {
        let patch = self.patch_size.max(1);
        let pixels = (height / patch).saturating_mul(width / patch);
        let levels = self.levels();
        let at =
            |level: usize, channels: usize| channels.saturating_mul((pixels >> (2 * level)).max(1));
        let mut skips = at(0, self.outer_channels());
        let mut largest = 0;
        for (place, level) in levels.iter().enumerate() {
            skips = skips.saturating_add(at(place, level.channels * level.down.len()));
            if level.resampled {
                skips = skips.saturating_add(at(place + 1, level.channels));
            }
            let widest = level.up.iter().chain(&level.down).copied().max().unwrap_or(0);
            largest = largest.max(at(place, widest).saturating_mul(BLOCK_TENSORS));
        }
        skips.saturating_add(largest).saturating_mul(size_of::<f32>())
    }

    /// Every level, outermost first, with the channels that meet in each residual block.
    pub fn levels(&self) -> Vec<Level> {
        let mut levels = self.levels_down();
        let mut skips = vec![self.outer_channels()];
        for level in &levels {
            skips.extend(vec![level.channels; self.num_res_blocks + usize::from(level.resampled)]);
        }
        let mut channels = self.inner_channels();
        for level in levels.iter_mut().rev() {
            for _ in 0..=self.num_res_blocks {
                level.up.push(channels + skips.pop().unwrap_or(0));
                channels = level.channels;
            }
        }
        levels
    }

    fn levels_down(&self) -> Vec<Level> {
        let mut channels_in = self.outer_channels();
        let depth = self.block_out_channels.len();
        let level = |(i, &channels): (usize, &usize)| {
            let resolution = (self.image_size / self.patch_size.max(1)) >> i;
            let mut down = vec![channels; self.num_res_blocks];
            down[0] = channels_in;
            channels_in = channels;
            Level {
                resolution,
                channels,
                down,
                up: Vec::new(),
                attention: self.attention_resolutions.contains(&resolution),
                resampled: i + 1 < depth,
            }
        };
        self.block_out_channels.iter().enumerate().map(level).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn karlo() -> UNetConfig {
        UNetConfig {
            image_size: 64,
            in_channels: 3,
            out_channels: 6,
            block_out_channels: vec![320, 640, 960, 1280],
            num_res_blocks: 3,
            attention_resolutions: vec![32, 16, 8],
            d_head: 64,
            d_context: Some(1536),
            norm_groups: 32,
            scale_shift: true,
            coordinates: false,
            patch_size: 1,
            d_time: None,
            n_heads: None,
            d_sinusoid: None,
            attention: AttentionKind::Added,
            resampling: ResampleKind::Residual,
            norm_eps: 1e-5,
        }
    }

    #[test]
    fn karlos_way_up_is_the_published_table() {
        let levels = karlo().levels();
        let up: Vec<Vec<usize>> = levels.iter().rev().map(|level| level.up.clone()).collect();
        assert_eq!(up[0], [2560, 2560, 2560, 2240]);
        assert_eq!(up[1], [2240, 1920, 1920, 1600]);
        assert_eq!(up[2], [1600, 1280, 1280, 960]);
        assert_eq!(up[3], [960, 640, 640, 640]);
    }

    #[test]
    fn karlos_way_down() {
        let levels = karlo().levels();
        assert_eq!(levels[0].down, [320, 320, 320]);
        assert_eq!(levels[1].down, [320, 640, 640]);
        assert_eq!(
            levels.iter().map(|l| l.attention).collect::<Vec<_>>(),
            [false, true, true, true]
        );
        assert_eq!(
            levels.iter().map(|l| l.resampled).collect::<Vec<_>>(),
            [true, true, true, false]
        );
        assert!(karlo().validate().is_ok());
    }

    #[test]
    fn impossible_sizes_name_their_field() {
        let refused = |change: fn(&mut UNetConfig), field: &str| {
            let mut config = karlo();
            change(&mut config);
            assert_eq!(config.validate().unwrap_err().name, field);
        };
        refused(|c| c.image_size = 0, "image_size");
        refused(|c| c.image_size = 65, "image_size");
        refused(|c| c.num_res_blocks = 0, "num_res_blocks");
        refused(|c| c.norm_groups = 33, "block_out_channels");
        refused(|c| c.d_head = 77, "block_out_channels");
        refused(|c| c.n_heads = Some(7), "block_out_channels");
        refused(|c| c.n_heads = Some(0), "n_heads");
        refused(|c| c.d_sinusoid = Some(0), "d_sinusoid");
        refused(|c| c.block_out_channels = vec![], "block_out_channels");
        refused(|c| c.block_out_channels = vec![320, usize::MAX], "block_out_channels");
        refused(|c| c.patch_size = 0, "patch_size");
        refused(|c| c.patch_size = 65, "patch_size");
        refused(|c| c.patch_size = 16, "image_size");
        refused(|c| c.attention_resolutions = vec![33], "attention_resolutions");
        refused(|c| c.d_time = Some(1_000_000_000), "d_time");
    }
}

//! The U-Net of a stage, of either family.

use burn::module::Module;
use burn::tensor::Device;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use unclip_core::InvalidSetting;

use crate::checkpoint::Layers;
use crate::{LaionUNet, LaionUNetConfig, UNet, UNetConfig};

/// Sizes of a stage's U-Net.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum AnyUNetConfig {
    /// Of ADM's family: that of all published models but DALLE2-pytorch's.
    Adm(UNetConfig),
    /// Of DALLE2-pytorch.
    Laion(LaionUNetConfig),
}

/// A stage's U-Net.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a whole network")]
pub enum AnyUNet {
    /// Of ADM's family.
    Adm(UNet),
    /// Of DALLE2-pytorch.
    Laion(LaionUNet),
}

impl AnyUNet {
    /// Names of tensors in files, where they are not those of the fields; a stage adds them to its
    /// own.
    pub const NAMES: &'static [(&'static str, &'static str)] = UNet::NAMES;
}

impl From<UNet> for AnyUNet {
    fn from(unet: UNet) -> Self {
        Self::Adm(unet)
    }
}

impl From<UNetConfig> for AnyUNetConfig {
    fn from(config: UNetConfig) -> Self {
        Self::Adm(config)
    }
}

impl From<LaionUNetConfig> for AnyUNetConfig {
    fn from(config: LaionUNetConfig) -> Self {
        Self::Laion(config)
    }
}

impl<'de> Deserialize<'de> for AnyUNetConfig {
    /// One family has a field that the other lacks; a derived implementation would try one after the
    /// other, and of sizes that fit neither say no more than that. A repeated field is not noticed here.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = serde_json::Value::deserialize(deserializer)?;
        let config = if fields.get("time_tokens").is_some() {
            serde_json::from_value(fields).map(Self::Laion)
        } else {
            serde_json::from_value(fields).map(Self::Adm)
        };
        config.map_err(D::Error::custom)
    }
}

impl AnyUNetConfig {
    /// The network, with fresh weights.
    ///
    /// # Panics
    /// May panic if [`validate`](Self::validate) fails.
    pub fn init(&self, device: &Device) -> AnyUNet {
        match self {
            Self::Adm(config) => AnyUNet::Adm(config.init(device)),
            Self::Laion(config) => AnyUNet::Laion(config.init(device)),
        }
    }

    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// Names the first field that does not.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        match self {
            Self::Adm(config) => config.validate(),
            Self::Laion(config) => config.validate(),
        }
    }

    /// How many layers the configuration asks for.
    pub fn layers(&self) -> Layers {
        match self {
            Self::Adm(config) => config.layers(),
            Self::Laion(config) => config.layers(),
        }
    }

    /// What a picture of these sides, height and width, holds in memory at once while the network runs on
    /// it, in bytes of f32: an upper estimate.
    pub fn row_bytes(&self, sides: [usize; 2]) -> usize {
        match self {
            Self::Adm(config) => config.row_bytes(sides),
            Self::Laion(config) => config.row_bytes(sides),
        }
    }

    /// The sizes of a U-Net of ADM's family.
    pub fn adm(&self) -> Option<&UNetConfig> {
        match self {
            Self::Adm(config) => Some(config),
            Self::Laion(_) => None,
        }
    }

    /// Side of the square picture, in pixels.
    pub fn image_size(&self) -> usize {
        match self {
            Self::Adm(config) => config.image_size,
            Self::Laion(config) => config.image_size,
        }
    }

    /// Channels of the input.
    pub fn in_channels(&self) -> usize {
        match self {
            Self::Adm(config) => config.in_channels,
            Self::Laion(config) => config.in_channels,
        }
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> usize {
        match self {
            Self::Adm(config) => config.out_channels,
            Self::Laion(config) => config.out_channels,
        }
    }

    /// What both sides of its pictures have to be multiples of.
    pub fn size_multiple(&self) -> usize {
        match self {
            Self::Adm(config) => config.size_multiple(),
            Self::Laion(config) => config.size_multiple(),
        }
    }

    /// Width of what is added to the timestep embedding.
    pub fn d_embedding(&self) -> usize {
        match self {
            Self::Adm(config) => config.d_embedding(),
            Self::Laion(config) => config.d_embedding(),
        }
    }

    /// Width of a context token, if there is context.
    pub fn d_context(&self) -> Option<usize> {
        match self {
            Self::Adm(config) => config.d_context,
            Self::Laion(config) => Some(config.d_context),
        }
    }

    /// Whether it knows the place of every pixel, and so pictures of one size alone.
    pub fn knows_places(&self) -> bool {
        self.adm().is_some_and(|config| config.coordinates)
    }
}

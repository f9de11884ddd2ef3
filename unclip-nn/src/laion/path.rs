//! The levels of DALLE2-pytorch's U-Net, down and up.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};

use super::LaionUNetConfig;
use super::attention::PixelAttention;
use super::blocks::{Block, Conditions, Doubling, Halving};
use crate::ops::conv;

/// A level of the way down.
#[derive(Module, Debug)]
pub(super) struct DownLevel {
    before: Option<Halving>,
    first: Block,
    blocks: Vec<Block>,
    attention: PixelAttention,
    halving: Option<Halving>,
    after: Option<Conv2d>,
}

impl DownLevel {
    pub(super) fn new(config: &LaionUNetConfig, level: usize, device: &Device) -> Self {
        let own = config.block_out_channels[level];
        let outer = outer(config, level);
        let working = config.working()[level];
        let halves_last = !config.halves_first && level + 1 < config.block_out_channels.len();
        let halving = |before| Halving::new(config, [before, own], device);
        let conv1x1 = || Conv2dConfig::new([working, own], [1, 1]).init(device);
        let block = |reads_context| Block::new(config, [working; 2], reads_context, device);
        Self {
            before: config.halves_first.then(|| halving(outer)),
            first: block(false),
            blocks: (0..config.num_res_blocks[level]).map(|_| block(level > 0)).collect(),
            attention: PixelAttention::new(config, config.attention[level], working, device),
            halving: halves_last.then(|| halving(working)),
            after: (!halves_last).then(conv1x1),
        }
    }

    /// Leaves a picture after each block but the first, and after attention.
    pub(super) fn forward(
        &self,
        x: Tensor<4>,
        conditions: &Conditions,
        skips: &mut Vec<Tensor<4>>,
    ) -> Tensor<4> {
        let x = match &self.before {
            Some(before) => before.forward(x),
            None => x,
        };
        let mut x = self.first.forward(x, conditions);
        for block in &self.blocks {
            x = block.forward(x, conditions);
            skips.push(x.clone());
        }
        let x = self.attention.forward(x);
        skips.push(x.clone());
        match (&self.halving, &self.after) {
            (Some(halving), _) => halving.forward(x),
            (None, Some(after)) => conv(after, x),
            (None, None) => x,
        }
    }
}

/// A level of the way up.
#[derive(Module, Debug)]
pub(super) struct UpLevel {
    first: Block,
    blocks: Vec<Block>,
    attention: PixelAttention,
    doubling: Option<Doubling>,
}

impl UpLevel {
    pub(super) fn new(config: &LaionUNetConfig, level: usize, device: &Device) -> Self {
        let own = config.block_out_channels[level];
        let both = own + config.working()[level];
        let block = || Block::new(config, [both, own], level > 0, device);
        let doubles = level > 0 || config.halves_first;
        let sizes = [own, outer(config, level)];
        Self {
            first: block(),
            blocks: (0..config.num_res_blocks[level]).map(|_| block()).collect(),
            attention: PixelAttention::new(config, config.attention[level], own, device),
            doubling: doubles.then(|| Doubling::new(config, sizes, device)),
        }
    }

    /// Reads a picture of the way down before each block.
    ///
    /// # Panics
    /// If there is none left.
    pub(super) fn forward(
        &self,
        mut x: Tensor<4>,
        conditions: &Conditions,
        mut skip: impl FnMut() -> Option<Tensor<4>>,
    ) -> Tensor<4> {
        for block in [&self.first].into_iter().chain(&self.blocks) {
            let skip = skip().expect("as many on the way down as on the way up");
            x = block.forward(Tensor::cat(vec![x.clone(), skip.cast(x.dtype())], 1), conditions);
        }
        let x = self.attention.forward(x);
        match &self.doubling {
            Some(doubling) => doubling.forward(x),
            None => x,
        }
    }
}

/// Channels outside of a level.
fn outer(config: &LaionUNetConfig, level: usize) -> usize {
    level.checked_sub(1).map_or(config.channels, |before| config.block_out_channels[before])
}

//! Names of a U-Net's tensors in the code that the published ones were trained with.
//!
//! ADM, GLIDE and Karlo's own code number their blocks consecutively across levels, and fuse the
//! projections of attention, head by head:
//!
//! ```text
//! input_blocks.0.0                       first convolution
//! input_blocks.N.0, .1                   residual block, attention; the last of a level halves
//! middle_block.0, .1, .2                 residual block, attention if there is any, residual block
//! output_blocks.N.0, .1, .2              residual block, attention, doubling at the end of a level
//! ```

use std::collections::BTreeSet;

use unclip_core::InvalidSetting;
use unclip_nn::checkpoint::{LoadError, Part, Rows, Weights};

use crate::layouts::layout::find;

/// Modules outside the blocks.
const OUTSIDE: [(&str, &str); 5] = [
    ("input_blocks.0.0", "conv_in"),
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

/// Modules of a residual block.
const RESIDUAL: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Modules of an attention block, and what is fused into each.
const ATTENTION: [(&str, &[&str]); 4] = [
    ("norm", &["group_norm"]),
    ("qkv", &["to_q", "to_k", "to_v"]),
    ("encoder_kv", &["add_k_proj", "add_v_proj"]),
    ("proj_out", &["to_out.0"]),
];

/// How the projections of attention are fused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::layouts) enum Heads {
    /// Head by head, heads of so many channels.
    Width(usize),
    /// Head by head, so many heads.
    Number(usize),
    /// Whole (ADM's `use_new_attention_order`), heads of so many channels.
    Whole(usize),
}

impl Heads {
    /// Channels of a head, if they are the same in every block.
    pub(in crate::layouts) fn width(self) -> Option<usize> {
        match self {
            Self::Width(width) | Self::Whole(width) => Some(width),
            Self::Number(_) => None,
        }
    }

    /// Number of heads, if it is the same in every block.
    pub(in crate::layouts) fn number(self) -> Option<usize> {
        match self {
            Self::Number(number) => Some(number),
            Self::Width(_) | Self::Whole(_) => None,
        }
    }

    /// Rows of a projection that lie together, in a block of so many channels.
    fn rows(self, channels: usize) -> usize {
        match self {
            Self::Width(width) => width,
            // what is left of a division is refused with the rows that do not fit
            Self::Number(number) => channels / number.max(1),
            Self::Whole(_) => channels,
        }
    }
}

/// How a file of the original layout numbers its blocks; gives its names their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::layouts) struct UNetNames {
    /// Levels of the U-Net.
    pub(in crate::layouts) n_levels: usize,
    /// Residual blocks of each level on the way down.
    pub(in crate::layouts) num_res_blocks: usize,
    /// How attention is fused.
    pub(in crate::layouts) heads: Heads,
}

impl UNetNames {
    /// Reads the numbering off the names below `prefix`: on the way up, the last block of every
    /// level but the outermost doubles the picture.
    ///
    /// # Errors
    /// Blocks that do not form levels of one length.
    pub(in crate::layouts) fn of(
        weights: &Weights,
        prefix: &str,
        heads: Heads,
    ) -> Result<Self, InvalidSetting> {
        let [mut blocks, mut doubling] = [BTreeSet::new(), BTreeSet::new()];
        let side = format!("{prefix}output_blocks.");
        for key in weights.keys() {
            let Some((slot, rest)) = key.strip_prefix(&side).and_then(number) else { continue };
            blocks.insert(slot);
            let module = rest.rsplit_once('.').and_then(|(path, _)| number(path));
            if module.is_some_and(|(place, module)| place > 0 && find(&RESIDUAL, module).is_some())
            {
                doubling.insert(slot);
            }
        }
        let n_levels = doubling.len() + 1;
        let slots = blocks.len() / n_levels;
        let ends = (1..n_levels).map(|level| level * slots - 1);
        if slots > 1 && blocks.into_iter().eq(0..n_levels * slots) && ends.eq(doubling.clone()) {
            Ok(Self { n_levels, num_res_blocks: slots - 1, heads })
        } else {
            let found = format!("blocks of which the numbers {doubling:?} double the picture");
            let expected = "levels of equally many blocks, of which the last one doubles";
            Err(InvalidSetting::new(side.trim_end_matches('.'), found, expected))
        }
    }

    /// Number of the first block of a level, going down.
    pub(in crate::layouts) fn first_input_block(&self, level: usize) -> usize {
        1 + level * (self.num_res_blocks + 1)
    }

    /// Names the tensors below some prefixes for modules below others. What is not of this layout
    /// keeps its name, by which the loader will refuse it.
    ///
    /// # Errors
    /// A fused tensor that does not consist of whole heads; a name that is given twice.
    pub(in crate::layouts) fn rename(
        &self,
        weights: Weights,
        prefixes: &[(&str, &str)],
    ) -> Result<Weights, LoadError> {
        weights.renamed(|key, shape| {
            let parts = prefixes
                .iter()
                .find_map(|(from, to)| self.parts(to, key.strip_prefix(from)?, shape));
            parts.unwrap_or_else(|| vec![(key.into(), Part::default())])
        })
    }

    /// What a tensor is in a U-Net below `prefix`; `None` for names that are not of this layout.
    pub(in crate::layouts) fn parts(
        &self,
        prefix: &str,
        key: &str,
        shape: &[usize],
    ) -> Option<Vec<(String, Part)>> {
        let (path, leaf) = key.rsplit_once('.')?;
        if let Some(module) = find(&OUTSIDE, path) {
            return Some(vec![(format!("{prefix}{module}.{leaf}"), Part::default())]);
        }
        let (side, rest) = path.split_once('.')?;
        let (block, rest) = match side {
            "middle_block" => (0, rest),
            _ => number(rest)?,
        };
        let (place, module) = number(rest)?;
        if let Some(module) = find(&RESIDUAL, module) {
            let block = self.residual_block(side, block, place)?;
            return Some(vec![(format!("{prefix}{block}.{module}.{leaf}"), Part::default())]);
        }
        let (_, modules) = ATTENTION.iter().find(|(from, _)| *from == module)?;
        let block = self.attention_block(side, block, place)?;
        let part = |index| self.part(shape, index, modules.len());
        let parts = modules.iter().enumerate();
        Some(parts.map(|(i, m)| (format!("{prefix}{block}.{m}.{leaf}"), part(i))).collect())
    }

    /// Where a residual block stands in the module.
    fn residual_block(&self, side: &str, block: usize, place: usize) -> Option<String> {
        let slots = self.num_res_blocks + 1;
        Some(match (side, place) {
            ("input_blocks", 0) => {
                let (level, i) = (block.checked_sub(1)? / slots, (block - 1) % slots);
                if i == self.num_res_blocks {
                    format!("down_blocks.{level}.downsamplers.0")
                } else {
                    format!("down_blocks.{level}.resnets.{i}")
                }
            }
            ("middle_block", 0) => "mid_block.resnets.0".into(),
            ("middle_block", 1 | 2) => "mid_block.resnets.1".into(),
            ("output_blocks", 0) => {
                format!("up_blocks.{}.resnets.{}", block / slots, block % slots)
            }
            ("output_blocks", 1 | 2) if block % slots == self.num_res_blocks => {
                format!("up_blocks.{}.upsamplers.0", block / slots)
            }
            _ => return None,
        })
    }

    /// Where an attention block stands in the module.
    fn attention_block(&self, side: &str, block: usize, place: usize) -> Option<String> {
        let slots = self.num_res_blocks + 1;
        let (way, block) = match (side, place) {
            ("middle_block", 1) => return Some("mid_block.attentions.0".into()),
            ("input_blocks", 1) => ("down", block.checked_sub(1)?),
            ("output_blocks", 1) => ("up", block),
            _ => return None,
        };
        Some(format!("{way}_blocks.{}.attentions.{}", block / slots, block % slots))
    }

    /// One of `of` projections that are fused head by head, as convolutions over a sequence.
    fn part(&self, shape: &[usize], index: usize, of: usize) -> Part {
        let matrix = match *shape {
            [rows, columns, 1] => Some(vec![rows / of, columns]),
            _ => None,
        };
        let channels = shape.first().map_or(1, |rows| rows / of);
        let block = self.heads.rows(channels);
        let rows = (of > 1).then_some(Rows { block, index, of });
        Part { rows, shape: matrix, transposed: false }
    }
}

/// The number at the beginning of a path, and what follows it.
fn number(path: &str) -> Option<(usize, &str)> {
    let (number, rest) = path.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

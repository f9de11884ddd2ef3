//! An object of `unets`: the network's sizes.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use unclip_core::DiffusionConfig;
use unclip_core::image::PICTURE_CHANNELS;
use unclip_nn::checkpoint::LoadError;
use unclip_nn::{LaionRelease, LaionUNetConfig, LevelAttention};

use crate::layouts::diffusers::fields::Fields;

/// A value for all U-Nets, or one for each.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "one value of the right type, or a list of such")]
pub(super) enum Each<T> {
    Same(T),
    Own(Vec<T>),
}

impl<T: Clone> Each<T> {
    /// That of the U-Net or level at this place; what is absent for those beyond the list.
    pub(super) fn at(&self, place: usize) -> Option<T> {
        match self {
            Self::Same(value) => Some(value.clone()),
            Self::Own(values) => values.get(place).cloned(),
        }
    }

    /// Whether any of the values is of a kind.
    pub(super) fn any(&self, is: impl Fn(&T) -> bool) -> bool {
        match self {
            Self::Same(value) => is(value),
            Self::Own(values) => values.iter().any(is),
        }
    }

    /// Reads a field, of which there is one value, or one for each of `n`.
    pub(super) fn of(fields: &mut Fields, name: &str, n: usize) -> Result<Option<Self>, LoadError>
    where
        T: DeserializeOwned,
    {
        let each: Option<Self> = fields.take_optional(name)?;
        match &each {
            Some(Self::Own(own)) if own.len() != n => {
                let expected = format!("one value, or one for each of {n}");
                Err(fields.error(name, format!("a list of {}", own.len()), &expected))
            }
            _ => Ok(each),
        }
    }
}

/// The sizes of a U-Net for pictures of this side, whose output is what this diffusion asks for.
pub(super) fn network(
    fields: &mut Fields,
    image_size: usize,
    (diffusion, release): (&DiffusionConfig, LaionRelease),
) -> Result<LaionUNetConfig, LoadError> {
    let channels: usize = fields.take("dim")?;
    let multiples: Vec<usize> = fields.take_or("dim_mults", vec![1, 2, 4, 8])?;
    let levels = multiples.len();
    if levels == 0 {
        return Err(fields.error("dim_mults", "[]", "at least one level"));
    }
    if let Some(found) = fields.take_optional::<usize>("init_dim")?.filter(|it| *it != channels) {
        let expected = format!("{channels}, which is dim");
        return Err(fields.error("init_dim", found, &expected));
    }
    Ok(LaionUNetConfig {
        image_size,
        in_channels: PICTURE_CHANNELS,
        read_again: 0,
        out_channels: diffusion.output_channels(PICTURE_CHANNELS),
        release,
        channels,
        block_out_channels: multiples.iter().map(|m| m.saturating_mul(channels)).collect(),
        num_res_blocks: of_levels(fields, "num_resnet_blocks", 2, levels)?,
        attention: attention(fields, levels)?,
        d_head: fields.take_or("attn_dim_head", 32)?,
        n_heads: fields.take_or("attn_heads", 16)?,
        cosine_self: fields.take_or("cosine_sim_self_attn", false)?,
        cosine_cross: fields.take_or("cosine_sim_cross_attn", false)?,
        d_context: fields.take_or("cond_dim", channels)?,
        time_tokens: fields.take_or("num_time_tokens", 2)?,
        norm_groups: groups(fields, levels)?,
        kernels: kernels(fields)?,
        last_kernel: fields.take_or("final_conv_kernel_size", 1)?,
        halves_first: fields.take_or("memory_efficient", false)?,
        pixel_shuffle: fields.take_or("pixel_shuffle_upsample", true)?,
        standardized: fields.take_or("resnet_weight_standardization", false)?,
        scaled_skips: fields.take_or("scale_skip_connection", false)?,
    })
}

/// A value for each level.
fn of_levels<T: Clone + DeserializeOwned>(
    fields: &mut Fields,
    name: &str,
    absent: T,
    levels: usize,
) -> Result<Vec<T>, LoadError> {
    let each = Each::of(fields, name, levels)?.unwrap_or(Each::Same(absent));
    Ok((0..levels).filter_map(|level| each.at(level)).collect())
}

/// Whether something is so. Configurations in checkpoints of DALLE2-pytorch's trainers have numbers here,
/// because that is the type which the trainers give the field.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged, expecting = "true or false, or 1 or 0, or a list of such")]
enum Flag {
    Word(bool),
    Number(u8),
}

fn attention(fields: &mut Fields, levels: usize) -> Result<Vec<LevelAttention>, LoadError> {
    let full = of_levels(fields, "self_attn", Flag::Word(false), levels)?;
    let read = |flag: Flag| match flag {
        Flag::Word(is_full) => Ok(is_full),
        Flag::Number(number @ (0 | 1)) => Ok(number == 1),
        Flag::Number(found) => Err(fields.error("self_attn", found, "true or false, or 1 or 0")),
    };
    let full = full.into_iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let sparse = fields.take_or("sparse_attn", false)?;
    let kind = |is_full| match (is_full, sparse) {
        (true, _) => LevelAttention::Full,
        (false, true) => LevelAttention::Linear,
        (false, false) => LevelAttention::Absent,
    };
    Ok(full.into_iter().map(kind).collect())
}

/// Groups of norms, of which all levels have equally many here.
fn groups(fields: &mut Fields, levels: usize) -> Result<usize, LoadError> {
    let groups = of_levels(fields, "resnet_groups", 8usize, levels)?;
    match groups.split_first() {
        Some((first, others)) if others.iter().all(|it| it == first) => Ok(*first),
        _ => Err(fields.error("resnet_groups", format!("{groups:?}"), "the same for all levels")),
    }
}

/// The first convolutions' kernels, smallest first.
fn kernels(fields: &mut Fields) -> Result<Vec<usize>, LoadError> {
    let several = fields.take_or("init_cross_embed", true)?;
    let mut kernels = fields.take_or("init_cross_embed_kernel_sizes", vec![3, 7, 15])?;
    let one = fields.take_or("init_conv_kernel_size", 7)?;
    kernels.sort_unstable();
    Ok(if several { kernels } else { vec![one] })
}

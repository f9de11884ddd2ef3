//! diffusers' configurations of U-Nets.

use std::path::Path;

use serde_json::{Value, json};
use unclip_decoder::Control;
use unclip_nn::checkpoint::LoadError;
use unclip_nn::{AttentionKind, ResampleKind, UNetConfig};

use super::fields::Fields;

/// The kinds of block that a U-Net is built of.
pub(in crate::layouts) struct Blocks {
    pub(in crate::layouts) class: &'static str,
    /// On the way down, and on the way up.
    pub(in crate::layouts) plain: [&'static str; 2],
    pub(in crate::layouts) attention: Option<[&'static str; 2]>,
    pub(in crate::layouts) middle: &'static str,
    pub(in crate::layouts) kind: AttentionKind,
    pub(in crate::layouts) resampling: ResampleKind,
}

pub(in crate::layouts) const DECODER_BLOCKS: Blocks = Blocks {
    class: "UNet2DConditionModel",
    plain: ["ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"],
    attention: Some(["SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"]),
    middle: "UNetMidBlock2DSimpleCrossAttn",
    kind: AttentionKind::Added,
    resampling: ResampleKind::Residual,
};

pub(in crate::layouts) const UPSAMPLER_BLOCKS: Blocks = Blocks {
    class: "UNet2DModel",
    plain: ["ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"],
    attention: None,
    middle: "UNetMidBlock2D",
    kind: AttentionKind::Added,
    resampling: ResampleKind::Residual,
};

pub(in crate::layouts) const TRANSFORMER_BLOCKS: Blocks = Blocks {
    class: "UNet2DConditionModel",
    plain: ["DownBlock2D", "UpBlock2D"],
    attention: Some(["CrossAttnDownBlock2D", "CrossAttnUpBlock2D"]),
    middle: "UNetMidBlock2DCrossAttn",
    kind: AttentionKind::Transformer,
    resampling: ResampleKind::Convolution,
};

/// Fields that both U-Nets have and that leave no choice here.
fn expect_common(fields: &mut Fields) -> Result<(), LoadError> {
    fields.expect_all([
        ("center_input_sample", json!(false)),
        ("flip_sin_to_cos", json!(true)),
        ("freq_shift", json!(0)),
        ("time_embedding_type", json!("positional")),
        ("mid_block_scale_factor", json!(1)),
        ("act_fn", json!("silu")),
        ("num_class_embeds", Value::Null),
    ])?;
    fields.ignore(&["dropout", "downsample_padding", "num_train_timesteps"]);
    Ok(())
}

/// Karlo's `UNet2DConditionModel`, whose condition another network makes.
pub(in crate::layouts) fn decoder_unet(folder: &Path) -> Result<UNetConfig, LoadError> {
    let mut fields = conditional(folder)?;
    fields.demand("class_embed_type", "identity")?;
    fields.expect_all([
        ("encoder_hid_dim", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("addition_embed_type", Value::Null),
        ("projection_class_embeddings_input_dim", Value::Null),
        ("use_linear_projection", json!(false)),
    ])?;
    conditional_unet(fields, &DECODER_BLOCKS)
}

/// A U-Net that makes tokens of image embeddings itself.
pub(in crate::layouts) struct ImageUNet {
    pub(in crate::layouts) unet: UNetConfig,
    pub(in crate::layouts) d_embedding: usize,
    /// Width of the text tower's states, of one that reads captions.
    pub(in crate::layouts) d_text: Option<usize>,
    pub(in crate::layouts) control: Option<Control>,
}

/// How the configuration says that a U-Net follows a hint, and that it does not.
pub(in crate::layouts) const WITH_HINT: &str = "image_hint";
pub(in crate::layouts) const WITHOUT_HINT: &str = "image";

/// How it says that a U-Net reads images alone, and captions too: what its tokens are made of, and
/// what is added to the timestep embedding.
pub(in crate::layouts) const IMAGE_TOKENS: &str = "image_proj";
pub(in crate::layouts) const CAPTION_TOKENS: &str = "text_image_proj";
pub(in crate::layouts) const CAPTION_ADDED: &str = "text_image";

/// Kandinsky's, which samples so many channels: 2.1's, which reads captions, or 2.2's.
pub(in crate::layouts) fn image_unet(
    folder: &Path,
    channels: usize,
    reads_captions: bool,
) -> Result<ImageUNet, LoadError> {
    let mut fields = conditional(folder)?;
    fields.expect("class_embed_type", Value::Null)?;
    let tokens = if reads_captions { CAPTION_TOKENS } else { IMAGE_TOKENS };
    fields.demand("encoder_hid_dim_type", tokens)?;
    let has_hint = if reads_captions {
        fields.demand("addition_embed_type", CAPTION_ADDED)?;
        false
    } else {
        has_hint(&mut fields)?
    };
    let width: usize = fields.take("encoder_hid_dim")?;
    fields.expect_all([
        ("projection_class_embeddings_input_dim", Value::Null),
        ("use_linear_projection", json!(false)),
    ])?;
    let unet = conditional_unet(fields, &DECODER_BLOCKS)?;
    // no field says so: only the width of the input
    let is_for_inpainting = unet.in_channels == 2 * channels + 1;
    let control = match (has_hint, is_for_inpainting) {
        (true, _) => Some(Control::Hint),
        (false, true) => Some(Control::Kept),
        (false, false) => None,
    };
    // the class takes embeddings to be as wide as tokens where it reads captions
    let of_tokens = unet.d_context.unwrap_or_default();
    let (d_embedding, d_text) =
        if reads_captions { (of_tokens, Some(width)) } else { (width, None) };
    Ok(ImageUNet { unet, d_embedding, d_text, control })
}

fn has_hint(fields: &mut Fields) -> Result<bool, LoadError> {
    let kind: String = fields.take("addition_embed_type")?;
    match kind.as_str() {
        WITHOUT_HINT => Ok(false),
        WITH_HINT => Ok(true),
        other => {
            let expected = format!("{WITHOUT_HINT} or {WITH_HINT}");
            Err(fields.error("addition_embed_type", other, &expected))
        }
    }
}

/// Stable unCLIP's, which reads captions as they are, and image embeddings of this width with their
/// level of noise beside them.
pub(in crate::layouts) fn noised_image_unet(
    folder: &Path,
) -> Result<(UNetConfig, usize), LoadError> {
    let mut fields = conditional(folder)?;
    fields.demand("class_embed_type", "projection")?;
    fields.demand("use_linear_projection", true)?;
    fields.expect_all([
        ("encoder_hid_dim", Value::Null),
        ("encoder_hid_dim_type", Value::Null),
        ("addition_embed_type", Value::Null),
    ])?;
    const WIDTH: &str = "projection_class_embeddings_input_dim";
    let width: usize = fields.take(WIDTH)?;
    if width == 0 || !width.is_multiple_of(2) {
        return Err(fields.error(WIDTH, width, "twice the width of image embeddings"));
    }
    Ok((conditional_unet(fields, &TRANSFORMER_BLOCKS)?, width / 2))
}

fn conditional(folder: &Path) -> Result<Fields, LoadError> {
    Fields::read(&folder.join("config.json"), Some(&[DECODER_BLOCKS.class]))
}

fn conditional_unet(mut fields: Fields, blocks: &Blocks) -> Result<UNetConfig, LoadError> {
    let d_context: usize = fields.take("cross_attention_dim")?;
    fields.expect_all([
        ("only_cross_attention", json!(false)),
        ("transformer_layers_per_block", json!(1)),
        ("reverse_transformer_layers_per_block", Value::Null),
        ("num_attention_heads", Value::Null),
        ("dual_cross_attention", json!(false)),
        ("addition_time_embed_dim", Value::Null),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_out_scale_factor", json!(1.0)),
        ("time_embedding_act_fn", Value::Null),
        ("timestep_post_act", Value::Null),
        ("time_cond_proj_dim", Value::Null),
        ("conv_in_kernel", json!(3)),
        ("conv_out_kernel", json!(3)),
        ("attention_type", json!("default")),
        ("class_embeddings_concat", json!(false)),
        ("mid_block_only_cross_attention", Value::Null),
        ("cross_attention_norm", Value::Null),
    ])?;
    fields.ignore(&["upcast_attention", "addition_embed_type_num_heads"]);
    let config = unet(&mut fields, blocks)?;
    finish(fields, UNetConfig { d_context: Some(d_context), ..config })
}

/// An upsampler's `UNet2DModel`.
pub(in crate::layouts) fn upsampler_unet(folder: &Path) -> Result<UNetConfig, LoadError> {
    let blocks = &UPSAMPLER_BLOCKS;
    let mut fields = Fields::read(&folder.join("config.json"), Some(&[blocks.class]))?;
    fields.demand("add_attention", false)?;
    fields.expect("class_embed_type", Value::Null)?;
    // of blocks that are not in this network
    fields.ignore(&["downsample_type", "upsample_type", "attn_norm_num_groups"]);
    let config = unet(&mut fields, blocks)?;
    finish(fields, config)
}

fn finish(fields: Fields, config: UNetConfig) -> Result<UNetConfig, LoadError> {
    let names = [
        ("image_size", "sample_size"),
        ("num_res_blocks", "layers_per_block"),
        ("attention_resolutions", "down_block_types"),
        ("d_head", "attention_head_dim"),
        ("d_context", "cross_attention_dim"),
        ("d_embedding", "encoder_hid_dim"),
        ("norm_groups", "norm_num_groups"),
        ("d_time", "time_embedding_dim"),
    ];
    config.validate().map_err(|error| fields.invalid(&error, &names))?;
    fields.finish()?;
    Ok(config)
}

fn unet(fields: &mut Fields, blocks: &Blocks) -> Result<UNetConfig, LoadError> {
    expect_common(fields)?;
    let image_size: usize = fields.take("sample_size")?;
    let block_out_channels: Vec<usize> = fields.take("block_out_channels")?;
    let attention = attention_levels(fields, blocks, block_out_channels.len())?;
    let d_head = match blocks.kind {
        AttentionKind::Added => fields.take_optional("attention_head_dim")?.unwrap_or(8),
        AttentionKind::Transformer => head_of_counts(fields, &block_out_channels)?,
    };
    let shift: Option<String> = fields.take_optional("resnet_time_scale_shift")?;
    let scale_shift = match shift.as_deref() {
        None | Some("default") => false,
        Some("scale_shift") => true,
        Some(other) => {
            let expected = "\"default\" or \"scale_shift\"";
            return Err(fields.error("resnet_time_scale_shift", other, expected));
        }
    };
    let resolutions = attention.into_iter().enumerate().filter(|(_, attention)| *attention);
    // more levels than a number has bits are refused later, with those that are merely too many
    let side = |level: usize| image_size.checked_shr(level as u32).unwrap_or(0);
    Ok(UNetConfig {
        image_size,
        in_channels: fields.take("in_channels")?,
        out_channels: fields.take("out_channels")?,
        num_res_blocks: fields.take("layers_per_block")?,
        attention_resolutions: resolutions.map(|(i, _)| side(i)).collect(),
        block_out_channels,
        d_head,
        d_context: None,
        norm_groups: fields.take_optional("norm_num_groups")?.unwrap_or(32),
        scale_shift,
        coordinates: false,
        patch_size: 1,
        d_time: fields.take_optional("time_embedding_dim")?,
        n_heads: None,
        d_sinusoid: None,
        attention: blocks.kind,
        resampling: blocks.resampling,
        norm_eps: fields.take_optional("norm_eps")?.unwrap_or(1e-5),
    })
}

/// The width of a head where, whatever its name, the field gives the number of heads: one for all
/// levels, or one for each.
fn head_of_counts(fields: &mut Fields, channels: &[usize]) -> Result<usize, LoadError> {
    const FIELD: &str = "attention_head_dim";
    let found: Value = fields.take_optional(FIELD)?.unwrap_or(json!(8));
    let counts: Vec<usize> = match (found.as_u64(), found.as_array()) {
        (Some(n), _) => vec![n as usize; channels.len()],
        (_, Some(all)) => all.iter().map(|it| it.as_u64().unwrap_or(0) as usize).collect(),
        _ => Vec::new(),
    };
    let widths = channels.iter().zip(&counts);
    let widths: Vec<usize> = widths.map(|(c, n)| c.checked_div(*n).unwrap_or(0)).collect();
    let fits = |(c, n): (&usize, &usize)| *n > 0 && c.is_multiple_of(*n);
    let is_whole = counts.len() == channels.len() && channels.iter().zip(&counts).all(fits);
    match widths.first() {
        Some(&width) if is_whole && widths.iter().all(|it| *it == width) => Ok(width),
        _ => {
            let expected = format!("numbers of heads that divide {channels:?} into equal widths");
            Err(fields.error(FIELD, found, &expected))
        }
    }
}

/// Which levels have attention. The way up has to mirror the way down.
fn attention_levels(
    fields: &mut Fields,
    blocks: &Blocks,
    levels: usize,
) -> Result<Vec<bool>, LoadError> {
    let mut ways = Vec::new();
    for (i, name) in ["down_block_types", "up_block_types"].into_iter().enumerate() {
        let kinds: Vec<String> = fields.take(name)?;
        let has_attention = |kind: &String| match kind.as_str() {
            kind if kind == blocks.plain[i] => Some(false),
            kind if blocks.attention.is_some_and(|names| kind == names[i]) => Some(true),
            _ => None,
        };
        let way: Option<Vec<bool>> = kinds.iter().map(has_attention).collect();
        match way {
            Some(way) if way.len() == levels => ways.push(way),
            _ => {
                let known = [Some(blocks.plain[i]), blocks.attention.map(|names| names[i])];
                let known: Vec<&str> = known.into_iter().flatten().collect();
                let expected = format!("{levels} times {}", known.join(" or "));
                return Err(fields.error(name, format!("{kinds:?}"), &expected));
            }
        }
    }
    ways[1].reverse();
    if ways[0] != ways[1] {
        return Err(fields.error(
            "up_block_types",
            "another order",
            "that of down_block_types, reversed",
        ));
    }
    let middle: Option<String> = fields.take_optional("mid_block_type")?;
    let expected = blocks.middle;
    match middle {
        Some(found) if found != expected => Err(fields.error("mid_block_type", found, expected)),
        // the default of the conditional network is a middle that Karlo does not have
        None if blocks.attention.is_some() => {
            Err(fields.error("mid_block_type", "absent", expected))
        }
        _ => Ok(ways.swap_remove(0)),
    }
}

//! A small Karlo under diffusers' names, and the same under the original's: written by walking
//! through the networks as the original's constructors do.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use burn::tensor::Device;
use tempfile::TempDir;
use unclip::clip::{Fit, ImageEncoderConfig, TextEncoderConfig, TextTower};
use unclip::decoder::{CaptionKind, DecoderConfig};
use unclip::prior::DiffusionPriorConfig;
use unclip::unclip_core::{Ddpm, DiffusionConfig, Parameterization, VarianceType};
use unclip::unclip_nn::checkpoint::{StageConfig, Weights, save_weights};
use unclip::unclip_nn::{
    Activation, AttentionKind, Precision, ResampleKind, TransformerConfig, UNetConfig,
};
use unclip::upsample::{Resize, UpsamplerConfig};

use crate::support::RawTensor;

// the sizes that files without a configuration must have

/// Channels of an attention head. The stages have two of them, or the order would not matter.
const HEAD: usize = 64;

fn transformer(n_layers: usize, activation: Activation) -> TransformerConfig {
    let d_model = 2 * HEAD;
    TransformerConfig { d_model, n_layers, n_heads: 2, d_hidden: 80, activation, norm_eps: 1e-5 }
}

pub(crate) fn text_config() -> TextEncoderConfig {
    TextEncoderConfig {
        unit_length: false,
        padding: None,
        logit_scale: TextEncoderConfig::MOST,
        vocab_size: crate::support::text_encoder().vocab_size,
        context_length: 8,
        d_embedding: 24,
        tower: TextTower::Clip,
        projected: true,
        transformer: transformer(2, Activation::QuickGelu),
    }
}

pub(crate) fn image_config() -> ImageEncoderConfig {
    ImageEncoderConfig {
        unit_length: false,
        image_size: 12,
        patch_size: 4,
        d_embedding: 24,
        transformer: transformer(3, Activation::QuickGelu),
        mean: [0.48145466, 0.4578275, 0.40821073],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        fit: Fit::Squash,
    }
}

fn diffusion(steps: usize, guidance_scale: f64) -> DiffusionConfig {
    DiffusionConfig {
        sampler: Ddpm.into(),
        steps,
        guidance_scale,
        ..DiffusionConfig::cosine(Parameterization::Epsilon)
    }
}

pub(crate) fn prior_config() -> DiffusionPriorConfig {
    DiffusionPriorConfig {
        laion: None,
        d_embedding: 24,
        d_text: 2 * HEAD,
        context_length: 8,
        principal_components: false,
        transformer: transformer(2, Activation::Gelu),
        diffusion: DiffusionConfig {
            parameterization: Parameterization::Sample,
            clamp: Some(10.0),
            ..diffusion(25, 4.0)
        },
    }
}

pub(crate) fn decoder_config() -> DecoderConfig {
    DecoderConfig {
        d_embedding: 24,
        channels: 3,
        d_text: Some(2 * HEAD),
        image_tokens: 3,
        whitened: false,
        layout: None,
        captions: CaptionKind::default(),
        augmentation: None,
        control: None,
        unet: UNetConfig {
            image_size: 64,
            in_channels: 3,
            out_channels: 6,
            // attention in one level that is between two others, and in the middle
            block_out_channels: vec![32, 2 * HEAD, HEAD],
            num_res_blocks: 2,
            attention_resolutions: vec![32],
            d_head: HEAD,
            d_context: Some(20),
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
        .into(),
        diffusion: DiffusionConfig { variance: VarianceType::LearnedRange, ..diffusion(25, 8.0) },
    }
}

pub(crate) fn upsampler_config() -> UpsamplerConfig {
    UpsamplerConfig {
        factor: 4,
        last_step_network: true,
        residual: false,
        resize: Resize::Bicubic,
        rounding: None,
        classes: None,
        d_text: None,
        kept: false,
        unet: UNetConfig {
            image_size: 256,
            in_channels: 6,
            out_channels: 3,
            block_out_channels: vec![32, 64],
            num_res_blocks: 1,
            attention_resolutions: vec![],
            d_context: None,
            scale_shift: false,
            d_time: Some(48),
            n_heads: None,
            d_sinusoid: None,
            attention: AttentionKind::Added,
            resampling: ResampleKind::Residual,
            ..decoder_config().unet.adm().unwrap().clone()
        }
        .into(),
        diffusion: diffusion(7, 1.0),
    }
}

// diffusers' tensors

/// Shapes and values by name.
pub(crate) type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The parameters of a network under diffusers' names.
pub(crate) fn parameters<T: StageConfig>(network: &T::Network) -> Tensors {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.safetensors");
    save_weights(network, &path, &T::KEYS, Precision::F32).unwrap();
    let weights = Weights::open(&path).unwrap();
    let tensor = |key: &String| {
        let values = weights.read(key).unwrap().unwrap();
        (key.clone(), (weights.shape(key).unwrap().to_vec(), values))
    };
    weights.keys().iter().map(tensor).collect()
}

/// Parameters of which no two are the same: the first one is `first`, the next 1 more.
fn numbered<T: StageConfig>(config: &T, first: u32) -> Tensors {
    let mut numbers = first..1 << f32::MANTISSA_DIGITS;
    let mut tensors = parameters::<T>(&config.init(&Device::flex()));
    for value in tensors.values_mut().flat_map(|(_, values)| values) {
        *value = numbers.next().unwrap() as f32;
    }
    tensors
}

/// The parameters of every stage.
pub(crate) struct Karlo {
    pub(crate) text: Tensors,
    pub(crate) image: Tensors,
    pub(crate) prior: Tensors,
    pub(crate) decoder: Tensors,
    pub(crate) upsampler: Tensors,
}

/// Made once; the folders are written from it.
pub(crate) fn karlo() -> &'static Karlo {
    static KARLO: OnceLock<Karlo> = OnceLock::new();
    KARLO.get_or_init(|| Karlo {
        text: numbered(&text_config(), 1),
        image: numbered(&image_config(), 5_000_000),
        prior: numbered(&prior_config(), 1),
        decoder: numbered(&decoder_config(), 1),
        upsampler: numbered(&upsampler_config(), 1),
    })
}

// the original's tensors

/// Takes tensors by diffusers' names and writes them down by others.
struct Writer<'a> {
    from: &'a Tensors,
    to: Vec<RawTensor>,
}

impl<'a> Writer<'a> {
    fn new(from: &'a Tensors) -> Self {
        Self { from, to: Vec::new() }
    }

    fn put(&mut self, key: &str, shape: Vec<usize>, values: &[f32]) {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.to.push(RawTensor { key: key.into(), dtype: "F32".into(), shape, bytes });
    }

    fn tensor(&mut self, from: &str, to: &str) {
        let (shape, values) = &self.from[from];
        self.put(to, shape.clone(), values);
    }

    /// Weight and bias.
    fn module(&mut self, from: &str, to: &str) {
        self.tensor(&format!("{from}.weight"), &format!("{to}.weight"));
        self.tensor(&format!("{from}.bias"), &format!("{to}.bias"));
    }

    fn modules(&mut self, from: &str, to: &str, names: &[[&str; 2]]) {
        for [new, old] in names {
            self.module(&format!("{from}{old}"), &format!("{to}{new}"));
        }
    }

    /// A matrix from the other side.
    fn transposed(&mut self, from: &str, to: &str) {
        let (shape, values) = &self.from[from];
        let [rows, columns] = [shape[0], shape[1]];
        let at = |i: usize| values[(i % rows) * columns + i / rows];
        let turned: Vec<f32> = (0..rows * columns).map(at).collect();
        self.put(to, vec![columns, rows], &turned);
    }

    /// Several projections as one: `block` rows of each in turn.
    fn fused(&mut self, from: &str, names: &[&str], to: [&str; 2], block: usize, conv: bool) {
        for (leaf, to) in ["weight", "bias"].into_iter().zip(to) {
            let tensors = names.iter().map(|name| &self.from[&format!("{from}{name}.{leaf}")]);
            let tensors: Vec<_> = tensors.collect();
            let (mut shape, len) = (tensors[0].0.clone(), tensors[0].1.len());
            let row = len / shape[0];
            let mut values = Vec::new();
            for start in (0..len).step_by(block * row) {
                for (_, tensor) in &tensors {
                    values.extend_from_slice(&tensor[start..start + block * row]);
                }
            }
            shape[0] *= names.len();
            if conv && leaf == "weight" {
                shape.push(1);
            }
            self.put(to, shape, &values);
        }
    }
}

/// OpenAI's CLIP; `text` stands before the names of the text tower.
pub(crate) fn open_ai(text: &str) -> Vec<RawTensor> {
    let Karlo { text: text_tensors, image, .. } = karlo();
    let both: Tensors = text_tensors.clone().into_iter().chain(image.clone()).collect();
    let mut clip = Writer::new(&both);
    let mut blocks = |from: &str, to: &str, n: usize| {
        for i in 0..n {
            let from = format!("{from}_model.encoder.layers.{i}.");
            let to = format!("{to}transformer.resblocks.{i}.");
            let [weight, bias] = ["weight", "bias"].map(|leaf| format!("{to}attn.in_proj_{leaf}"));
            let parts = ["q_proj", "k_proj", "v_proj"];
            clip.fused(&format!("{from}self_attn."), &parts, [&weight, &bias], 2 * HEAD, false);
            let names = [
                ["attn.out_proj", "self_attn.out_proj"],
                ["ln_1", "layer_norm1"],
                ["ln_2", "layer_norm2"],
                ["mlp.c_fc", "mlp.fc1"],
                ["mlp.c_proj", "mlp.fc2"],
            ];
            clip.modules(&from, &to, &names);
        }
    };
    blocks("text", text, 2);
    blocks("vision", "visual.", 3);
    let text = |name: &str| format!("{text}{name}");
    let embeddings = "text_model.embeddings";
    clip.tensor(&format!("{embeddings}.token_embedding.weight"), &text("token_embedding.weight"));
    clip.tensor(&format!("{embeddings}.position_embedding.weight"), &text("positional_embedding"));
    clip.module("text_model.final_layer_norm", &text("ln_final"));
    clip.transposed("text_projection.weight", &text("text_projection"));
    let embeddings = "vision_model.embeddings";
    clip.tensor(&format!("{embeddings}.class_embedding"), "visual.class_embedding");
    clip.tensor(&format!("{embeddings}.patch_embedding.weight"), "visual.conv1.weight");
    clip.tensor(&format!("{embeddings}.position_embedding.weight"), "visual.positional_embedding");
    clip.module("vision_model.pre_layrnorm", "visual.ln_pre");
    clip.module("vision_model.post_layernorm", "visual.ln_post");
    clip.transposed("visual_projection.weight", "visual.proj");
    clip.put("logit_scale", vec![], &[4.6]);
    for key in ["input_resolution", "context_length", "vocab_size"] {
        let (dtype, bytes) = ("I64".into(), 8i64.to_le_bytes().into());
        clip.to.push(RawTensor { key: key.into(), dtype, shape: vec![], bytes });
    }
    clip.to
}

pub(crate) fn original_prior() -> Vec<RawTensor> {
    let mut prior = Writer::new(&karlo().prior);
    prior.tensor("positional_embedding", "model.positional_embedding");
    prior.tensor("prd_embedding", "model.prd_emb");
    let names = [
        ["time_embed.0", "time_embedding.linear_1"],
        ["time_embed.2", "time_embedding.linear_2"],
        ["clip_img_proj", "proj_in"],
        ["text_emb_proj", "embedding_proj"],
        ["text_enc_proj", "encoder_hidden_states_proj"],
        ["final_ln", "norm_out"],
        ["out_proj", "proj_to_clip_embeddings"],
    ];
    prior.modules("", "model.", &names);
    for i in 0..prior_config().transformer.n_layers {
        let from = format!("transformer_blocks.{i}.");
        let to = format!("model.transformer.resblocks.{i}.");
        let [weight, bias] = ["weight", "bias"].map(|leaf| format!("{to}attn.c_qkv.{leaf}"));
        let parts = ["to_q", "to_k", "to_v"];
        prior.fused(&format!("{from}attn1."), &parts, [&weight, &bias], HEAD, false);
        let names = [
            ["attn.c_proj", "attn1.to_out.0"],
            ["ln_1", "norm1"],
            ["ln_2", "norm3"],
            ["mlp.c_fc", "ff.net.0.proj"],
            ["mlp.c_proj", "ff.net.2"],
        ];
        prior.modules(&from, &to, &names);
    }
    prior.to
}

pub(crate) fn original_statistics() -> Vec<RawTensor> {
    let mut statistics = Writer::new(&karlo().prior);
    for (from, to) in [("clip_mean", "mean"), ("clip_std", "std")] {
        let (shape, values) = &karlo().prior[from];
        statistics.put(to, vec![shape[1]], values);
    }
    statistics.to
}

fn residual_block(unet: &mut Writer<'_>, from: &str, to: &str) {
    let names = [
        ["in_layers.0", "norm1"],
        ["in_layers.2", "conv1"],
        ["emb_layers.1", "time_emb_proj"],
        ["out_layers.0", "norm2"],
        ["out_layers.3", "conv2"],
    ];
    unet.modules(&format!("{from}."), &format!("{to}."), &names);
    if unet.from.contains_key(&format!("{from}.conv_shortcut.bias")) {
        unet.module(&format!("{from}.conv_shortcut"), &format!("{to}.skip_connection"));
    }
}

fn attention_block(unet: &mut Writer<'_>, from: &str, to: &str) {
    unet.module(&format!("{from}.group_norm"), &format!("{to}.norm"));
    let fused = [
        ("qkv", vec!["to_q", "to_k", "to_v"]),
        ("encoder_kv", vec!["add_k_proj", "add_v_proj"]),
        ("proj_out", vec!["to_out.0"]),
    ];
    for (name, parts) in fused {
        let [weight, bias] = ["weight", "bias"].map(|leaf| format!("{to}.{name}.{leaf}"));
        unet.fused(&format!("{from}."), &parts, [&weight, &bias], HEAD, true);
    }
}

/// A U-Net, block by block, as its constructor in guided-diffusion numbers them.
fn unet(unet: &mut Writer<'_>, config: &UNetConfig, from: &str, to: &str) {
    let names = [
        ["time_embed.0", "time_embedding.linear_1"],
        ["time_embed.2", "time_embedding.linear_2"],
        ["input_blocks.0.0", "conv_in"],
        ["out.0", "conv_norm_out"],
        ["out.2", "conv_out"],
    ];
    unet.modules(from, to, &names);
    let levels = config.levels();
    let mut next = 1;
    for (level, sizes) in levels.iter().enumerate() {
        for i in 0..config.num_res_blocks {
            let block = format!("{to}input_blocks.{next}");
            let side = format!("{from}down_blocks.{level}");
            residual_block(unet, &format!("{side}.resnets.{i}"), &format!("{block}.0"));
            if sizes.attention {
                attention_block(unet, &format!("{side}.attentions.{i}"), &format!("{block}.1"));
            }
            next += 1;
        }
        if sizes.resampled {
            let down = format!("{from}down_blocks.{level}.downsamplers.0");
            residual_block(unet, &down, &format!("{to}input_blocks.{next}.0"));
            next += 1;
        }
    }
    let [middle, to_middle] = [format!("{from}mid_block"), format!("{to}middle_block")];
    let last = if config.attention_resolutions.is_empty() { 1 } else { 2 };
    residual_block(unet, &format!("{middle}.resnets.0"), &format!("{to_middle}.0"));
    residual_block(unet, &format!("{middle}.resnets.1"), &format!("{to_middle}.{last}"));
    if last == 2 {
        attention_block(unet, &format!("{middle}.attentions.0"), &format!("{to_middle}.1"));
    }
    let mut next = 0;
    for (up, sizes) in levels.iter().rev().enumerate() {
        for i in 0..=config.num_res_blocks {
            let block = format!("{to}output_blocks.{next}");
            let side = format!("{from}up_blocks.{up}");
            let mut places = 0..;
            let mut place = || format!("{block}.{}", places.next().unwrap());
            residual_block(unet, &format!("{side}.resnets.{i}"), &place());
            if sizes.attention {
                attention_block(unet, &format!("{side}.attentions.{i}"), &place());
            }
            if i == config.num_res_blocks && up + 1 < levels.len() {
                residual_block(unet, &format!("{side}.upsamplers.0"), &place());
            }
            next += 1;
        }
    }
}

pub(crate) fn original_decoder() -> Vec<RawTensor> {
    let mut decoder = Writer::new(&karlo().decoder);
    let names = [
        ["text_seq_proj.0", "encoder_hidden_states_proj"],
        ["text_seq_proj.1", "text_encoder_hidden_states_norm"],
        ["clip_tok_proj", "clip_extra_context_tokens_proj"],
        ["text_feat_proj", "embedding_proj"],
        ["clip_emb", "clip_image_embeddings_project_to_time_embeddings"],
    ];
    decoder.modules("text_proj.", "model.", &names);
    let null_image = "text_proj.learned_classifier_free_guidance_embeddings";
    decoder.tensor(null_image, "model.cf_param");
    unet(&mut decoder, decoder_config().unet.adm().unwrap(), "unet.", "model.");
    decoder.to
}

pub(crate) fn original_upsampler() -> Vec<RawTensor> {
    let mut upsampler = Writer::new(&karlo().upsampler);
    let config = upsampler_config();
    let config = config.unet.adm().unwrap();
    unet(&mut upsampler, config, "unet.", "model_first_steps.");
    unet(&mut upsampler, config, "last_step.", "model_last_step.");
    upsampler.to
}

/// transformers' `CLIPModel`.
pub(crate) fn hugging_face() -> Vec<RawTensor> {
    let Karlo { text, image, .. } = karlo();
    let both: Tensors = text.clone().into_iter().chain(image.clone()).collect();
    let mut clip = Writer::new(&both);
    for key in both.keys() {
        clip.tensor(key, key);
    }
    clip.put("logit_scale", vec![], &[4.6]);
    clip.put("text_model.embeddings.position_ids", vec![1, 2], &[0.0, 1.0]);
    clip.to
}

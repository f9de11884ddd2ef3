//! Comparisons with diffusers.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};
use unclip_nn::checkpoint::{KeyMap, Weights, load_weights};
use unclip_nn::{
    Activation, AttentionBlockConfig, AttentionKind, Context, ResBlockConfig, Resample,
    ResampleKind, TimestepEmbedding, TransformerBlock, TransformerConfig, UNet, UNetConfig,
    causal_mask, timestep_embedding,
};

use crate::fixture::{Fixture, assert_close, noise};

const UNET_NAMES: KeyMap = KeyMap::NONE.then(UNet::NAMES);

/// Both sides compute in f32, and sum in different orders.
const F32: f64 = 2e-6;

/// diffusers' names of a `BasicTransformerBlock`.
const TRANSFORMER_BLOCK: KeyMap = KeyMap::new(&[
    ("attn.", "attn1."),
    (".to_out.", ".to_out.0."),
    ("norm2.", "norm3."),
    ("c_fc.", "ff.net.0.proj."),
    ("c_proj.", "ff.net.2."),
]);

/// Reads the fixture's weights into a module, through a file.
fn load<M: Module>(module: M, fixture: &Fixture, keys: &KeyMap) -> M {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), fixture.weights("weights.")).unwrap();
    let weights = Weights::open(file.path()).unwrap();
    load_weights(module, &weights, keys, &Device::flex()).unwrap()
}

#[test]
fn sinusoids() {
    let fixture = Fixture::open("timestep_embedding");
    for dim in [320, 32] {
        let got = timestep_embedding(fixture.tensor("input.timesteps"), dim);
        // at timestep 999 an angle has lost three of f32's seven digits
        let want = fixture.tensor(&format!("output.dim_{dim}"));
        assert_close(&format!("{dim} sinusoids"), got, want, 1e-4);
    }
}

#[test]
fn timestep_network() {
    // The fixture starts behind the sinusoids. At timestep 0 those are ones, then zeros, so a first
    // layer whose first column is (its own product with) the sample computes the same.
    let fixture = Fixture::open("time_embedding");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), fixture.weights("weights.")).unwrap();
    let weights = Weights::open(file.path()).unwrap();
    let parameter = |key: &str| -> Vec<f32> { weights.read(key).unwrap().unwrap() };
    let matrix = TensorData::new(parameter("linear_1.weight"), [32, 16]);
    let matrix = Tensor::<2>::from_data(matrix, &Device::flex());
    let samples: Tensor<2> = fixture.tensor("input.sample");
    let want: Tensor<2> = fixture.tensor("output.embedding");
    for row in 0..3 {
        let product = matrix.clone().matmul(samples.clone().narrow(0, row, 1).transpose());
        let columns = Tensor::cat(vec![product, Tensor::zeros([32, 15], &Device::flex())], 1);
        let columns: Vec<u8> =
            columns.into_data().iter::<f32>().flat_map(f32::to_le_bytes).collect();
        let bytes = |key: &str| -> Vec<u8> {
            parameter(key).into_iter().flat_map(f32::to_le_bytes).collect()
        };
        let tensors = [
            ("linear_1.weight", vec![32, 16], columns),
            ("linear_1.bias", vec![32], bytes("linear_1.bias")),
            ("linear_2.weight", vec![32, 32], bytes("linear_2.weight")),
            ("linear_2.bias", vec![32], bytes("linear_2.bias")),
        ];
        let views = tensors.iter().map(|(key, shape, bytes)| {
            let format = safetensors::Dtype::F32;
            (*key, safetensors::tensor::TensorView::new(format, shape.clone(), bytes).unwrap())
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let weights = Weights::open(file.path()).unwrap();
        let device = Device::flex();
        let network = TimestepEmbedding::new(16, 32, &device);
        let network = load_weights(network, &weights, &KeyMap::NONE, &device).unwrap();
        let got = network.forward(Tensor::zeros([1], &device));
        assert_close(&format!("row {row}"), got, want.clone().narrow(0, row, 1), F32);
    }
}

#[test]
fn transformer_block() {
    let fixture = Fixture::open("transformer_block");
    let config = TransformerConfig {
        d_model: 32,
        n_layers: 1,
        n_heads: 4,
        d_hidden: 128,
        activation: Activation::Gelu,
        norm_eps: 1e-5,
    };
    let block = TransformerBlock::new(&config, &Device::flex());
    let block = load(block, &fixture, &TRANSFORMER_BLOCK);
    let hidden = fixture.mask::<3>("input.masked").unsqueeze_dim(1);
    let got = block.forward(fixture.tensor("input.hidden_states"), Some(hidden));
    assert_close("transformer block", got, fixture.tensor("output.hidden_states"), F32);
}

/// Under a causal mask it does not matter whether a sequence is read at once or in two parts.
#[test]
fn a_sequence_in_two_parts() {
    let device = Device::flex();
    let config = TransformerConfig {
        d_model: 32,
        n_layers: 3,
        n_heads: 4,
        d_hidden: 64,
        activation: Activation::Gelu,
        norm_eps: 1e-5,
    };
    let transformer = config.init(&device);
    let (seq, hidden) = (9, causal_mask(9, &device));
    let x: Tensor<3> = noise([2, seq, 32], 1, &device);
    let whole = transformer.forward(x.clone(), Some(hidden.clone()));
    for first in 1..seq {
        let later = seq - first;
        let before = hidden.clone().narrow(2, 0, first).narrow(3, 0, first);
        let cache = transformer.prefill(x.clone().narrow(1, 0, first), Some(before));
        let x = x.clone().narrow(1, first, later);
        let hidden = hidden.clone().narrow(2, first, later);
        let got = transformer.forward_cached(&cache, x, Some(hidden));
        let want = whole.clone().narrow(1, first, later);
        assert_close(&format!("after {first} tokens"), got, want, F32);
    }
}

#[test]
fn residual_blocks() {
    for (case, scale_shift, resample) in [
        ("scale_shift", true, Resample::Keep),
        ("default", false, Resample::Keep),
        ("down", true, Resample::Down),
        ("up", true, Resample::Up),
        ("down_default", false, Resample::Down),
        ("up_default", false, Resample::Up),
    ] {
        let fixture = Fixture::open(&format!("res_block_{case}"));
        let config = ResBlockConfig {
            channels_in: 8,
            channels_out: if resample == Resample::Keep { 12 } else { 8 },
            d_embedding: 16,
            norm_groups: 4,
            norm_eps: 1e-5,
            scale_shift,
            resample,
        };
        let block = load(config.init(&Device::flex()), &fixture, &KeyMap::NONE);
        let emb = activation::silu(fixture.tensor::<2>("input.temb"));
        let got = block.forward(fixture.tensor("input.hidden_states"), emb);
        assert_close(case, got, fixture.tensor("output.hidden_states"), F32);
    }
}

#[test]
fn attention_block() {
    let fixture = Fixture::open("attention_block");
    let config =
        AttentionBlockConfig { channels: 16, d_head: 8, norm_groups: 4, d_context: Some(12) };
    let block = load(config.init(&Device::flex()), &fixture, &KeyMap::NONE);
    let context = Context {
        tokens: fixture.tensor("input.encoder_hidden_states"),
        mask: Some(fixture.mask("input.attention_mask")),
    };
    let got = block.forward(fixture.tensor("input.hidden_states"), block.read(&context).as_ref());
    assert_close("attention block", got, fixture.tensor("output.hidden_states"), F32);
}

/// The two levels of both U-Nets.
fn unet(in_channels: usize, out_channels: usize) -> UNetConfig {
    UNetConfig {
        image_size: 8,
        in_channels,
        out_channels,
        block_out_channels: vec![6, 12],
        num_res_blocks: 1,
        attention_resolutions: vec![],
        d_head: 4,
        d_context: None,
        norm_groups: 3,
        scale_shift: false,
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
fn unet_of_the_decoder() {
    let fixture = Fixture::open("unet_decoder");
    let config = UNetConfig {
        attention_resolutions: vec![4],
        d_context: Some(8),
        scale_shift: true,
        ..unet(3, 6)
    };
    config.validate().unwrap();
    let unet = load(config.init(&Device::flex()), &fixture, &UNET_NAMES);
    let context = Context {
        tokens: fixture.tensor("input.encoder_hidden_states"),
        mask: Some(fixture.mask("input.attention_mask")),
    };
    let time = unet.embed_time(fixture.integers("input.timestep").float());
    let emb = time + fixture.tensor("input.class_labels");
    let got = unet.forward(fixture.tensor("input.sample"), emb, &unet.read(&context));
    assert_close("decoder", got, fixture.tensor("output.sample"), 1e-5);
}

#[test]
fn unet_of_an_upsampler() {
    let fixture = Fixture::open("unet_upsample");
    let unet = load(unet(6, 3).init(&Device::flex()), &fixture, &UNET_NAMES);
    let emb = unet.embed_time(fixture.integers("input.timestep").float());
    let got = unet.forward(fixture.tensor("input.sample"), emb, &[]);
    assert_close("upsampler", got, fixture.tensor("output.sample"), 1e-5);
}

//! Comparisons with transformers and PyTorch.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use image::{GenericImageView, Rgb, RgbImage};
use unclip_clip::loss::contrastive_loss;
use unclip_clip::{
    Fit, ImageEncoderConfig, Padding, TextEncoderConfig, TextTower, Tokenizer, TokenizerOptions,
    Tokens, preprocess,
};
use unclip_nn::checkpoint::{StageConfig, Weights, load_weights};
use unclip_nn::{Activation, TransformerConfig};

use crate::fixture::{Fixture, assert_close};

/// Both sides compute in f32, and sum in different orders.
const F32: f64 = 5e-6;
const ACTIVATIONS: [(&str, Activation); 2] =
    [("gelu", Activation::Gelu), ("quick_gelu", Activation::QuickGelu)];

/// Reads the fixture's weights into a tower, through a file.
fn load<M: Module>(tower: M, fixture: &Fixture) -> M {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), fixture.weights("weights.")).unwrap();
    let weights = Weights::open(file.path()).unwrap();
    load_weights(tower, &weights, &TextEncoderConfig::KEYS, &Device::flex()).unwrap()
}

fn transformer(activation: Activation) -> TransformerConfig {
    TransformerConfig {
        d_model: 32,
        n_layers: 2,
        n_heads: 4,
        d_hidden: 64,
        activation,
        norm_eps: 1e-5,
    }
}

/// The fixture's ids as tokens. Tokens come from a tokenizer alone, so this makes one whose symbols
/// are single characters, and writes the ids as a caption.
fn tokens(rows: &[&[usize]]) -> Tokens {
    const SYMBOLS: &str = "!abcdefghijklmnopqrstuvwxyz0123456789#$%&()*+,-./:;<=>?@[]^_`{";
    const START: usize = 62;
    const END: usize = 63;
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        SYMBOLS.chars().enumerate().map(|(id, c)| (format!("{c}</w>"), id.into())).collect();
    vocab.remove("!</w>");
    vocab.extend([("!".into(), 0.into()), ("<|startoftext|>".into(), START.into())]);
    vocab.insert("<|endoftext|>".into(), END.into());
    let options = TokenizerOptions { context_length: 12, padding: Some(Padding::Exclamation) };
    let vocab = serde_json::to_vec(&vocab).unwrap();
    let tokenizer = Tokenizer::from_bytes(Path::new("test"), &vocab, b"", options).unwrap();
    let caption = |ids: &&[usize]| -> String {
        let inner = ids[1..].iter().take_while(|&&id| id != END);
        inner.flat_map(|&id| [SYMBOLS.chars().nth(id).unwrap(), ' ']).collect()
    };
    let tokens = tokenizer.encode(&rows.iter().map(caption).collect::<Vec<_>>());
    for (row, ids) in rows.iter().enumerate() {
        assert!(tokens.ids(row).iter().map(|&id| id as usize).eq(ids.iter().copied()));
    }
    tokens
}

#[test]
fn text_tower() {
    for (name, activation) in ACTIVATIONS {
        let fixture = Fixture::open(&format!("text_{name}"));
        let config = TextEncoderConfig {
            unit_length: false,
            padding: None,
            logit_scale: TextEncoderConfig::MOST,
            vocab_size: 64,
            context_length: 12,
            d_embedding: 24,
            tower: TextTower::Clip,
            projected: true,
            transformer: transformer(activation),
        };
        config.validate().unwrap();
        let tower = load(config.init(&Device::flex()), &fixture);
        let ids = fixture.counts("input.input_ids");
        let tokens = tokens(&ids.chunks(12).collect::<Vec<_>>());
        let embedding = tower.forward(&tokens, &Device::flex());
        assert_close(name, embedding.pooled, fixture.tensor("output.pooled"), F32);
        assert_close(name, embedding.tokens, fixture.tensor("output.tokens"), F32);
        // marks and tokens are true, padding is not, an exclamation mark among the tokens is
        let mask: Vec<i64> = embedding.mask.int().sum_dim(1).into_data().iter().collect();
        assert_eq!(mask, [6, 2, 12]);
    }
}

fn image_config(activation: Activation, fit: Fit) -> ImageEncoderConfig {
    ImageEncoderConfig {
        unit_length: false,
        image_size: 16,
        patch_size: 4,
        d_embedding: 24,
        transformer: transformer(activation),
        mean: [0.48145466, 0.4578275, 0.40821073],
        std: [0.26862954, 0.2613026, 0.2757771],
        fit,
    }
}

#[test]
fn image_tower() {
    for (name, activation) in ACTIVATIONS {
        let fixture = Fixture::open(&format!("vision_{name}"));
        let config = image_config(activation, Fit::Crop);
        config.validate().unwrap();
        let tower = load(config.init(&Device::flex()), &fixture);
        let embedding = tower.forward(fixture.tensor("input.pixel_values"));
        assert_close(name, embedding.0, fixture.tensor("output.image_embeds"), F32);
    }
}

#[test]
fn preprocessing() {
    let fixture = Fixture::open("preprocess");
    let pixels = fixture.integers::<3>("input.image");
    let [height, width, _] = pixels.dims();
    let bytes = pixels.into_data().iter::<i64>().map(|value| value as u8).collect();
    let picture = RgbImage::from_raw(width as u32, height as u32, bytes).unwrap();
    let narrow = picture.view(0, 0, 18, height as u32).to_image();
    for (name, picture, fit) in [
        ("crop_u8", &picture, Fit::Crop),
        ("crop_narrow_u8", &narrow, Fit::Crop),
        ("squash_u8", &picture, Fit::Squash),
    ] {
        let config = image_config(Activation::Gelu, fit);
        let got = preprocess(&config, picture, &Device::flex());
        assert_close(name, got, fixture.tensor(&format!("output.{name}")), 1e-5);
    }
}

#[test]
fn preprocessing_leaves_the_size_of_a_fitting_picture_alone() {
    let picture = RgbImage::from_pixel(16, 16, Rgb([153; 3]));
    for fit in [Fit::Crop, Fit::Squash] {
        let config = image_config(Activation::Gelu, fit);
        let back = preprocess(&config, &picture, &Device::flex());
        for (channel, value) in back.mean_dim(2).mean_dim(3).into_data().iter::<f32>().enumerate() {
            let want = (0.6 - config.mean[channel]) / config.std[channel];
            assert!((value - want).abs() < 1e-5, "{value}, not {want}");
        }
    }
}

#[test]
fn loss_and_its_gradients() {
    let fixture = Fixture::open_on("contrastive_loss", Device::flex().autodiff());
    let [image, text] = ["image_features", "text_features"]
        .map(|name| fixture.tensor::<2>(&format!("input.{name}")).require_grad());
    let scale = fixture.tensor::<1>("input.logit_scale").require_grad();
    let loss = contrastive_loss(image.clone(), text.clone(), scale.clone());
    let gradients = loss.backward();
    let want = Fixture::open("contrastive_loss");
    assert_close("loss", loss.inner(), want.tensor("output.loss"), 1e-6);
    for (name, leaf) in [("image_features", image), ("text_features", text)] {
        let got = leaf.grad(&gradients).unwrap();
        assert_close(name, got, want.tensor(&format!("output.grad_{name}")), 1e-5);
    }
    let got = scale.grad(&gradients).unwrap();
    assert_close("scale", got, want.tensor("output.grad_logit_scale"), 1e-5);
}

//! Training steps of every stage against PyTorch: the loss, its gradients, and 20 steps of AdamW with
//! clipping, weight decay, a learning rate that changes, and averaging.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use serde::Deserialize;
use unclip_clip::loss::contrastive_loss;
use unclip_clip::{ImageEncoderConfig, Padding, TextEncoderConfig, Tokenizer, TokenizerOptions};
use unclip_core::loss::{Noised, training_loss};
use unclip_core::{
    DiffusionConfig, ImageEmbedding, Parameterization, Stage, TextEmbedding, VarianceType,
    Weighting,
};
use unclip_decoder::{Condition, Decoder, DecoderConfig};
use unclip_nn::checkpoint::{KeyMap, StageConfig, Weights, load_weights, save_weights};
use unclip_nn::{Activation, Precision, TransformerConfig, UNetConfig};
use unclip_prior::{ArPrior, ArPriorConfig, DiffusionPrior, DiffusionPriorConfig};
use unclip_train::objective::ClipTowers;
use unclip_train::{Adam, Changes, Learned, StepReport, TrainSettings, Trainer, recipe, trainable};
use unclip_upsample::{Upsampler, UpsamplerConfig};

use crate::fixture::Fixture;

/// How far gradients may be off, as a share of their root mean square.
const F32: f64 = 1e-4;

#[derive(Deserialize)]
struct Config {
    train: Settings,
    parameters: Vec<String>,
}

#[derive(Deserialize)]
struct Settings {
    steps: u64,
    learning_rate: f64,
    warmup: u64,
    cooldown: u64,
    beta_1: f64,
    beta_2: f64,
    epsilon: f64,
    weight_decay: f64,
    max_norm: f64,
    ema_decay: f64,
}

impl Settings {
    fn settings(&self) -> TrainSettings {
        let Self { beta_1, beta_2, epsilon, .. } = *self;
        TrainSettings {
            steps: self.steps,
            learning_rate: self.learning_rate,
            warmup: self.warmup,
            cooldown: self.cooldown,
            adam: Adam { beta_1, beta_2, epsilon },
            weight_decay: self.weight_decay,
            max_norm: self.max_norm,
            ema_decay: self.ema_decay,
            ..TrainSettings::default()
        }
    }
}

/// A network that is compared: how its parts are named in PyTorch.
trait Compared: Module {
    /// Every parameter by PyTorch's name.
    fn named(&self) -> BTreeMap<String, Vec<f32>>;
}

/// The parameters of a module as a file has them.
fn saved<M: Module>(module: &M, keys: &KeyMap, prefix: &str) -> BTreeMap<String, Vec<f32>> {
    let file = tempfile::NamedTempFile::new().unwrap();
    save_weights(module, file.path(), keys, Precision::F32).unwrap();
    let weights = Weights::open(file.path()).unwrap();
    let read = |key: String| {
        let values = weights.read(&key).unwrap().unwrap();
        (format!("{prefix}{key}"), values)
    };
    weights.keys().into_iter().map(read).collect()
}

/// Puts gradients in the place of weights.
struct Gradients<'a>(&'a GradientsParams);

impl ModuleMapper for Gradients<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = self.0.get::<D>(param.id);
        param.map(|value| gradient.unwrap_or_else(|| value.zeros_like()))
    }
}

/// Sums with fixed weights, and the length, as the fixture's script has them.
fn signature(values: &[f32]) -> [f64; 4] {
    let mut sums = [0.0; 4];
    for (place, value) in values.iter().enumerate() {
        let (place, value) = (place as f64, f64::from(*value));
        sums[0] += value;
        sums[1] += value * (0.7 * place).cos();
        sums[2] += value * (1.3 * place).sin();
        sums[3] += value * value;
    }
    sums[3] = sums[3].sqrt();
    sums
}

/// Compares the signatures of all parameters with those of a fixture.
fn compare(
    fixture: &Fixture,
    (output, names): (&str, &[String]),
    found: &BTreeMap<String, Vec<f32>>,
    tolerance: f64,
) {
    let expected = fixture.doubles(&format!("output.{output}"));
    let sizes: Vec<usize> = names.iter().map(|name| found[name].len()).collect();
    let squares: f64 = expected.chunks(4).map(|signature| signature[3] * signature[3]).sum();
    let all = (squares / sizes.iter().sum::<usize>() as f64).sqrt();
    for ((name, expected), size) in names.iter().zip(expected.chunks(4)).zip(sizes) {
        let found = signature(&found[name]);
        let root = (size as f64).sqrt();
        let scale = (expected[3] / root).max(0.1 * all) * root;
        for (found, expected) in found.iter().zip(expected) {
            let error = (found - expected).abs() / scale;
            assert!(
                error < tolerance,
                "{output} of {name}: {found}, not {expected}: off by {error}"
            );
        }
    }
}

/// Compares a network's steps with those of a fixture.
fn check<M: Compared>(fixture: &Fixture, network: M, loss: impl Fn(&M, u64) -> Tensor<1>) {
    let config: Config = serde_json::from_str(&fixture.config()).unwrap();
    let names = config.parameters;
    let network = trainable(network);
    let training = network.clone().train();
    let first = Learned::of(&training, loss(&training, 0));
    let gradients = network.clone().map(&mut Gradients(&first.gradients)).named();
    compare(fixture, ("gradients", &names), &gradients, F32);

    let folder = tempfile::tempdir().unwrap();
    let settings = config.train.settings();
    let steps = settings.steps;
    let mut trainer =
        Trainer::new(network.clone(), settings, folder.path(), Changes::Refused).unwrap();
    let learn = |model: &M, step| Ok(Learned::of(model, loss(model, step)));
    let mut reports = Vec::new();
    let observer = |report: &StepReport, _: &Trainer<M>| {
        reports.push(*report);
        Ok(ControlFlow::Continue(()))
    };
    trainer.run(Duration::MAX, learn, observer).unwrap();
    let norm = fixture.doubles("output.norm")[0];
    assert!((reports[0].gradient_norm / norm - 1.0).abs() < F32, "{}", reports[0].gradient_norm);
    assert!(norm > 0.5, "the gradients of the first step are clipped");
    for (report, expected) in reports.iter().zip(fixture.doubles("output.losses")) {
        let error = (report.loss - expected).abs() / expected.max(0.01);
        assert!(error < 10.0 * F32, "step {}: {}, not {expected}", report.step, report.loss);
    }
    let path = folder.path().join(format!("step-{steps}/model.bpk"));
    let weights = network.try_load_file(path).unwrap();
    compare(fixture, ("weights", &names), &weights.named(), F32);
    compare(fixture, ("averages", &names), &trainer.average().named(), F32);
}

/// Reads a fixture's weights below a prefix.
fn load<M: Module>(module: M, fixture: &Fixture, prefix: &str, keys: &KeyMap) -> M {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), fixture.weights(prefix)).unwrap();
    load_weights(module, &Weights::open(file.path()).unwrap(), keys, &Device::flex()).unwrap()
}

/// The noise of a step, from the two that a fixture keeps.
fn noise<const D: usize, const E: usize>(fixture: &Fixture, step: u64) -> Tensor<D> {
    let both: Tensor<E> = fixture.tensor("input.noise");
    let own = |row: usize| both.clone().narrow(0, row, 1).squeeze_dim::<D>(0);
    let angle = step as f64;
    own(0) * angle.cos() + own(1) * angle.sin()
}

/// A clean batch under the noise of a step.
fn noised<const D: usize, const E: usize>(
    fixture: &Fixture,
    diffusion: &DiffusionConfig,
    (x_0, step): (Tensor<D>, u64),
) -> Noised<D> {
    let timesteps = fixture.counts("input.timesteps");
    let batch = x_0.dims()[0];
    let own = timesteps[step as usize * batch..][..batch].to_vec();
    let schedule = diffusion.training_schedule().unwrap();
    Noised::new(&schedule, x_0, noise::<D, E>(fixture, step), own)
}

fn text(fixture: &Fixture, [pooled, tokens]: [&str; 2]) -> TextEmbedding {
    TextEmbedding {
        pooled: fixture.tensor(&format!("input.{pooled}")),
        tokens: fixture.tensor(&format!("input.{tokens}")),
        mask: fixture.mask("input.attention_mask"),
    }
}

fn transformer(
    (d_model, n_heads, d_hidden): (usize, usize, usize),
    activation: Activation,
) -> TransformerConfig {
    TransformerConfig { d_model, n_layers: 1, n_heads, d_hidden, activation, norm_eps: 1e-5 }
}

impl Compared for ClipTowers {
    fn named(&self) -> BTreeMap<String, Vec<f32>> {
        let mut all = saved(&self.text, &TextEncoderConfig::KEYS, "text.");
        all.extend(saved(&self.image, &ImageEncoderConfig::KEYS, "image."));
        let scale = self.logit_scale.val().into_data().iter::<f32>().collect();
        all.insert("logit_scale".into(), scale);
        all
    }
}

impl Compared for DiffusionPrior {
    fn named(&self) -> BTreeMap<String, Vec<f32>> {
        saved(self, &DiffusionPriorConfig::KEYS, "")
    }
}

impl Compared for ArPrior {
    fn named(&self) -> BTreeMap<String, Vec<f32>> {
        saved(self, &ArPriorConfig::KEYS, "")
    }
}

impl Compared for Decoder {
    fn named(&self) -> BTreeMap<String, Vec<f32>> {
        saved(self, &DecoderConfig::KEYS, "")
    }
}

impl Compared for Upsampler {
    fn named(&self) -> BTreeMap<String, Vec<f32>> {
        saved(self, &UpsamplerConfig::KEYS, "")
    }
}

/// Captions of the ids of symbols, as the tokenizer of [`vocabulary`] reads them.
const SYMBOLS: &str = "!abcdefghijklmnopqrstuvwxyz0123456789#$%&()*+,-./:;<=>?@[]^_`{";

/// A tokenizer whose symbols are single characters.
fn vocabulary() -> Tokenizer {
    let mut vocab: serde_json::Map<String, serde_json::Value> =
        SYMBOLS.chars().enumerate().map(|(id, c)| (format!("{c}</w>"), id.into())).collect();
    vocab.remove("!</w>");
    vocab.extend([("!".into(), 0.into()), ("<|startoftext|>".into(), 62.into())]);
    vocab.insert("<|endoftext|>".into(), 63.into());
    let options = TokenizerOptions { context_length: 8, padding: Some(Padding::Exclamation) };
    let vocab = serde_json::to_vec(&vocab).unwrap();
    Tokenizer::from_bytes(Path::new("test"), &vocab, b"", options).unwrap()
}

#[test]
fn clip() {
    let fixture = Fixture::open("step_clip");
    let device = Device::flex();
    let text = TextEncoderConfig {
        vocab_size: 64,
        context_length: 8,
        d_embedding: 12,
        transformer: transformer((16, 2, 32), Activation::QuickGelu),
        ..recipe::text_encoder(0)
    };
    let image = ImageEncoderConfig {
        image_size: 8,
        patch_size: 4,
        d_embedding: 12,
        transformer: transformer((16, 2, 32), Activation::QuickGelu),
        ..recipe::image_encoder()
    };
    let fresh = ClipTowers::new(&text, &image, &device);
    let towers = ClipTowers {
        text: load(fresh.text, &fixture, "weights.text.", &TextEncoderConfig::KEYS),
        image: load(fresh.image, &fixture, "weights.image.", &ImageEncoderConfig::KEYS),
        logit_scale: fresh.logit_scale,
    };
    let symbol = |id: usize| SYMBOLS.chars().nth(id).unwrap();
    let captions = (0..4).map(|row| format!("{} {}", symbol(5 + row), symbol(17 - row)));
    let tokens = vocabulary().encode(&captions.collect::<Vec<_>>());
    let ids: Vec<usize> = (0..4).flat_map(|row| tokens.ids(row)).map(|id| *id as usize).collect();
    assert_eq!(ids, fixture.counts("input.input_ids"));
    let pixels: Tensor<4> = fixture.tensor("input.pixel_values");
    check(&fixture, towers, |towers, _| {
        let texts = towers.text.forward(&tokens, &device).pooled;
        let images = towers.image.forward(pixels.clone()).0;
        contrastive_loss(images, texts, towers.logit_scale.val())
    });
}

#[test]
fn prior() {
    let fixture = Fixture::open("step_prior");
    let config = DiffusionPriorConfig {
        d_embedding: 12,
        d_text: 12,
        context_length: 6,
        principal_components: false,
        transformer: transformer((16, 2, 64), Activation::Gelu),
        diffusion: DiffusionConfig::cosine(Parameterization::Sample),
        ..recipe::prior()
    };
    let fresh = config.init(&Device::flex());
    let prior = load(fresh, &fixture, "weights.", &DiffusionPriorConfig::KEYS);
    let image = ImageEmbedding(fixture.tensor("input.image"));
    let text = text(&fixture, ["proj_embedding", "encoder_hidden_states"]);
    let x_0 = config.sample_of(&prior, &image);
    check(&fixture, prior, |prior, step| {
        let noised = noised::<2, 3>(&fixture, &config.diffusion, (x_0.clone(), step));
        let schedule = config.diffusion.training_schedule().unwrap();
        training_loss(&config, prior, &text, &schedule, &noised, Weighting::Even).mean()
    });
}

#[test]
fn ar_prior() {
    let fixture = Fixture::open("step_ar_prior");
    let config = ArPriorConfig {
        d_embedding: 12,
        d_text: 10,
        context_length: 6,
        n_codes: 4,
        n_buckets: 8,
        n_similarities: 4,
        transformer: transformer((16, 2, 32), Activation::Gelu),
        ..recipe::ar_prior()
    };
    let fresh = config.init(&Device::flex());
    let prior = load(fresh, &fixture, "weights.", &ArPriorConfig::KEYS);
    let image = ImageEmbedding(fixture.tensor("input.image"));
    let text = text(&fixture, ["text", "tokens"]);
    check(&fixture, prior, |prior, _| {
        prior.loss(&text, &image, fixture.integers("input.unknown")).mean()
    });
}

#[test]
fn decoder() {
    let fixture = Fixture::open("step_decoder");
    let own = recipe::decoder().unet.adm().unwrap().clone();
    let unet = UNetConfig {
        image_size: 8,
        in_channels: 3,
        out_channels: 6,
        block_out_channels: vec![4, 8],
        num_res_blocks: 1,
        attention_resolutions: vec![4],
        d_head: 4,
        d_context: Some(8),
        norm_groups: 2,
        scale_shift: true,
        coordinates: false,
        patch_size: 1,
        d_time: None,
        ..own
    };
    let config = DecoderConfig {
        d_embedding: 12,
        d_text: Some(12),
        image_tokens: 4,
        whitened: false,
        layout: None,
        unet: unet.into(),
        diffusion: DiffusionConfig {
            variance: VarianceType::LearnedRange,
            ..DiffusionConfig::cosine(Parameterization::Epsilon)
        },
        ..recipe::decoder()
    };
    config.validate().unwrap();
    let decoder = load(config.init(&Device::flex()), &fixture, "weights.", &DecoderConfig::KEYS);
    let image = ImageEmbedding(fixture.tensor("input.image_embeds"));
    let text = text(&fixture, ["prompt_embeds", "text_hidden_states"]);
    let x_0: Tensor<4> = fixture.tensor("input.x_0");
    let kept = Tensor::from_floats([[1.0], [0.0]], &Device::flex());
    check(&fixture, decoder, |decoder, step| {
        let condition = Condition::new(decoder.drop_images(&image, kept.clone()), text.clone());
        let noised = noised::<4, 5>(&fixture, &config.diffusion, (x_0.clone(), step));
        let schedule = config.diffusion.training_schedule().unwrap();
        training_loss(&config, decoder, &condition, &schedule, &noised, Weighting::Even).mean()
    });
}

#[test]
fn upsampler() {
    let fixture = Fixture::open("step_upsampler");
    let own = recipe::upsamplers()[0].clone();
    let unet = UNetConfig {
        image_size: 8,
        in_channels: 6,
        out_channels: 3,
        block_out_channels: vec![6, 12],
        num_res_blocks: 1,
        attention_resolutions: vec![],
        d_head: 4,
        norm_groups: 3,
        scale_shift: false,
        coordinates: false,
        patch_size: 1,
        d_time: None,
        ..own.unet.adm().unwrap().clone()
    };
    let config = UpsamplerConfig {
        factor: 2,
        residual: false,
        unet: unet.into(),
        diffusion: DiffusionConfig::cosine(Parameterization::Sample),
        ..own
    };
    let low_res: Tensor<4> = fixture.tensor("input.low_res");
    let x_0: Tensor<4> = fixture.tensor("input.x_0");
    let fresh = config.init(&Device::flex());
    let upsampler = load(fresh, &fixture, "weights.", &UpsamplerConfig::KEYS);
    check(&fixture, upsampler, |upsampler, step| {
        let noised = noised::<4, 5>(&fixture, &config.diffusion, (x_0.clone(), step));
        let schedule = config.diffusion.training_schedule().unwrap();
        let low_res = low_res.clone().into();
        training_loss(&config, upsampler, &low_res, &schedule, &noised, Weighting::Even).mean()
    });
}

//! Comparisons with diffusers, and what binding keeps.

use burn::tensor::{Device, Tensor};
use unclip_core::loss::{Noised, training_loss};
use unclip_core::{
    ClassifierFree, Ddpm, DiffusionConfig, Network, Parameterization, Stage, TextEmbedding,
    Weighting,
};
use unclip_nn::checkpoint::{StageConfig, Weights, load_weights};
use unclip_nn::{Activation, TransformerConfig};
use unclip_prior::{DiffusionPrior, DiffusionPriorConfig};

use crate::fixture::{Fixture, assert_close, noise};

/// Both sides compute in f32, and sum in different orders.
const F32: f64 = 5e-6;

fn config() -> DiffusionPriorConfig {
    DiffusionPriorConfig {
        laion: None,
        d_embedding: 24,
        d_text: 24,
        context_length: 12,
        principal_components: false,
        transformer: TransformerConfig {
            d_model: 32,
            n_layers: 2,
            n_heads: 4,
            d_hidden: 128,
            activation: Activation::Gelu,
            norm_eps: 1e-5,
        },
        diffusion: DiffusionConfig {
            clamp: Some(10.0),
            sampler: Ddpm.into(),
            guidance_scale: 4.0,
            ..DiffusionConfig::cosine(Parameterization::Sample)
        },
    }
}

/// The fixture's prior, read through a file.
fn prior(fixture: &Fixture) -> DiffusionPrior {
    config().validate().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), fixture.weights("weights.")).unwrap();
    let weights = Weights::open(file.path()).unwrap();
    let device = Device::flex();
    load_weights(config().init(&device), &weights, &DiffusionPriorConfig::KEYS, &device).unwrap()
}

fn text(fixture: &Fixture) -> TextEmbedding {
    TextEmbedding {
        pooled: fixture.tensor("input.proj_embedding"),
        tokens: fixture.tensor("input.encoder_hidden_states"),
        mask: fixture.mask("input.attention_mask"),
    }
}

#[test]
fn network() {
    let fixture = Fixture::open("prior");
    let prior = prior(&fixture);
    let timesteps = fixture.integers("input.timestep").float();
    let x_t: Tensor<2> = fixture.tensor("input.hidden_states");
    let predicted = prior.bind(&text(&fixture)).forward(x_t, timesteps);
    assert_close("predicted", predicted.clone(), fixture.tensor("output.predicted"), F32);
    let restored = prior.restore(predicted.clone());
    assert_close("restored", restored.0.clone(), fixture.tensor("output.image_embedding"), F32);
    assert_close("whitened", prior.whiten(&restored), predicted, 1e-5);
}

#[test]
fn guidance_by_one_or_zero_is_one_of_both_captions() {
    let fixture = Fixture::open("prior");
    let prior = prior(&fixture);
    let timesteps: Tensor<1> = fixture.integers("input.timestep").float();
    let x_t: Tensor<2> = fixture.tensor("input.hidden_states");
    let given = text(&fixture);
    let null = given.narrow(2, 1).repeat_rows(3);
    for (scale, alone) in [(1.0, &given), (0.0, &null)] {
        let pair = ClassifierFree::new(config().bind_pair(&prior, &given, &null), vec![scale]);
        let got = pair.forward(x_t.clone(), timesteps.clone());
        let want = prior.bind(alone).forward(x_t.clone(), timesteps.clone());
        assert_close(&format!("scale {scale}"), got, want, 1e-5);
    }
}

#[test]
fn padding_is_not_looked_at() {
    let fixture = Fixture::open("prior");
    let prior = prior(&fixture);
    let timesteps: Tensor<1> = fixture.integers("input.timestep").float();
    let x_t: Tensor<2> = fixture.tensor("input.hidden_states");
    let text = text(&fixture);
    let shown = text.mask.clone().int().float().unsqueeze_dim::<3>(2).expand([3, 12, 24]);
    let other = noise([3, 12, 24], 1, &Device::flex());
    let tokens = text.tokens.clone() * shown.clone() + other * (shown * -1.0 + 1.0);
    let changed = TextEmbedding { tokens, ..text.clone() };
    let [got, want] =
        [&changed, &text].map(|text| prior.bind(text).forward(x_t.clone(), timesteps.clone()));
    assert_close("padding", got, want, 1e-6);
}

#[test]
fn the_loss_is_the_squared_error_in_whitened_space() {
    let fixture = Fixture::open("prior");
    let prior = prior(&fixture);
    let (config, device) = (config(), Device::flex());
    let schedule = config.diffusion.training_schedule().unwrap();
    let indices = vec![0, 400, 999];
    let image = prior.restore(noise([3, 24], 2, &device));
    let epsilon: Tensor<2> = noise([3, 24], 3, &device);
    let x_0 = prior.whiten(&image);
    let x_t = schedule.add_noise(x_0.clone(), epsilon.clone(), &indices);
    let timesteps = Tensor::from_floats([0.0, 400.0, 999.0], &device);
    let output = prior.bind(&text(&fixture)).forward(x_t, timesteps);
    let want = (output - x_0).powf_scalar(2.0).mean();
    let x_0 = config.sample_of(&prior, &image);
    let noised = Noised::new(&schedule, x_0, epsilon, indices);
    let text = text(&fixture);
    let loss = training_loss(&config, &prior, &text, &schedule, &noised, Weighting::Even);
    assert_close("loss", loss.mean(), want, 1e-6);
}

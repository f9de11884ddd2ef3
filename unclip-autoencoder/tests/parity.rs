//! Comparisons with diffusers.

use burn::tensor::{Device, Tensor};
use unclip_autoencoder::{Autoencoder, AutoencoderConfig, Latents, Tiling};
use unclip_nn::checkpoint::{StageFiles, Weights};

use crate::fixture::{Fixture, assert_close};

/// Both sides compute in f32, and sum in different orders.
const F32: f64 = 5e-6;

fn config(latents: Latents) -> AutoencoderConfig {
    AutoencoderConfig {
        image_size: 32,
        latent_channels: 4,
        block_out_channels: vec![4, 8, 8],
        num_res_blocks: 1,
        norm_groups: 2,
        attention: latents != Latents::Kl,
        scaling_factor: if latents == Latents::Kl { 0.18215 } else { 1.0 },
        latents,
    }
}

/// The fixture's autoencoder, read through a file as every stage is.
fn autoencoder(fixture: &Fixture, latents: Latents) -> Autoencoder {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), fixture.weights("weights.")).unwrap();
    let weights = Weights::open(file.path()).unwrap();
    let files = StageFiles::of(file.path(), config(latents), weights).unwrap();
    files.load(&Device::flex()).unwrap()
}

#[test]
fn latents_that_are_distributions() {
    let fixture = Fixture::open("kl");
    let autoencoder = autoencoder(&fixture, Latents::Kl);
    let encoded = autoencoder.encode(fixture.tensor("input.pictures"));
    assert_close("mean", encoded.mean.clone(), fixture.tensor("output.mean"), F32);
    let deviation = encoded.deviation.clone().unwrap();
    assert_close("deviation", deviation, fixture.tensor("output.deviation"), F32);
    let drawn = encoded.drawn(fixture.tensor("input.noise"));
    assert_close("drawn", drawn, fixture.tensor("output.drawn"), F32);
    let decoded = autoencoder.decode(fixture.tensor("input.latents"));
    assert_close("decoded", decoded, fixture.tensor("output.decoded"), F32);
    assert!(autoencoder.quantized(encoded.mean).is_none());
}

#[test]
fn tiles_fade_into_each_other() {
    let fixture = Fixture::open("kl");
    let autoencoder = autoencoder(&fixture, Latents::Kl);
    let tiling = Tiling::new(8).unwrap();
    let encoded = autoencoder.encode_tiled(fixture.tensor("input.large"), tiling).mean;
    assert_close("encoded", encoded, fixture.tensor("output.tiled_mean"), F32);
    let decoded = autoencoder.decode_tiled(fixture.tensor("input.large_latents"), tiling);
    assert_close("decoded", decoded, fixture.tensor("output.tiled_decoded"), F32);
    // what fits into a tile is not divided
    let small: Tensor<4> = fixture.tensor("input.latents");
    let tiled = autoencoder.decode_tiled(small, tiling);
    assert_close("one tile", tiled, fixture.tensor("output.decoded"), F32);
    for side in [0, 4, 9, 10, 8196, 1 << 62] {
        assert!(Tiling::new(side).is_err(), "{side}");
    }
}

fn codes(case: &str, d_code: usize, spatial_norm: bool) {
    let fixture = Fixture::open(case);
    let autoencoder = autoencoder(&fixture, Latents::Codes { n_codes: 24, d_code, spatial_norm });
    let encoded = autoencoder.encode(fixture.tensor("input.pictures"));
    assert!(encoded.deviation.is_none());
    assert_close("encoded", encoded.mean.clone(), fixture.tensor("output.encoded"), F32);
    let codebook = autoencoder.codebook().unwrap();
    let codes: Vec<i64> = codebook.codes(encoded.mean.clone()).into_data().iter().collect();
    let expected = fixture.integers::<3>("output.codes").into_data();
    assert_eq!(codes, expected.iter::<i64>().collect::<Vec<_>>());
    let quantized = autoencoder.quantized(encoded.mean).unwrap();
    assert_close("quantized", quantized, fixture.tensor("output.quantized"), F32);
    let decoded = autoencoder.decode(fixture.tensor("input.latents"));
    assert_close("decoded", decoded, fixture.tensor("output.decoded"), F32);
}

#[test]
fn latents_that_modulate_every_norm() {
    codes("movq", 4, true);
}

#[test]
fn latents_that_are_codes() {
    codes("vq", 3, false);
}

#[test]
fn sizes_that_do_not_go_together_name_their_field() {
    let refused = |change: fn(&mut AutoencoderConfig), field: &str| {
        let mut config = config(Latents::Kl);
        change(&mut config);
        assert_eq!(config.validate().unwrap_err().name, field);
    };
    refused(|c| c.block_out_channels = vec![], "block_out_channels");
    refused(|c| c.block_out_channels = vec![8; 9], "block_out_channels");
    refused(|c| c.block_out_channels[1] = 9, "block_out_channels");
    refused(|c| c.num_res_blocks = 0, "num_res_blocks");
    refused(|c| c.latent_channels = 0, "latent_channels");
    refused(|c| c.image_size = 30, "image_size");
    refused(|c| c.scaling_factor = 0.0, "scaling_factor");
    refused(|c| c.scaling_factor = f64::NAN, "scaling_factor");
    let codes = |d_code| Latents::Codes { n_codes: 24, d_code, spatial_norm: true };
    assert_eq!(config(codes(3)).validate().unwrap_err().name, "d_code");
    config(codes(4)).validate().unwrap();
}

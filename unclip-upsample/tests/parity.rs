//! Comparisons with diffusers and PyTorch.

use burn::tensor::{Device, Tensor};
use unclip_core::Network;
use unclip_core::resize::bicubic;
use unclip_nn::UNet;
use unclip_nn::checkpoint::{KeyMap, Weights, load_weights};
use unclip_upsample::Upsampler;
use unclip_upsample::degrade::gaussian_blur;

use crate::fixture::{Fixture, assert_close};
use crate::laws::config;

/// The fixture's U-Net, read through a file.
fn unet(fixture: &Fixture) -> UNet {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), fixture.weights("weights.")).unwrap();
    let weights = Weights::open(file.path()).unwrap();
    let device = Device::flex();
    load_weights(
        config().unet.adm().unwrap().init(&device),
        &weights,
        &KeyMap::NONE.then(UNet::NAMES),
        &device,
    )
    .unwrap()
}

#[test]
fn upsampler() {
    let fixture = Fixture::open("upsampler");
    let low_res: Tensor<4> = fixture.tensor("input.low_res");
    let x_t: Tensor<4> = fixture.tensor("input.sample");
    let timesteps: Tensor<1> = fixture.integers("input.timestep").float();
    let large: Tensor<4> = fixture.tensor("output.resized");
    assert_close("resized", bicubic(low_res.clone(), 8, 12), large.clone(), 1e-6);

    let unet = unet(&fixture);
    let call = |large: Tensor<4>| {
        let emb = unet.embed_time(timesteps.clone());
        unet.forward(Tensor::cat(vec![x_t.clone(), large], 1), emb, &[])
    };
    assert_close("sample", call(large), fixture.tensor("output.sample"), 1e-5);

    // a few of the fixture's small pixels lie outside [−1, 1], which only an upsampler clamps
    let upsampler = Upsampler::new(unet.clone(), None, 2);
    let got = upsampler.bind(&low_res.clone().into()).forward(x_t.clone(), timesteps.clone());
    assert_close("bound", got, call(bicubic(low_res.clamp(-1.0, 1.0), 8, 12)), 1e-6);
}

#[test]
fn blur() {
    let fixture = Fixture::open("blur");
    let got = gaussian_blur(fixture.tensor("input.image"), 3, 0.6);
    assert_close("blur", got, fixture.tensor("output.image"), 1e-6);
}

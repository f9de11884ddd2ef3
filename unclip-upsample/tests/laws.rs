//! What an upsampler does at any size, who takes its last step, and what blurring keeps.

use burn::tensor::{Device, Tensor};
use unclip_core::{
    ByStep, Ddpm, Denoiser, DiffusionConfig, Network, Parameterization, Prediction, Spacing, Stage,
    Steering, Step,
};
use unclip_nn::checkpoint::{StageFiles, save_stage};
use unclip_nn::{AttentionKind, Precision, ResampleKind, UNetConfig};
use unclip_upsample::degrade::gaussian_blur;
use unclip_upsample::{Resize, Upsampler, UpsamplerConfig};

use crate::fixture::{assert_close, noise};

/// The sizes of the fixture.
pub(crate) fn config() -> UpsamplerConfig {
    UpsamplerConfig {
        factor: 2,
        last_step_network: false,
        residual: false,
        resize: Resize::Bicubic,
        rounding: None,
        classes: None,
        d_text: None,
        kept: false,
        unet: UNetConfig {
            image_size: 8,
            in_channels: 6,
            out_channels: 3,
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
        .into(),
        diffusion: DiffusionConfig {
            sampler: Ddpm.into(),
            steps: 7,
            ..DiffusionConfig::cosine(Parameterization::Epsilon)
        },
    }
}

#[test]
fn pictures_of_any_size_are_enlarged() {
    let (config, device) = (config(), Device::flex());
    config.validate().unwrap();
    let upsampler = config.init(&device);
    for [height, width] in [[1, 1], [4, 4], [3, 7]] {
        let low_res: Tensor<4> = noise([1, 3, height, width], 1, &device);
        let low_res = low_res.into();
        let shape = config.sample_shape(&low_res);
        assert_eq!(shape, [1, 3, 2 * height, 2 * width]);
        let x_t: Tensor<4> = noise(shape, 2, &device);
        let output = upsampler.bind(&low_res).forward(x_t, Tensor::zeros([1], &device));
        assert_eq!(output.dims(), shape);
    }
}

/// Always answers the same number.
struct Answer(f32);

impl Denoiser<4> for Answer {
    fn denoise(&self, x_t: Tensor<4>, _: &Step) -> Prediction<4> {
        Prediction::new(x_t.full_like(self.0))
    }
}

#[test]
fn the_last_step_is_taken_by_the_second_network_alone() {
    let is_second = Box::new(|step: &Step| step.is_last());
    let both = ByStep { first: Answer(1.0), second: Answer(2.0), is_second };
    let schedule = config().diffusion.schedule(7, &Spacing::Even).unwrap();
    for step in schedule.reverse_steps() {
        let x_t = Tensor::zeros([1, 3, 2, 2], &Device::flex());
        let answer = both.denoise(x_t, &step).x_0.mean().into_scalar::<f32>();
        assert_eq!(answer, if step.index == 0 { 2.0 } else { 1.0 });
    }
}

#[test]
fn a_second_network_changes_the_last_step_and_no_other() {
    let device = Device::flex();
    let config = UpsamplerConfig { last_step_network: true, ..config() };
    let upsampler = config.init(&device);
    let low_res: Tensor<4> = noise([1, 3, 4, 4], 3, &device);
    let x_t: Tensor<4> = noise([1, 3, 8, 8], 4, &device);
    let low_res = low_res.into();
    let denoiser = config.denoiser(&upsampler, &low_res, Steering::default());
    let first = config.diffusion.denoiser(upsampler.bind(&low_res));
    for step in config.diffusion.schedule(7, &Spacing::Even).unwrap().reverse_steps() {
        let [got, plain] =
            [denoiser.denoise(x_t.clone(), &step), first.denoise(x_t.clone(), &step)];
        let difference = (got.x_0 - plain.x_0).abs().max().into_scalar::<f32>();
        assert_eq!(difference > 0.0, step.is_last(), "step {}", step.timestep);
    }
}

/// The same weights, asked for the whole picture and for what the resized one lacks.
#[test]
fn a_residual_answer_is_added_to_the_resized_picture() {
    let device = Device::flex();
    let diffusion =
        DiffusionConfig { parameterization: Parameterization::Sample, ..config().diffusion };
    let plain = UpsamplerConfig { diffusion, ..config() };
    let residual = UpsamplerConfig { residual: true, ..plain.clone() };
    [&plain, &residual].into_iter().for_each(|config| config.validate().unwrap());
    let low_res: Tensor<4> = noise([1, 3, 4, 4], 3, &device);
    let x_t: Tensor<4> = noise([1, 3, 8, 8], 4, &device);
    let whole = plain.init(&device);
    let folder = tempfile::tempdir().unwrap();
    save_stage(folder.path(), "", &residual, &whole, Precision::F32).unwrap();
    let added: Upsampler =
        StageFiles::<UpsamplerConfig>::open(folder.path()).unwrap().load(&device).unwrap();
    let answer = |upsampler: &Upsampler| {
        upsampler.bind(&low_res.clone().into()).forward(x_t.clone(), Tensor::zeros([1], &device))
    };
    let expected = answer(&whole) + whole.resize(low_res.clone());
    assert_close("residual", answer(&added), expected, 1e-6);
}

#[test]
fn only_a_predicted_sample_can_be_a_residual() {
    let config = UpsamplerConfig { residual: true, ..config() };
    let error = config.validate().unwrap_err();
    assert_eq!(error.name, "residual");
    assert!(error.to_string().contains("predicts the sample"), "{error}");
}

#[test]
fn blurring_keeps_constant_pictures() {
    let picture = Tensor::<4>::full([2, 3, 5, 7], 0.4, &Device::flex());
    for (kernel, sigma) in [(1, 0.6), (3, 0.6), (5, 2.0), (9, 1.0)] {
        let blurred = gaussian_blur(picture.clone(), kernel, sigma);
        assert_close(&format!("kernel {kernel}"), blurred, picture.clone(), 1e-6);
    }
    // a kernel of one pixel blurs nothing
    let picture: Tensor<4> = noise([2, 3, 5, 7], 5, &Device::flex());
    assert_close("kernel 1", gaussian_blur(picture.clone(), 1, 0.6), picture, 1e-6);
}

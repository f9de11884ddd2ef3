//! Comparisons with diffusers, and what binding keeps.
//!
//! diffusers puts the unconditional half of a guided batch first, this workspace last.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use unclip_core::loss::{Noised, hybrid_loss, training_loss};
use unclip_core::{
    ClassifierFree, Ddpm, DiffusionConfig, ImageEmbedding, Network, NoiseSchedule,
    Parameterization, Stage, TextEmbedding, VarianceType, Weighting,
};
use unclip_decoder::{
    CaptionKind, Condition, Conditioner, Decoder, DecoderConfig, LayoutConfig, Null,
};
use unclip_nn::checkpoint::{KeyMap, StageConfig, Weights, load_weights};
use unclip_nn::{AttentionKind, ResampleKind, UNet, UNetConfig, Whitening};

use crate::fixture::{Fixture, assert_close, noise};

/// Both sides compute in f32, and sum in different orders.
const F32: f64 = 5e-6;

/// The sizes of the fixtures; the U-Net of `text_proj` has twice the channels, but is not there.
fn config(model_channels: usize) -> DecoderConfig {
    DecoderConfig {
        d_embedding: 24,
        channels: 3,
        d_text: Some(24),
        image_tokens: 4,
        whitened: false,
        layout: None,
        captions: CaptionKind::default(),
        augmentation: None,
        control: None,
        unet: UNetConfig {
            image_size: 8,
            in_channels: 3,
            out_channels: 6,
            block_out_channels: vec![model_channels, 2 * model_channels],
            num_res_blocks: 1,
            attention_resolutions: vec![4],
            d_head: 4,
            d_context: Some(8),
            norm_groups: 2,
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
        diffusion: DiffusionConfig {
            variance: VarianceType::LearnedRange,
            sampler: Ddpm.into(),
            guidance_scale: 8.0,
            ..DiffusionConfig::cosine(Parameterization::Epsilon)
        },
    }
}

/// Reads the fixture's weights below a prefix into a module, through a file.
fn load<M: Module>(module: M, fixture: &Fixture, prefix: &str, keys: &KeyMap) -> M {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), fixture.weights(prefix)).unwrap();
    let weights = Weights::open(file.path()).unwrap();
    load_weights(module, &weights, keys, &Device::flex()).unwrap()
}

/// The two halves of a batch, exchanged.
fn exchanged<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let half = x.dims()[0] / 2;
    Tensor::cat(vec![x.clone().narrow(0, half, half), x.narrow(0, 0, half)], 0)
}

#[test]
fn conditioner() {
    let fixture = Fixture::open("text_proj");
    let conditioner = Conditioner::new(&config(8), &Device::flex());
    let conditioner = load(conditioner, &fixture, "weights.", &DecoderConfig::KEYS);
    let all = |batch: usize| Tensor::<2>::ones([batch, 6], &Device::flex()).equal_elem(1.0);
    let text = TextEmbedding {
        pooled: fixture.tensor("input.prompt_embeds"),
        tokens: fixture.tensor("input.text_hidden_states"),
        mask: all(2),
    };
    let empty = TextEmbedding {
        pooled: fixture.tensor("input.uncond_prompt_embeds"),
        tokens: fixture.tensor("input.uncond_text_hidden_states"),
        mask: all(1),
    };
    let image: Tensor<2> = fixture.tensor("input.image_embeds");
    let plain = Condition::new(ImageEmbedding(image.clone()), text.clone());
    let bound = conditioner.forward(&plain);
    assert_close("time", bound.emb.unwrap(), fixture.tensor("output.time"), F32);
    assert_close("context", bound.context.unwrap().tokens, fixture.tensor("output.context"), F32);

    let no_image = conditioner.null_image(2).unwrap().0;
    let guided = conditioner.forward(&Condition::new(
        ImageEmbedding(Tensor::cat(vec![image, no_image], 0)),
        TextEmbedding::cat(vec![text, empty.repeat_rows(2)]),
    ));
    let [time, context] = ["output.guided_time", "output.guided_context"];
    assert_close("guided time", exchanged(guided.emb.unwrap()), fixture.tensor(time), F32);
    let tokens = exchanged(guided.context.unwrap().tokens);
    assert_close("guided context", tokens, fixture.tensor(context), F32);
}

/// The fixture's decoder, with the condition and the null caption that it was given.
fn decoder(fixture: &Fixture) -> (Decoder, Condition, Null) {
    let (config, device) = (config(4), Device::flex());
    config.validate().unwrap();
    let conditioner = Conditioner::new(&config, &device);
    let conditioner = load(conditioner, fixture, "weights.text_proj.", &DecoderConfig::KEYS);
    let unet = load(
        config.unet.adm().unwrap().init(&device),
        fixture,
        "weights.decoder.",
        &KeyMap::NONE.then(UNet::NAMES),
    );
    let text = TextEmbedding {
        pooled: fixture.tensor("input.prompt_embeds"),
        tokens: fixture.tensor("input.text_hidden_states"),
        mask: fixture.mask("input.attention_mask"),
    };
    let condition = Condition::new(ImageEmbedding(fixture.tensor("input.image_embeds")), text);
    let null = TextEmbedding {
        pooled: fixture.tensor("input.uncond_prompt_embeds"),
        tokens: fixture.tensor("input.uncond_text_hidden_states"),
        mask: fixture.mask("input.uncond_attention_mask"),
    };
    (Decoder::new(conditioner, unet), condition, null.repeat_rows(2).into())
}

#[test]
fn guided_call() {
    let fixture = Fixture::open("decoder");
    let (decoder, condition, null) = decoder(&fixture);
    let x_t: Tensor<4> = fixture.tensor("input.sample");
    let timestep: Tensor<1> = fixture.integers("input.timestep").float();
    let both = decoder.bind_with_null(&condition, &null);
    let twice = Tensor::cat(vec![x_t.clone(); 2], 0);
    let raw = both.forward(twice, timestep.clone().expand([4]));
    assert_close("raw", exchanged(raw), fixture.tensor("output.raw"), 1e-5);
    let guided = ClassifierFree::new(config(8).bind_pair(&decoder, &condition, &null), vec![8.0])
        .forward(x_t, timestep.expand([2]));
    assert_close("guided", guided, fixture.tensor("output.guided"), 1e-5);
}

#[test]
fn guidance_by_one_is_the_condition_alone() {
    let fixture = Fixture::open("decoder");
    let (decoder, condition, null) = decoder(&fixture);
    let x_t: Tensor<4> = fixture.tensor("input.sample");
    let timesteps = Tensor::from_floats([3.0, 900.0], &Device::flex());
    let alone = decoder.bind(&condition).forward(x_t.clone(), timesteps.clone());
    let pair = ClassifierFree::new(config(8).bind_pair(&decoder, &condition, &null), vec![1.0]);
    assert_close("scale 1", pair.forward(x_t, timesteps), alone, 1e-5);
}

#[test]
fn dropped_images_are_the_learned_null() {
    let fixture = Fixture::open("decoder");
    let (decoder, ..) = decoder(&fixture);
    let device = Device::flex();
    let image = ImageEmbedding(noise([2, 24], 1, &device));
    let keep = Tensor::from_floats([[1.0], [0.0]], &device);
    let got = decoder.drop_images(&image, keep).0;
    assert_close("kept", got.clone().narrow(0, 0, 1), image.0.narrow(0, 0, 1), 1e-6);
    let key = "weights.text_proj.learned_classifier_free_guidance_embeddings";
    let file = fixture.weights(key);
    let null = safetensors::SafeTensors::deserialize(&file).unwrap();
    let null: Vec<f32> = null
        .tensor("")
        .unwrap()
        .data()
        .chunks(2)
        .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
        .collect();
    let null = Tensor::<1>::from_floats(null.as_slice(), &device).unsqueeze::<2>();
    assert_close("dropped", got.narrow(0, 1, 1), null, 1e-6);
}

/// A whitened decoder reads an embedding as a plain one of the same weights reads a whitened one,
/// and begins with the mean of all embeddings as no image.
#[test]
fn whitening_comes_before_everything_else() {
    let device = Device::flex();
    let plain = Conditioner::new(&config(4), &device);
    let d = config(4).d_embedding;
    let basis: Tensor<2> = noise([d, d], 1, &device);
    let mean: Tensor<2> = noise([1, d], 2, &device);
    let whitening = Whitening::new(mean.clone(), Tensor::full([1, d], 0.3, &device), Some(basis));
    let conditioner = plain.clone().with_whitening(whitening.clone());
    let text = TextEmbedding {
        pooled: noise([2, 24], 3, &device),
        tokens: noise([2, 5, 24], 4, &device),
        mask: Tensor::<2>::ones([2, 5], &device).equal_elem(1.0),
    };
    let image: Tensor<2> = noise([2, d], 5, &device);
    let condition = |image| Condition::new(ImageEmbedding(image), text.clone());
    let got = conditioner.forward(&condition(image.clone()));
    let expected = plain.forward(&condition(whitening.forward(image)));
    assert_close("emb", got.emb.unwrap(), expected.emb.unwrap(), 1e-6);
    assert_close("tokens", got.context.unwrap().tokens, expected.context.unwrap().tokens, 1e-6);
    assert_close("no image", conditioner.null_image(1).unwrap().0, mean, 1e-6);
}

/// Both embeddings change the layout, and each of its pixels is a square of equal ones.
#[test]
fn a_layout_is_joined_to_the_picture() {
    let device = Device::flex();
    let plain = config(4);
    let layout = Some(LayoutConfig { side: 4, channels: 2, d_hidden: 8 });
    let unet = UNetConfig { in_channels: 5, ..plain.unet.adm().unwrap().clone() };
    let config = DecoderConfig { layout, unet: unet.into(), ..plain };
    config.validate().unwrap();
    let conditioner = Conditioner::new(&config, &device);
    let d = config.d_embedding;
    let layout = |image: Tensor<2>, pooled: Tensor<2>| {
        let mask = Tensor::<2>::ones([2, 5], &device).equal_elem(1.0);
        let text = TextEmbedding { pooled, tokens: noise([2, 5, 24], 4, &device), mask };
        conditioner.forward(&Condition::new(ImageEmbedding(image), text)).layout.unwrap()
    };
    let (image, text): (Tensor<2>, Tensor<2>) =
        (noise([2, d], 5, &device), noise([2, d], 6, &device));
    let zero = image.zeros_like();
    let both = layout(image.clone(), text.clone());
    assert_eq!(both.dims(), [2, 2, 8, 8]);
    for other in [layout(image, zero.clone()), layout(zero, text)] {
        assert!((both.clone() - other).abs().max().into_scalar::<f32>() > 1e-3);
    }
    let corners = both.clone().slice([0..2, 0..2, 0..8, 0..8]).reshape([2, 2, 4, 2, 4, 2]);
    let spread = corners.clone().max_dim(3).max_dim(5) - corners.min_dim(3).min_dim(5);
    assert_eq!(spread.max().into_scalar::<f32>(), 0.0);
    let decoder = config.init(&device);
    let text = TextEmbedding {
        pooled: noise([2, 24], 3, &device),
        tokens: noise([2, 5, 24], 4, &device),
        mask: Tensor::<2>::ones([2, 5], &device).equal_elem(1.0),
    };
    let network = decoder.bind(&Condition::new(ImageEmbedding(noise([2, d], 5, &device)), text));
    let output = network.forward(noise([2, 3, 8, 8], 7, &device), Tensor::zeros([2], &device));
    assert_eq!(output.dims(), [2, 6, 8, 8]);
}

#[test]
fn layouts_that_do_not_fit_are_refused() {
    let refused = |side, channels, in_channels| {
        let unet = UNetConfig { in_channels, ..config(4).unet.adm().unwrap().clone() };
        let layout = Some(LayoutConfig { side, channels, d_hidden: 8 });
        DecoderConfig { layout, unet: unet.into(), ..config(4) }.validate().unwrap_err().name
    };
    assert_eq!(refused(3, 2, 5), "layout.side");
    assert_eq!(refused(16, 2, 5), "layout.side");
    assert_eq!(refused(0, 2, 5), "layout.side");
    assert_eq!(refused(4, 0, 3), "layout.channels");
    assert_eq!(refused(4, 2, 3), "unet.in_channels");
}

/// A batch of two under noise, one row hardly and one a lot.
fn noised(schedule: &NoiseSchedule) -> Noised<4> {
    let device = Device::flex();
    let x_0: Tensor<4> = noise::<4>([2, 3, 8, 8], 21, &device).clamp(-1.0, 1.0);
    Noised::new(schedule, x_0, noise([2, 3, 8, 8], 22, &device), vec![3, 900])
}

#[test]
fn the_loss_of_a_learned_variance_is_the_hybrid_one() {
    let fixture = Fixture::open("decoder");
    let (decoder, condition, _) = decoder(&fixture);
    let config = config(4);
    let schedule = config.diffusion.training_schedule().unwrap();
    let noised = noised(&schedule);
    let got = training_loss(&config, &decoder, &condition, &schedule, &noised, Weighting::Even);
    let timesteps = Tensor::from_floats([3.0, 900.0], &Device::flex());
    let output = decoder.bind(&condition).forward(noised.x_t.clone(), timesteps);
    let (simple, bound) = hybrid_loss(&schedule, Parameterization::Epsilon, &noised, output);
    let shares = bound.clone() / simple.clone();
    assert!(shares.min().into_scalar::<f32>() > 1e-4, "the bound counts");
    assert_close("hybrid", got, simple + bound, 1e-6);
}

#[test]
fn the_loss_of_a_fixed_variance_is_the_weighted_squared_error() {
    let config = config(4);
    let unet = UNetConfig { out_channels: 3, ..config.unet.adm().unwrap().clone() };
    let diffusion = DiffusionConfig::cosine(Parameterization::V);
    let config = DecoderConfig { unet: unet.into(), diffusion, ..config };
    config.validate().unwrap();
    let decoder = config.init(&Device::flex());
    let fixture = Fixture::open("decoder");
    let condition = self::decoder(&fixture).1;
    let schedule = config.diffusion.training_schedule().unwrap();
    let noised = noised(&schedule);
    let got =
        training_loss(&config, &decoder, &condition, &schedule, &noised, Weighting::MaxSnr(5.0));
    let timesteps = Tensor::from_floats([3.0, 900.0], &Device::flex());
    let output = decoder.bind(&condition).forward(noised.x_t.clone(), timesteps);
    let error = (output - noised.target(&schedule, Parameterization::V)).powf_scalar(2.0);
    let error: Tensor<1> = error.reshape([2, 192]).mean_dim(1).reshape([2]);
    // v costs SNR + 1; the nearly clean row counts as one of SNR 5 does
    let snr = |index: usize| {
        let alpha_bar = schedule.alpha_bars()[index];
        alpha_bar / (1.0 - alpha_bar)
    };
    let weights = Tensor::from_floats([(6.0 / (snr(3) + 1.0)) as f32, 1.0], &Device::flex());
    assert_close("weighted", got, error * weights, 1e-5);
}

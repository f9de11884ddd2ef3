//! One call of each stage of the bundled model, and one training step of it:
//! `cargo bench --features train --bench stages`.
//!
//! The device is named by `UNCLIP_DEVICE` (default `flex`). Calls have the batch of one guided
//! picture, training steps that of the model's recipe; `time_calls` does the same for any model.

mod setup;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::Tensor;
use divan::Bencher;
use unclip::Bundle;
use unclip::decoder::{self, Condition};
use unclip::prior;
use unclip::train::recipe;
use unclip::unclip_core::{ImageEmbedding, Network, TextEmbedding};
use unclip::upsample;

use setup::{device, measure, random, wait};

fn main() {
    setup::main();
}

#[divan::bench(args = [1, 2])]
fn prior_call(bencher: Bencher, batch: usize) {
    let files = bundle().prior.expect("it has one");
    let network = files.load(&device()).expect("it is whole");
    let bound = network.bind(&text(batch));
    call(bencher, &bound, [batch, files.manifest.config.d_embedding]);
}

#[divan::bench(args = [1, 2])]
fn decoder_call(bencher: Bencher, batch: usize) {
    let files = bundle().decoder;
    let network = files.load(&device()).expect("it is whole");
    let side = files.manifest.config.unet.image_size;
    call(bencher, &network.bind(&condition(batch)), [batch, 3, side, side]);
}

#[divan::bench(args = [0, 1])]
fn upsampler_call(bencher: Bencher, place: usize) {
    let files = bundle().upsamplers.swap_remove(place);
    let network = files.load(&device()).expect("it is whole");
    let low = (recipe::DECODER_SIDE as usize) << (2 * place);
    let bound = network.bind(random([1, 3, low, low]).clamp(-1.0, 1.0));
    call(bencher, &bound, [1, 3, 4 * low, 4 * low]);
}

#[divan::bench]
fn prior_training(bencher: Bencher) {
    let config = recipe::prior();
    let batch = recipe::prior_training(1, 0).batch;
    let schedule = config.diffusion.training_schedule().expect("it has one");
    let made = prior::train::TrainingBatch {
        image: ImageEmbedding(random([batch, config.d_embedding])),
        text: text(batch),
        epsilon: random([batch, config.d_embedding]),
        indices: indices(batch, schedule.len()),
    };
    let loss = |m: &_| prior::train::loss(m, &config, &schedule, made.clone());
    train(bencher, config.init(&device()), loss);
}

#[divan::bench]
fn decoder_training(bencher: Bencher) {
    let config = recipe::decoder();
    let batch = recipe::decoder_training(1, 0).batch;
    let schedule = config.diffusion.training_schedule().expect("it has one");
    let shape = [batch, 3, config.unet.image_size, config.unet.image_size];
    let made = decoder::train::TrainingBatch {
        images: random(shape).clamp(-1.0, 1.0),
        condition: condition(batch),
        keep_image: Tensor::ones([batch, 1], &device()),
        epsilon: random(shape),
        indices: indices(batch, schedule.len()),
        max_snr: f64::INFINITY,
    };
    let loss = |m: &_| decoder::train::loss(m, &config, &schedule, made.clone());
    train(bencher, config.init(&device()), loss);
}

#[divan::bench(args = [0, 1])]
fn upsampler_training(bencher: Bencher, place: usize) {
    let config = &recipe::upsamplers()[place];
    let batch = recipe::upsampler_training(1, 0).batch;
    let schedule = config.diffusion.training_schedule().expect("it has one");
    let (low, high) = (recipe::LOW_CROP as usize, recipe::LOW_CROP as usize * config.factor);
    let made = upsample::train::TrainingBatch {
        images: random([batch, 3, high, high]).clamp(-1.0, 1.0),
        low_res: random([batch, 3, low, low]).clamp(-1.0, 1.0),
        epsilon: random([batch, 3, high, high]),
        indices: indices(batch, schedule.len()),
    };
    let loss = |m: &_| upsample::train::loss(m, config, &schedule, made.clone());
    train(bencher, config.init(&device()), loss);
}

fn bundle() -> Bundle {
    Bundle::shapes().expect("it is part of the program")
}

/// Captions that fill all tokens.
fn text(batch: usize) -> TextEmbedding {
    let config = bundle().text_encoder.manifest.config;
    TextEmbedding {
        pooled: random([batch, config.d_embedding]),
        tokens: random([batch, config.context_length, config.transformer.d_model]),
        mask: random([batch, config.context_length]).abs().greater_equal_elem(0.0),
    }
}

fn condition(batch: usize) -> Condition {
    let text = text(batch);
    Condition { image: ImageEmbedding(random(text.pooled.dims())), text }
}

fn indices(batch: usize, steps: usize) -> Vec<usize> {
    (0..batch).map(|row| row * steps / batch).collect()
}

fn call<const D: usize>(bencher: Bencher, network: &impl Network<D>, shape: [usize; D]) {
    let x_t = random(shape);
    let timesteps = random([shape[0]]) * 0.0 + 500.0;
    measure(bencher, || wait(network.forward(x_t.clone(), timesteps.clone())));
}

/// Forward, backward and AdamW.
fn train<M: Module>(bencher: Bencher, model: M, loss: impl Fn(&M) -> Tensor<1>) {
    let mut optimizer = AdamWConfig::new().init();
    let mut model = Some(model.train());
    measure(bencher, || {
        let old = model.take().expect("each step gives it back");
        let value = loss(&old);
        let gradients = GradientsParams::from_grads(value.backward(), &old);
        model = Some(optimizer.step(1e-4, old, gradients));
        wait(value.inner())
    });
}

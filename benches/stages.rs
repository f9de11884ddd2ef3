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
use unclip::decoder::Condition;
use unclip::train::plan::Preset;
use unclip::train::{TrainStage, recipe};
use unclip::unclip_core::loss::{Noised, training_loss};
use unclip::unclip_core::{ImageEmbedding, Network, Stage, TextEmbedding, Weighting};
use unclip::unclip_nn::checkpoint::StageConfig;

use setup::{device, measure, random, wait};

fn main() {
    setup::main();
}

#[divan::bench(args = [1, 2])]
fn prior_call(bencher: Bencher, batch: usize) {
    let slot = bundle().prior.expect("it has one");
    let network = slot.load(&device()).expect("it is whole");
    let bound = network.bind(&text(batch));
    call(bencher, &bound, [batch, slot.config().d_embedding]);
}

#[divan::bench(args = [1, 2])]
fn decoder_call(bencher: Bencher, batch: usize) {
    let slot = bundle().decoder;
    let network = slot.load(&device()).expect("it is whole");
    let side = slot.config().unet.image_size();
    call(bencher, &network.bind(&condition(batch)), [batch, 3, side, side]);
}

#[divan::bench(args = [0, 1])]
fn upsampler_call(bencher: Bencher, place: usize) {
    let slot = bundle().upsamplers.swap_remove(place);
    let network = slot.load(&device()).expect("it is whole");
    let low = (recipe::DECODER_SIDE as usize) << (2 * place);
    let bound = network.bind(&random([1, 3, low, low]).clamp(-1.0, 1.0).into());
    call(bencher, &bound, [1, 3, 4 * low, 4 * low]);
}

#[divan::bench]
fn prior_training(bencher: Bencher) {
    let config = recipe::prior();
    let batch = batch_of(TrainStage::Prior);
    train(bencher, &config, random([batch, config.d_embedding]), text(batch));
}

#[divan::bench]
fn decoder_training(bencher: Bencher) {
    let config = recipe::decoder();
    let batch = batch_of(TrainStage::Decoder);
    let side = config.unet.image_size();
    train(bencher, &config, random([batch, 3, side, side]).clamp(-1.0, 1.0), condition(batch));
}

#[divan::bench(args = [0, 1])]
fn upsampler_training(bencher: Bencher, place: usize) {
    let config = &recipe::upsamplers()[place];
    let batch = batch_of(TrainStage::Upsampler(0));
    let (low, high) = (recipe::LOW_CROP as usize, recipe::LOW_CROP as usize * config.factor);
    let pictures = |side: usize| random([batch, 3, side, side]).clamp(-1.0, 1.0);
    train(bencher, config, pictures(high), pictures(low).into());
}

/// Items of a step of the bundled model's training.
fn batch_of(stage: TrainStage) -> usize {
    Preset::Shapes.plan().settings(stage).expect("it has the stage").batch
}

fn bundle() -> Bundle {
    Bundle::shapes().expect("it is part of the program")
}

/// Captions that fill all tokens.
fn text(batch: usize) -> TextEmbedding {
    let bundle = bundle();
    let config = bundle.text().expect("the shapes model reads captions").encoder.config();
    TextEmbedding {
        pooled: random([batch, config.d_embedding]),
        tokens: random([batch, config.context_length, config.transformer.d_model]),
        mask: random([batch, config.context_length]).abs().greater_equal_elem(0.0),
    }
}

fn condition(batch: usize) -> Condition {
    let text = text(batch);
    Condition::new(ImageEmbedding(random(text.pooled.dims())), text)
}

fn call<const D: usize>(bencher: Bencher, network: &impl Network<D>, shape: [usize; D]) {
    let x_t = random(shape);
    let timesteps = random([shape[0]]) * 0.0 + 500.0;
    measure(bencher, || wait(network.forward(x_t.clone(), timesteps.clone())));
}

/// Forward, backward and AdamW, on levels of noise that are evenly spread.
fn train<T, const D: usize>(bencher: Bencher, config: &T, x_0: Tensor<D>, condition: T::Condition)
where
    T: StageConfig + Stage<D, Network = <T as StageConfig>::Network>,
{
    let schedule = config.diffusion().training_schedule().expect("it has one");
    let (batch, epsilon) = (x_0.dims()[0], random(x_0.dims()));
    let indices = (0..batch).map(|row| row * schedule.len() / batch).collect();
    let noised = Noised::new(&schedule, x_0, epsilon, indices);
    let mut optimizer = AdamWConfig::new().init();
    let mut model = Some(config.init(&device()).train());
    measure(bencher, || {
        let old = model.take().expect("each step gives it back");
        let loss = training_loss(config, &old, &condition, &schedule, &noised, Weighting::Even);
        let loss = loss.mean();
        let gradients = GradientsParams::from_grads(loss.backward(), &old);
        model = Some(optimizer.step(1e-4, old, gradients));
        wait(loss.inner())
    });
}

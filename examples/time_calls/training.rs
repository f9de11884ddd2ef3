//! Training steps as calls, by the trainer that trains the bundled model: forward, backward, the
//! norm of all gradients and clipping by it, AdamW, and the averaged weights.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::Tensor;
use unclip::train::{StepReport, TrainSettings, Trainer};
use unclip::unclip_nn::checkpoint::{StageConfig, StageFiles};
use unclip::{Bundle, decoder, prior, upsample};

use crate::{
    AnyError, Arguments, Inputs, answer_call, answer_loading, low_side, place, wait_for_line,
};

/// Answers every line by a training step of the stage, on the same random batch.
pub(crate) fn run(arguments: &Arguments, bundle: &Bundle) -> Result<(), AnyError> {
    // on a thread of the pool, as `train_shapes` trains
    let run = || match arguments.stage.as_str() {
        "prior" => prior_steps(arguments, bundle),
        "decoder" => decoder_steps(arguments, bundle),
        stage => upsampler_steps(arguments, bundle, stage),
    };
    let (result, ()) = rayon::join(|| run().map_err(|error| error.to_string()), || ());
    Ok(result?)
}

fn prior_steps(arguments: &Arguments, bundle: &Bundle) -> Result<(), AnyError> {
    let files = bundle.prior()?;
    let config = &files.manifest.config;
    let network = fresh(files, arguments)?;
    let mut inputs = Inputs::new(arguments)?;
    let schedule = config.diffusion.training_schedule()?;
    let shape = [arguments.batch, config.d_embedding];
    let batch = prior::train::TrainingBatch {
        image: unclip::unclip_core::ImageEmbedding(inputs.normal(shape)),
        text: inputs.text(config.d_embedding, config.context_length, config.d_text),
        epsilon: inputs.normal(shape),
        indices: indices(arguments.batch, schedule.len()),
    };
    answer_steps(network, arguments.batch, |m| {
        prior::train::loss(m, config, &schedule, batch.clone())
    })
}

fn decoder_steps(arguments: &Arguments, bundle: &Bundle) -> Result<(), AnyError> {
    let files = &bundle.decoder;
    let config = &files.manifest.config;
    let network = fresh(files, arguments)?;
    let mut inputs = Inputs::new(arguments)?;
    let schedule = config.diffusion.training_schedule()?;
    let side = arguments.side.unwrap_or(config.unet.image_size);
    let images = inputs.pictures(side);
    let batch = decoder::train::TrainingBatch {
        condition: inputs.condition(bundle),
        keep_image: inputs.normal([arguments.batch, 1]) * 0.0 + 1.0,
        epsilon: inputs.normal(images.dims()),
        indices: indices(arguments.batch, schedule.len()),
        images,
        max_snr: f64::INFINITY,
    };
    answer_steps(network, arguments.batch, |m| {
        decoder::train::loss(m, config, &schedule, batch.clone())
    })
}

fn upsampler_steps(arguments: &Arguments, bundle: &Bundle, stage: &str) -> Result<(), AnyError> {
    let place = place(bundle, stage)?;
    let files = &bundle.upsamplers[place];
    let config = &files.manifest.config;
    let network = fresh(files, arguments)?;
    let mut inputs = Inputs::new(arguments)?;
    let schedule = config.diffusion.training_schedule()?;
    let low_side = low_side(arguments, bundle, place);
    let images = inputs.pictures(low_side * config.factor);
    let batch = upsample::train::TrainingBatch {
        low_res: inputs.pictures(low_side),
        epsilon: inputs.normal(images.dims()),
        indices: indices(arguments.batch, schedule.len()),
        images,
    };
    answer_steps(network, arguments.batch, |m| {
        upsample::train::loss(m, config, &schedule, batch.clone())
    })
}

/// The stage's network with fresh weights: those that are loaded are frozen.
fn fresh<T: StageConfig>(
    files: &StageFiles<T>,
    arguments: &Arguments,
) -> Result<T::Network, AnyError> {
    let start = Instant::now();
    let network = files.manifest.config.init(&unclip::device(&arguments.device)?);
    answer_loading(start.elapsed(), Duration::ZERO, Some(network.num_params()))?;
    Ok(network)
}

/// Takes one training step for each line on standard input: the trainer waits in its observer,
/// after each step's answer, for the next line.
fn answer_steps<M: Module>(
    network: M,
    batch: usize,
    loss: impl Fn(&M) -> Tensor<1>,
) -> Result<(), AnyError> {
    if !wait_for_line()? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut trainer = Trainer::new(network, settings(batch), folder.path())?;
    let mut failed = None;
    let observe =
        |report: &StepReport| match answer_call(report.seconds).and_then(|()| wait_for_line()) {
            Ok(true) => ControlFlow::Continue(()),
            Ok(false) => ControlFlow::Break(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        };
    trainer.run(Duration::MAX, |network, _| loss(network), observe)?;
    failed.map_or(Ok(()), Err)
}

/// More steps than anybody waits for; the rest are those of the bundled model.
fn settings(batch: usize) -> TrainSettings {
    TrainSettings {
        steps: 1 << 40,
        batch,
        learning_rate: 1e-4,
        warmup: 1,
        cooldown: 0,
        weight_decay: 0.01,
        max_norm: 1.0,
        ema_decay: 0.995,
        seed: 0,
        rests_on: String::new(),
    }
}

/// Places in the training schedule, evenly spread.
fn indices(batch: usize, steps: usize) -> Vec<usize> {
    (0..batch).map(|row| row * steps / batch).collect()
}

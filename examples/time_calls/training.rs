//! Training steps as calls, with the trainer that trains the bundled model: forward, backward, the
//! norm of all gradients and clipping by it, AdamW, and the averaged weights.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::Tensor;
use unclip::train::{Changes, Learned, StepReport, TrainSettings, Trainer};
use unclip::unclip_core::loss::{Noised, training_loss};
use unclip::unclip_core::{Stage, Weighting};
use unclip::unclip_nn::checkpoint::StageConfig;
use unclip::{Bundle, Slot};

use crate::{
    AnyError, Arguments, Inputs, answer_call, answer_loading, low_side, place, wait_for_line,
};

/// Answers every line by a training step of the stage, on the same random batch.
pub(crate) fn run(arguments: &Arguments, bundle: &Bundle) -> Result<(), AnyError> {
    // on a thread of the pool, as `train` trains
    let run = || match arguments.stage.as_str() {
        "prior" => prior_steps(arguments, bundle),
        "decoder" => decoder_steps(arguments, bundle),
        stage @ ("autoencoder" | "picture") => {
            Err(format!("--train: expected prior, decoder or an upsampler, not {stage}").into())
        }
        stage => upsampler_steps(arguments, bundle, stage),
    };
    let (result, ()) = rayon::join(|| run().map_err(|error| error.to_string()), || ());
    Ok(result?)
}

fn prior_steps(arguments: &Arguments, bundle: &Bundle) -> Result<(), AnyError> {
    let slot = bundle.prior()?;
    let config = slot.config();
    let mut inputs = Inputs::new(arguments)?;
    let text = inputs.text([config.d_embedding, config.context_length, config.d_text]);
    let x_0 = inputs.normal([arguments.batch, config.d_embedding]);
    answer_steps(slot, arguments, inputs, x_0, text)
}

fn decoder_steps(arguments: &Arguments, bundle: &Bundle) -> Result<(), AnyError> {
    let slot = &bundle.decoder;
    let mut inputs = Inputs::new(arguments)?;
    if slot.config().channels != 3 {
        return Err("--train: expected a decoder that makes pictures".into());
    }
    let side = arguments.side.unwrap_or(slot.config().unet.image_size());
    let x_0 = inputs.pictures(side);
    let condition = inputs.condition(bundle, side);
    answer_steps(slot, arguments, inputs, x_0, condition?)
}

fn upsampler_steps(arguments: &Arguments, bundle: &Bundle, stage: &str) -> Result<(), AnyError> {
    let place = place(bundle, stage)?;
    let slot = &bundle.upsamplers[place];
    let mut inputs = Inputs::new(arguments)?;
    let low_side = low_side(arguments, bundle, place);
    let x_0 = inputs.pictures(low_side * slot.config().factor);
    let low_res = inputs.low_res(bundle, place, low_side);
    answer_steps(slot, arguments, inputs, x_0, low_res)
}

/// Takes a training step of fresh weights for each line on standard input, always on the same
/// batch; loaded weights would be frozen. The trainer waits in its observer, after each step's
/// answer, for the next line.
fn answer_steps<T, const D: usize>(
    slot: &Slot<T>,
    arguments: &Arguments,
    mut inputs: Inputs,
    x_0: Tensor<D>,
    condition: T::Condition,
) -> Result<(), AnyError>
where
    T: StageConfig + Stage<D, Network = <T as StageConfig>::Network>,
{
    let (config, batch) = (slot.config(), arguments.batch);
    let start = Instant::now();
    let network = config.init(&unclip::device(&arguments.device)?);
    answer_loading(start.elapsed(), Duration::ZERO, Some(network.num_params()))?;
    let schedule = config.diffusion().training_schedule()?;
    let epsilon = inputs.normal(x_0.dims());
    // places in the training schedule, evenly spread
    let indices = (0..batch).map(|row| row * schedule.len() / batch).collect();
    let noised = Noised::new(&schedule, x_0, epsilon, indices);
    let loss = |network: &<T as StageConfig>::Network| {
        training_loss(config, network, &condition, &schedule, &noised, Weighting::Even).mean()
    };
    if !wait_for_line()? {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let mut trainer = Trainer::new(network, settings(batch), folder.path(), Changes::Refused)?;
    let mut failed = None;
    let observe = |report: &StepReport, _: &_| {
        Ok(match answer_call(report.seconds).and_then(|()| wait_for_line()) {
            Ok(true) => ControlFlow::Continue(()),
            Ok(false) => ControlFlow::Break(()),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })
    };
    let learn = |network: &_, _| Ok(Learned::of(network, loss(network)));
    trainer.run(Duration::MAX, learn, observe)?;
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
        ..TrainSettings::default()
    }
}

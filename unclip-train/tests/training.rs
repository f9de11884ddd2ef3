//! A line is fitted: small enough to compare runs number by number.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use unclip_core::{InvalidSetting, VarianceType, Weighting};
use unclip_nn::UNetConfig;
use unclip_shapes::ShapesWorld;
use unclip_train::Draws;
use unclip_train::objective::{ClipTowers, Objective, Source, UpsamplerObjective};
use unclip_train::{
    Adam, Changes, Degradation, Learned, Schedule, StepReport, TrainError, TrainSettings, Trainer,
    recipe, update_average,
};
use unclip_upsample::UpsamplerConfig;

const NEVER: Duration = Duration::from_secs(3600);

fn settings(steps: u64) -> TrainSettings {
    TrainSettings {
        steps,
        batch: 8,
        learning_rate: 0.05,
        warmup: 3,
        cooldown: steps / 2,
        weight_decay: 0.1,
        max_norm: 1.0,
        ema_decay: 0.9,
        seed: 5,
        ..TrainSettings::default()
    }
}

fn line() -> Linear {
    let device = Device::flex();
    device.seed(1);
    let line = LinearConfig::new(2, 1).init(&device);
    // drawn now, so that every run starts from the same weights
    line.weight.val();
    line
}

/// y = x_0 − 2·x_1, from draws that depend on the step alone.
fn loss(model: &Linear, step: u64) -> Tensor<1> {
    let x = Tensor::<2>::from_data(Draws::new(9, step).normal([8, 2]), &Device::flex());
    let y = x.clone().matmul(Tensor::from_floats([[1.0], [-2.0]], &Device::flex()));
    let error = model.forward(x) - y;
    (error.clone() * error).mean()
}

fn run(trainer: &mut Trainer<Linear>, stop_after: u64) -> Vec<StepReport> {
    let mut reports = Vec::new();
    let observer = |report: &StepReport, _: &Trainer<Linear>| {
        reports.push(StepReport { seconds: 0.0, ..*report });
        Ok(if report.step >= stop_after {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    };
    let learn = |model: &Linear, step| Ok(Learned::of(model, loss(model, step)));
    trainer.run(NEVER, learn, observer).unwrap();
    reports
}

fn weights(model: &Linear) -> Vec<f32> {
    model.weight.val().into_data().iter::<f32>().collect()
}

#[test]
fn the_line_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = Trainer::new(line(), settings(400), folder.path(), Changes::Refused).unwrap();
    let reports = run(&mut trainer, u64::MAX);
    assert_eq!(trainer.step(), 400);
    assert!(reports[399].loss < 1e-3, "{}", reports[399].loss);
    let found = weights(trainer.average());
    assert!((found[0] - 1.0).abs() < 0.05 && (found[1] + 2.0).abs() < 0.05, "{found:?}");
}

#[test]
fn an_interrupted_run_goes_on_as_if_nothing_had_happened() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let start = line();
    let mut whole =
        Trainer::new(start.clone(), settings(20), folders[0].path(), Changes::Refused).unwrap();
    let expected = run(&mut whole, u64::MAX);
    let mut reports = Vec::new();
    for stop in [1, 7, 8, 20] {
        let mut trainer =
            Trainer::new(start.clone(), settings(20), folders[1].path(), Changes::Refused).unwrap();
        reports.extend(run(&mut trainer, stop));
        if stop == 20 {
            assert_eq!(weights(trainer.average()), weights(whole.average()));
        }
    }
    assert_eq!(reports, expected);
}

#[test]
fn other_settings_are_refused_and_more_steps_are_not() {
    let folder = tempfile::tempdir().unwrap();
    run(&mut Trainer::new(line(), settings(3), folder.path(), Changes::Refused).unwrap(), u64::MAX);
    let other = TrainSettings { learning_rate: 0.01, ..settings(3) };
    let error = Trainer::new(line(), other.clone(), folder.path(), Changes::Refused).err().unwrap();
    let error = error.to_string();
    assert!(error.contains("other settings: learning_rate was 0.05, is 0.01;"), "{error}");
    let accepted = Trainer::new(line(), other, folder.path(), Changes::Accepted).unwrap();
    assert_eq!(accepted.step(), 3);
    let mut longer = Trainer::new(line(), settings(5), folder.path(), Changes::Refused).unwrap();
    // from step 2, where the learning rate had begun to fall
    assert_eq!(run(&mut longer, u64::MAX).len(), 3);
    let error = Trainer::new(line(), settings(4), folder.path(), Changes::Refused)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("is at step 5, beyond the 4 that are asked for"), "{error}");
    let other = TrainSettings { rests_on: "another CLIP".into(), ..settings(5) };
    let error = Trainer::new(line(), other, folder.path(), Changes::Accepted).err().unwrap();
    let error = error.to_string();
    let expected = "made with nothing else, and what is given is another CLIP";
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_step_that_is_not_finite_is_skipped_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = Trainer::new(line(), settings(3), folder.path(), Changes::Refused).unwrap();
    let before = weights(trainer.average());
    let spoilt = |model: &Linear, step: u64| match step {
        0 => Ok(Learned::of(model, loss(model, step) * f64::NAN)),
        _ => Ok(Learned::of(model, loss(model, step))),
    };
    let mut skipped = Vec::new();
    let stop = |report: &StepReport, _: &Trainer<Linear>| match report.step {
        1 => Ok(ControlFlow::Break(())),
        _ => Ok(ControlFlow::Continue(())),
    };
    trainer.run(NEVER, spoilt, stop).unwrap();
    assert_eq!(weights(trainer.average()), before, "the step is skipped");
    let observer = |report: &StepReport, _: &Trainer<Linear>| {
        skipped.push(report.skipped);
        Ok(ControlFlow::Continue(()))
    };
    trainer.run(NEVER, spoilt, observer).unwrap();
    assert_eq!(skipped, [1, 1]);
    let after = weights(trainer.average());
    assert!(after.iter().all(|w| w.is_finite()) && after != before);
}

#[test]
fn a_run_that_diverges_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer =
        Trainer::new(line(), settings(1000), folder.path(), Changes::Refused).unwrap();
    let spoilt = |model: &Linear, step| Ok(Learned::of(model, loss(model, step) * f64::NAN));
    let error = trainer.run(NEVER, spoilt, |_, _| Ok(ControlFlow::Continue(()))).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { checkpoint: None, .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("of the last 51 steps") && message.contains("start again"),
        "{message}"
    );
}

/// Losses that are not finite from this step on.
fn spoilt_from(first: u64) -> impl Fn(&Linear, u64) -> Result<Learned, TrainError> {
    move |model, step| {
        let factor = if step < first { 1.0 } else { f64::NAN };
        Ok(Learned::of(model, loss(model, step) * factor))
    }
}

#[test]
fn a_run_that_diverges_goes_on_from_before_with_a_lower_learning_rate() {
    let folder = tempfile::tempdir().unwrap();
    let before = settings(1000);
    let mut trainer =
        Trainer::new(line(), before.clone(), folder.path(), Changes::Refused).unwrap();
    // a checkpoint after every step that may have one
    let going = |_: &StepReport, _: &Trainer<Linear>| Ok(ControlFlow::Continue(()));
    let error = trainer.run(Duration::ZERO, spoilt_from(7), going).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { checkpoint: Some(7), .. }), "{error}");
    assert!(error.to_string().contains("resume from the checkpoint of step 7"), "{error}");
    let slower = TrainSettings { learning_rate: 0.01, ..before };
    let mut trainer = Trainer::new(line(), slower, folder.path(), Changes::Accepted).unwrap();
    assert_eq!(trainer.step(), 7, "the last one that was taken");
    run(&mut trainer, 20);
    assert_eq!(trainer.step(), 20);
}

/// Those at the end of a run, or where its learning rate begins to fall, leave the one of before as well.
#[test]
fn the_last_steps_of_a_run_that_diverges_get_no_checkpoint() {
    for cooldown in [0, 6] {
        let folder = tempfile::tempdir().unwrap();
        let short = TrainSettings { cooldown, ..settings(20) };
        let mut trainer =
            Trainer::new(line(), short.clone(), folder.path(), Changes::Refused).unwrap();
        let going = |_: &StepReport, _: &Trainer<Linear>| Ok(ControlFlow::Continue(()));
        let error = trainer.run(Duration::ZERO, spoilt_from(9), going).unwrap_err();
        assert!(matches!(error, TrainError::Diverged { skipped: 11, .. }), "{error}");
        let trainer = Trainer::new(line(), short, folder.path(), Changes::Refused).unwrap();
        assert_eq!(trainer.step(), 9, "cooldown {cooldown}");
    }
}

#[test]
fn a_stop_among_steps_that_are_skipped_keeps_the_checkpoint_of_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer =
        Trainer::new(line(), settings(1000), folder.path(), Changes::Refused).unwrap();
    let stop = |at: u64| {
        move |report: &StepReport, _: &Trainer<Linear>| {
            let stops = report.step == at;
            Ok(if stops { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        }
    };
    trainer.run(NEVER, spoilt_from(4), stop(4)).unwrap();
    trainer.run(NEVER, spoilt_from(4), stop(9)).unwrap();
    let trainer = Trainer::new(line(), settings(1000), folder.path(), Changes::Refused).unwrap();
    assert_eq!(trainer.step(), 4);
}

#[test]
fn a_run_that_took_no_step_has_diverged() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = Trainer::new(line(), settings(3), folder.path(), Changes::Refused).unwrap();
    let result = trainer.run(NEVER, spoilt_from(0), |_, _| Ok(ControlFlow::Continue(())));
    assert!(matches!(result, Err(TrainError::Diverged { .. })), "{result:?}");
    assert!(!folder.path().join("checkpoint.json").exists());
}

#[test]
fn weights_that_are_no_numbers_get_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = Trainer::new(line(), settings(3), folder.path(), Changes::Refused).unwrap();
    let spoil = |mut model: Linear| {
        model.weight = model.weight.map(|weight| weight * f32::INFINITY);
        model
    };
    let mut trainer = trainer.with_constraint(spoil);
    let learn = |model: &Linear, step| Ok(Learned::of(model, loss(model, step)));
    let stop = |_: &StepReport, _: &Trainer<Linear>| Ok(ControlFlow::Break(()));
    let result = trainer.run(NEVER, learn, stop);
    let error = result.unwrap_err();
    assert!(matches!(error, TrainError::WeightsNotFinite { step: 1, checkpoint: None }), "{error}");
    assert!(!folder.path().join("checkpoint.json").exists());
}

#[test]
fn a_checkpoint_with_a_flipped_bit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(&mut Trainer::new(line(), settings(3), folder.path(), Changes::Refused).unwrap(), 2);
    for name in ["model", "average", "optimizer"] {
        let path = folder.path().join("step-2").join(format!("{name}.bpk"));
        let whole = std::fs::read(&path).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let error = Trainer::new(line(), settings(3), folder.path(), Changes::Refused).err();
            let error = error.unwrap().to_string();
            let expected = format!("{}: damaged: its digest is ", path.display());
            assert!(error.starts_with(&expected), "{error}");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    let trainer = Trainer::new(line(), settings(3), folder.path(), Changes::Refused).unwrap();
    assert_eq!(trainer.step(), 2);
}

#[test]
fn impossible_settings_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let cases = [
        (settings(0), "steps is 0, expected at least 1"),
        (TrainSettings { batch: 0, ..settings(1) }, "batch is 0, expected at least 1"),
        (TrainSettings { learning_rate: f64::NAN, ..settings(1) }, "learning_rate is NaN"),
        (TrainSettings { ema_decay: 1.5, ..settings(1) }, "ema_decay is 1.5"),
        (TrainSettings { max_norm: 0.0, ..settings(1) }, "max_norm is 0"),
        (TrainSettings { weight_decay: -0.1, ..settings(1) }, "weight_decay is -0.1"),
        (TrainSettings { cooldown: 4, ..settings(4) }, "cooldown is 4, expected less than the 4"),
        (
            TrainSettings { accumulate: 3, ..settings(4) },
            "accumulate is 3, expected a divisor of the 8",
        ),
        (TrainSettings { schedule: Schedule::Cosine, ..settings(4) }, "cooldown is 2, expected 0"),
        (
            TrainSettings { adam: Adam { beta_2: 1.0, ..Adam::default() }, ..settings(4) },
            "adam.beta_2 is 1",
        ),
    ];
    for (settings, words) in cases {
        let error = Trainer::new(line(), settings, folder.path(), Changes::Refused)
            .err()
            .unwrap()
            .to_string();
        assert!(error.starts_with(words), "{error}");
    }
}

#[test]
fn the_learning_rate_rises_stays_and_falls() {
    let settings = TrainSettings { warmup: 10, cooldown: 20, ..settings(100) };
    let rates: Vec<f64> = (0..100).map(|step| settings.learning_rate_at(step)).collect();
    assert!((rates[0] - 0.005).abs() < 1e-9);
    assert!(rates[..10].windows(2).all(|w| w[0] < w[1]));
    assert!(rates[9..80].iter().all(|rate| (rate - 0.05).abs() < 1e-9));
    assert!(rates[79..].windows(2).all(|w| w[0] > w[1]));
    assert!((rates[99] - 0.05 / 21.0).abs() < 1e-9);
}

#[test]
fn the_learning_rate_falls_as_half_a_cosine() {
    let settings =
        TrainSettings { warmup: 10, cooldown: 0, schedule: Schedule::Cosine, ..settings(110) };
    let rate = |step| settings.learning_rate_at(step) / 0.05;
    assert!((rate(9) - 1.0).abs() < 1e-9 && (rate(10) - 1.0).abs() < 1e-9);
    assert!((rate(60) - (0.02 + 0.98 * 0.5)).abs() < 1e-9, "{}", rate(60));
    assert!((rate(110) - 0.02).abs() < 1e-9);
}

/// A finished run of 8 steps, of which the last 4 cool down, is made 12 steps long.
#[test]
fn a_longer_run_goes_on_from_where_the_learning_rate_began_to_fall() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let start = line();
    let mut whole =
        Trainer::new(start.clone(), settings(12), folders[0].path(), Changes::Refused).unwrap();
    let expected = run(&mut whole, u64::MAX);
    run(
        &mut Trainer::new(start.clone(), settings(8), folders[1].path(), Changes::Refused).unwrap(),
        u64::MAX,
    );
    let mut longer =
        Trainer::new(start, settings(12), folders[1].path(), Changes::Refused).unwrap();
    assert_eq!(longer.step(), 4);
    assert_eq!(run(&mut longer, u64::MAX), expected[4..]);
    assert_eq!(weights(longer.average()), weights(whole.average()));
}

/// Stopped while it cools down, and made longer in the end: the plateau is not forgotten.
#[test]
fn an_interrupted_cooldown_can_still_be_made_longer() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let start = line();
    let mut whole =
        Trainer::new(start.clone(), settings(12), folders[0].path(), Changes::Refused).unwrap();
    let expected = run(&mut whole, u64::MAX);
    for stop in [2, 6, 7] {
        run(
            &mut Trainer::new(start.clone(), settings(8), folders[1].path(), Changes::Refused)
                .unwrap(),
            stop,
        );
    }
    let mut longer =
        Trainer::new(start.clone(), settings(12), folders[1].path(), Changes::Refused).unwrap();
    assert_eq!(longer.step(), 4);
    assert_eq!(run(&mut longer, 5), expected[4..5]);
    let mut longer =
        Trainer::new(start, settings(12), folders[1].path(), Changes::Refused).unwrap();
    assert_eq!(run(&mut longer, u64::MAX), expected[5..]);
    assert_eq!(weights(longer.average()), weights(whole.average()));
}

/// A run that is made so short that it should be cooling down already cools down from where it is.
#[test]
fn a_run_made_shorter_falls_from_where_it_is_and_can_be_made_longer_again() {
    let folder = tempfile::tempdir().unwrap();
    let start = line();
    run(
        &mut Trainer::new(start.clone(), settings(12), folder.path(), Changes::Refused).unwrap(),
        5,
    );
    run(
        &mut Trainer::new(start.clone(), settings(8), folder.path(), Changes::Refused).unwrap(),
        u64::MAX,
    );
    assert_eq!(
        Trainer::new(start, settings(12), folder.path(), Changes::Refused).unwrap().step(),
        5
    );
}

#[test]
fn the_average_is_the_formula() {
    let (slow, fast) = (line(), LinearConfig::new(2, 1).init(&Device::flex()));
    let expected: Vec<f32> =
        weights(&slow).iter().zip(weights(&fast)).map(|(s, f)| s * 0.75 + f * 0.25).collect();
    let found = weights(&update_average(slow, &fast.valid(), 0.75));
    let close = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
    assert!(found.iter().zip(&expected).all(close), "{found:?} {expected:?}");
}

/// An upsampler of a few weights, and its data.
fn upsampler(
    edit: impl FnOnce(&mut UpsamplerConfig),
) -> Result<(UpsamplerObjective, UpsamplerConfig), InvalidSetting> {
    let mut config = recipe::upsamplers()[0].clone();
    config.factor = 2;
    config.residual = false;
    let own = config.unet.adm().unwrap().clone();
    config.unet = UNetConfig { block_out_channels: vec![4, 4], ..own }.into();
    edit(&mut config);
    config.validate().unwrap();
    let source =
        Source { data: Arc::new(ShapesWorld::new(1)), batch: 2, seed: 3, device: Device::flex() };
    Ok((
        UpsamplerObjective::new(
            source,
            config.clone(),
            [32, 8],
            (Degradation::Blur, Weighting::Even),
        )?,
        config,
    ))
}

#[test]
fn an_upsampler_may_learn_its_variance() {
    let learned = |config: &mut UpsamplerConfig| {
        config.diffusion.variance = VarianceType::LearnedRange;
        let own = config.unet.adm().unwrap().clone();
        config.unet = UNetConfig { out_channels: 6, ..own }.into();
    };
    let (objective, config) = upsampler(learned).unwrap();
    let device = Device::flex().autodiff();
    let network = config.init(&Device::flex()).train();
    let gradients = objective.loss(&network, objective.batch(0).unwrap()).backward();
    let gradients = burn::optim::GradientsParams::from_grads(gradients, &network);
    assert!(gradients.len() > 10, "{} gradients on {device:?}", gradients.len());
}

#[test]
fn a_network_for_the_last_step_alone_is_not_trained_by_halves() {
    let error = upsampler(|config| config.last_step_network = true).err().unwrap().to_string();
    assert!(error.starts_with("last_step_network is true, expected false"), "{error}");
}

#[test]
fn the_temperature_stays_within_its_bounds() {
    let towers =
        ClipTowers::new(&recipe::text_encoder(300), &recipe::image_encoder(), &Device::flex());
    let far = |value: f32| ClipTowers {
        logit_scale: towers.logit_scale.clone().map(|scale| scale.full_like(value)),
        ..towers.clone()
    };
    for (value, expected) in [(7.0, 100.0f32.ln()), (2.0, 2.0), (-1.0, 0.0)] {
        let kept = far(value).train().within_bounds();
        let scale = kept.logit_scale.val();
        assert!(scale.is_require_grad(), "it still learns");
        let scale: f32 = scale.inner().into_scalar();
        assert!((scale - expected).abs() < 1e-6, "{value} becomes {scale}");
    }
}

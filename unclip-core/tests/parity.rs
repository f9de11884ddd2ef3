//! Comparisons with diffusers and PyTorch.

use burn::tensor::{Device, Tensor, TensorData};
use serde::Deserialize;
use unclip_core::loss::{Noised, hybrid_loss};
use unclip_core::resize::bicubic;
use unclip_core::{
    BetaSchedule, Clamped, Ddim, Ddpm, DiffusionConfig, Draw, NoiseSchedule, NoiseSource,
    Parameterization, Parameterized, Reverse, Sampler, SamplingMethod, Stepped, Timesteps,
    VarianceType,
};

use crate::fixture::{Fixture, assert_close};

/// Schedules are computed in f64 by both sides.
const F64: f64 = 1e-12;
/// diffusers keeps its schedules in f32, whose cumulative products lose two digits.
const F32_SCHEDULE: f64 = 1e-4;

/// The configuration of a fixture of single steps.
#[derive(Deserialize)]
struct Steps<C> {
    cases: Vec<C>,
}

/// Gives one recorded draw.
struct Recorded(Tensor<4>);

impl NoiseSource for Recorded {
    fn draw(&mut self, _: Draw, shape: &[usize]) -> TensorData {
        assert_eq!(shape, self.0.dims());
        self.0.clone().into_data()
    }
}

/// A batch as samplers see it.
fn rows(x: Tensor<4>) -> Tensor<2> {
    x.flatten(1, 3)
}

fn schedule(betas: BetaSchedule) -> NoiseSchedule {
    NoiseSchedule::new(betas, 1000).unwrap()
}

fn cosine() -> NoiseSchedule {
    schedule(BetaSchedule::SquaredCosine)
}

fn parameterization(name: &str) -> Parameterization {
    match name {
        "sample" => Parameterization::Sample,
        "epsilon" => Parameterization::Epsilon,
        "v_prediction" => Parameterization::V,
        _ => panic!("{name}"),
    }
}

#[test]
fn signal_variances() {
    let fixture = Fixture::open("schedules");
    let linear = BetaSchedule::Linear { start: 1e-4, end: 0.02 };
    for (name, betas) in [("cosine", BetaSchedule::SquaredCosine), ("linear", linear)] {
        let want = fixture.doubles(&format!("output.alpha_bar_{name}"));
        let got = schedule(betas);
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.alpha_bars().iter().zip(want).enumerate() {
            assert!((got / want - 1.0).abs() < F64, "{name} at {i}: {got}, not {want}");
        }
    }
    let single: Tensor<1> = fixture.tensor("output.alpha_bar_cosine_f32");
    for (got, want) in cosine().alpha_bars().iter().zip(single.into_data().iter::<f64>()) {
        assert!((got / want - 1.0).abs() < F32_SCHEDULE, "{got}, not {want}");
    }
}

#[test]
fn timesteps_of_a_shortened_schedule() {
    let want = Fixture::open("schedules").counts("output.timesteps");
    let got = Timesteps::evenly_spaced(want.len(), 1000).unwrap();
    assert!(got.as_slice().iter().rev().eq(&want));
}

#[derive(Deserialize)]
struct AncestralCase {
    prediction_type: String,
    variance_type: String,
    clip_sample_range: f64,
    t: usize,
    prev_t: i64,
}

#[test]
fn ancestral_steps() {
    let fixture = Fixture::open("schedules");
    let steps: Steps<AncestralCase> = serde_json::from_str(&fixture.config()).unwrap();
    let schedule = cosine().respaced(&Timesteps::evenly_spaced(25, 1000).unwrap()).unwrap();
    for (number, case) in steps.cases.iter().enumerate() {
        let tensor = |key: &str| fixture.tensor::<4>(&key.replace('#', &format!("case_{number}")));
        let step = schedule.reverse_steps().find(|step| step.timestep == case.t).unwrap();
        let before = step.index.checked_sub(1).map_or(-1, |i| schedule.step(i).timestep as i64);
        assert_eq!(before, case.prev_t);
        let variance = match case.variance_type.as_str() {
            "fixed_small_log" => VarianceType::FixedSmall,
            "learned_range" => VarianceType::LearnedRange,
            other => panic!("{other}"),
        };
        let output = rows(tensor("input.#.model_output"));
        let denoiser = Clamped {
            inner: Parameterized {
                network: |_: Tensor<2>, _: Tensor<1>| output.clone(),
                parameterization: parameterization(&case.prediction_type),
                variance,
            },
            limit: Some(case.clip_sample_range),
            quantile: None,
        };
        let config =
            DiffusionConfig { variance, ..DiffusionConfig::cosine(Parameterization::Sample) };
        let what = format!("step {} of case {number}", case.t);
        let mut noise = Recorded(tensor("input.#.noise"));
        let x_t = tensor("input.#.sample");
        let shape = x_t.dims();
        let mut reverse = Reverse::new(&denoiser, &schedule, step.index, &mut noise, &shape);
        let Stepped { x_prev, x_0: decoded } =
            Ddpm.start(&config.variances()).step(rows(x_t), &mut reverse);
        let x_0 = rows(tensor("output.#.pred_original_sample"));
        assert_close(&what, decoded.clone(), x_0, F32_SCHEDULE);
        let want = rows(tensor("output.#.prev_sample"));
        if step.is_last() {
            // the last step returns x_0 itself; diffusers' f32 weighs it with 0.99947
            assert_close(&what, x_prev.clone(), decoded, 1e-7);
            assert_close(&what, x_prev, want, 1e-3);
        } else {
            assert_close(&what, x_prev, want, F32_SCHEDULE);
        }
    }
}

#[derive(Deserialize)]
struct DdimCase {
    timestep_spacing: String,
    prediction_type: String,
    eta: f64,
    t: usize,
    prev_t: i64,
}

#[test]
fn ddim_steps() {
    let fixture = Fixture::open("ddim");
    let steps: Steps<DdimCase> = serde_json::from_str(&fixture.config()).unwrap();
    for (number, case) in steps.cases.iter().enumerate() {
        let tensor = |key: &str| fixture.tensor::<4>(&key.replace('#', &format!("case_{number}")));
        let mut timesteps = fixture.counts(&format!("output.timesteps_{}", case.timestep_spacing));
        timesteps.reverse();
        let schedule = cosine().respaced(&Timesteps::new(timesteps).unwrap()).unwrap();
        let step = schedule.reverse_steps().find(|step| step.timestep == case.t).unwrap();
        let before = step.index.checked_sub(1).map_or(-1, |i| schedule.step(i).timestep as i64);
        assert_eq!(before, case.prev_t);

        let output = rows(tensor("input.#.model_output"));
        let denoiser = Parameterized {
            network: |_: Tensor<2>, _: Tensor<1>| output.clone(),
            parameterization: parameterization(&case.prediction_type),
            variance: VarianceType::FixedSmall,
        };
        let what = format!("step {} of case {number}", case.t);
        let mut noise = Recorded(tensor("input.#.noise"));
        let x_t = tensor("input.#.sample");
        let shape = x_t.dims();
        let mut reverse = Reverse::new(&denoiser, &schedule, step.index, &mut noise, &shape);
        let mut sampler = Ddim { eta: case.eta };
        let Stepped { x_prev, x_0 } = sampler.step(rows(x_t), &mut reverse);
        let want = rows(tensor("output.#.pred_original_sample"));
        assert_close(&what, x_0, want, F32_SCHEDULE);
        assert_close(&what, x_prev, rows(tensor("output.#.prev_sample")), F32_SCHEDULE);
    }
}

#[test]
fn hybrid_loss_and_its_gradient() {
    let fixture = Fixture::open_on("losses", Device::flex().autodiff());
    let schedule = cosine();
    let indices = fixture.counts("input.timesteps");
    let noised = Noised::new(
        &schedule,
        fixture.tensor::<4>("input.x_start"),
        fixture.tensor("input.noise"),
        indices.clone(),
    );
    assert_close("x_t", noised.x_t.clone(), fixture.tensor("input.x_t"), 1e-6);

    let output = fixture.tensor::<4>("input.model_output").require_grad();
    let (simple, bound) =
        hybrid_loss(&schedule, Parameterization::Epsilon, &noised, output.clone());
    let gradients = (simple.clone() + bound.clone()).mean().backward();
    let gradient = output.grad(&gradients).unwrap();
    let want = Fixture::open("losses");
    let (mse, vb): (Tensor<1>, Tensor<1>) = (want.tensor("output.mse"), want.tensor("output.vb"));
    let of_output: Tensor<4> = want.tensor("output.grad_model_output");
    // row by row: the terms differ by three orders of magnitude
    for (row, t) in indices.into_iter().enumerate() {
        let what = |name: &str| format!("{name} at {t}");
        let one = |x: &Tensor<1>| x.clone().inner().narrow(0, row, 1);
        assert_close(&what("mse"), one(&simple), mse.clone().narrow(0, row, 1), 1e-5);
        assert_close(&what("vb"), one(&bound), vb.clone().narrow(0, row, 1), 1e-4);
        let [got, want] = [&gradient, &of_output].map(|g| g.clone().narrow(0, row, 1));
        for (name, start) in [("prediction", 0), ("variance", 3)] {
            let [got, want] = [&got, &want].map(|g| g.clone().narrow(1, start, 3));
            assert_close(&what(&format!("gradient of the {name}")), got, want, 1e-4);
        }
    }
}

#[test]
fn bicubic_resizing() {
    let fixture = Fixture::open("resize");
    for (height, width) in [(32, 24), (16, 12), (5, 4), (7, 9)] {
        let what = format!("{height}x{width}");
        let got = bicubic(fixture.tensor("input.image"), height, width);
        assert_close(&what, got, fixture.tensor(&format!("output.{what}")), 1e-6);
    }
}

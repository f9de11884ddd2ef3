//! Laws of the samplers, with denoisers that are known in closed form.

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;

use burn::tensor::{Device, Tensor, TensorData};
use unclip_core::{
    AnalyticDpm, Belm, BetaSchedule, Ddim, Ddpm, Denoiser, DiffusionConfig, DpmSolver, Draw, Heun,
    Interrupted, Kept, NoiseSchedule, NoiseSource, Parameterization, Parameterized, Plms,
    Prediction, Resampling, Reverse, Sampler, SamplingMethod, SeededNoise, Spacing, Step,
    StepEvent, Timesteps, Uncertainty, VarianceType, Variances, inpaint, invert, invert_exactly,
    sample,
};

use crate::fixture::{assert_close, difference, noise};

const STRAIGHT: Ddim = Ddim { eta: 0.0 };
const SOLVER: DpmSolver = DpmSolver { published: false };
const PUBLISHED: DpmSolver = DpmSolver { published: true };

fn training() -> NoiseSchedule {
    NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap()
}

fn schedule(steps: usize) -> NoiseSchedule {
    training().respaced(&Timesteps::evenly_spaced(steps, 1000).unwrap()).unwrap()
}

/// Every method.
const ALL: [&dyn SamplingMethod; 8] =
    [&STRAIGHT, &Ddim { eta: 1.0 }, &Ddpm, &AnalyticDpm, &SOLVER, &PUBLISHED, &Heun, &Belm];

/// The start of sampling and the noise of the steps after it, for one row.
fn start(width: usize) -> (Tensor<2>, SeededNoise) {
    let mut noise = SeededNoise::new(&[7], 0);
    let source: &mut dyn NoiseSource = &mut noise;
    (source.tensor(Draw::Initial, [1, width], &Device::flex()), noise)
}

/// A stage whose denoiser is that of [`Gaussian`] data.
fn config(data: &Gaussian) -> DiffusionConfig {
    let training = training();
    let left = |timestep| {
        let noise = 1.0 - training.step(timestep).alpha_bar;
        data.variance * noise / ((1.0 - noise) * data.variance + noise)
    };
    let variances = Uncertainty::timesteps(1000, 1000).map(left).collect();
    DiffusionConfig {
        uncertainty: Some(Uncertainty::new(variances).unwrap()),
        ..DiffusionConfig::cosine(Parameterization::Sample)
    }
}

/// A run of small variance.
fn start_of(method: &dyn SamplingMethod) -> Box<dyn Sampler> {
    method.start(&config(&DATA).variances())
}

/// Samples without an observer.
fn run(
    denoiser: &dyn Denoiser<2>,
    method: &dyn SamplingMethod,
    steps: usize,
    x_t: Tensor<2>,
) -> Tensor<2> {
    let (mut noise, mut sampler) = (SeededNoise::new(&[8], 0), start_of(method));
    sample(denoiser, &mut *sampler, &schedule(steps), x_t, &mut noise, &mut ()).unwrap()
}

/// Always answers the same sample.
struct Exact(Tensor<2>);

impl Denoiser<2> for Exact {
    fn denoise(&self, _: Tensor<2>, _: &Step) -> Prediction<2> {
        Prediction::new(self.0.clone())
    }
}

/// Data of the tests below.
const DATA: Gaussian = Gaussian { mean: 0.5, variance: 0.25 };

/// The best denoiser of normally distributed data: E\[x_0 | x_t\].
struct Gaussian {
    mean: f64,
    variance: f64,
}

impl Denoiser<2> for Gaussian {
    fn denoise(&self, x_t: Tensor<2>, step: &Step) -> Prediction<2> {
        let signal = step.alpha_bar.sqrt();
        let total = step.alpha_bar * self.variance + 1.0 - step.alpha_bar;
        let gain = self.variance * signal / total;
        Prediction::new((x_t - self.mean * signal) * gain + self.mean)
    }
}

/// Writes down which draws it was asked for.
struct Listed(Vec<Draw>);

impl NoiseSource for Listed {
    fn draw(&mut self, draw: Draw, shape: &[usize]) -> TensorData {
        self.0.push(draw);
        TensorData::new(vec![1.0f32; shape.iter().product()], shape.to_vec())
    }
}

#[test]
fn an_exact_denoiser_is_sampled_to_its_answer() {
    let answer = noise([1, 16], 1, &Device::flex());
    let denoiser = Exact(answer.clone());
    for steps in [1, 2, 3, 7, 25, 1000] {
        let (x_t, _) = start(16);
        for sampler in ALL {
            let sampled = run(&denoiser, sampler, steps, x_t.clone());
            assert_close(&format!("{steps} steps"), sampled, answer.clone(), 1e-6);
        }
    }
}

#[test]
fn an_exact_network_is_sampled_to_its_answer_whatever_it_predicts() {
    let answer: Tensor<2> = noise([1, 16], 2, &Device::flex());
    let training = training();
    for kind in [Parameterization::Sample, Parameterization::Epsilon, Parameterization::V] {
        // it reads its noise level off the timestep, as a trained network does
        let network = |x_t: Tensor<2>, timesteps: Tensor<1>| {
            let step = training.step(timesteps.into_scalar::<f32>() as usize);
            let (signal, level) = (step.alpha_bar.sqrt(), (1.0 - step.alpha_bar).sqrt());
            let epsilon = (x_t - answer.clone() * signal) / level;
            match kind {
                Parameterization::Sample => answer.clone(),
                Parameterization::Epsilon => epsilon,
                Parameterization::V => epsilon * signal - answer.clone() * level,
            }
        };
        let variance = VarianceType::FixedSmall;
        let denoiser = Parameterized { network, parameterization: kind, variance };
        for sampler in ALL {
            let sampled = run(&denoiser, sampler, 25, start(16).0);
            assert_close(&format!("{kind:?}"), sampled, answer.clone(), 1e-4);
        }
    }
}

#[test]
fn gaussian_data_keeps_its_moments() {
    // both samplers leave the variance a little small, by a share that falls as 1/steps: at 250
    // steps 3.0 % (DDPM) and 1.3 % (DDIM) of 0.25; 20,000 values add 1 % of chance
    let data = &DATA;
    for (sampler, tolerance) in [(&Ddpm as &dyn SamplingMethod, 0.06), (&STRAIGHT, 0.04)] {
        let sampled = run(data, sampler, 250, start(20_000).0);
        let mean = sampled.clone().mean().into_scalar::<f32>() as f64;
        let variance = (sampled - mean).powf_scalar(2.0).mean().into_scalar::<f32>() as f64;
        assert!((mean - data.mean).abs() < 0.015, "mean {mean}");
        let error = variance / data.variance - 1.0;
        assert!(error.abs() < tolerance, "variance {variance}");
    }
}

/// With the variance that the denoiser leaves open, ancestral steps are exact for normal data: any
/// number of them keeps the moments, where without it 3 steps leave a quarter of the variance.
#[test]
fn analytic_variance_is_exact_for_gaussian_data() {
    let variance_of = |method: &dyn SamplingMethod, steps| {
        let sampled = run(&DATA, method, steps, start(20_000).0);
        let mean = sampled.clone().mean().into_scalar::<f32>() as f64;
        assert!((mean - DATA.mean).abs() < 0.015, "mean {mean}");
        (sampled - mean).powf_scalar(2.0).mean().into_scalar::<f32>() as f64
    };
    for steps in [2, 3, 5, 10, 25] {
        // the last step adds no noise: what it leaves open is missing
        let last = schedule(steps).step(0);
        let left = config(&DATA).uncertainty.unwrap().variance(&last, 1000);
        let found = variance_of(&AnalyticDpm, steps);
        let error = (found + left) / DATA.variance - 1.0;
        assert!(error.abs() < 0.03, "{steps} steps: {found}, {left} left");
        let plain = variance_of(&Ddpm, steps);
        assert!(plain < found, "{steps} steps: {plain}, analytic {found}");
    }
    assert!(variance_of(&Ddpm, 3) < 0.5 * DATA.variance);
}

#[test]
fn a_method_that_lacks_what_it_needs_says_so() {
    let bare = DiffusionConfig { uncertainty: None, ..config(&DATA) };
    let refused = AnalyticDpm.suits(&bare.variances()).unwrap_err().to_string();
    assert!(refused.starts_with("sampler is analytic_dpm, expected another one"), "{refused}");
    let default = DiffusionConfig { sampler: AnalyticDpm.into(), ..bare };
    assert_eq!(default.validate().unwrap_err().to_string(), refused);
    DiffusionConfig { sampler: AnalyticDpm.into(), ..config(&DATA) }.validate().unwrap();
    AnalyticDpm.suits(&config(&DATA).variances()).unwrap();
}

#[test]
fn inversion_is_undone_by_sampling_the_better_the_more_steps() {
    let data = &DATA;
    let x_0: Tensor<2> = noise([1, 64], 3, &Device::flex()) * 0.5 + 0.5;
    let error = |steps: usize| {
        let x_t = invert(data, &schedule(steps), x_0.clone(), &mut ()).unwrap();
        difference("inversion", run(data, &STRAIGHT, steps, x_t), x_0.clone()).0
    };
    let errors = [10, 20, 40, 80, 160, 320].map(error);
    assert!(errors.windows(2).all(|pair| pair[1] < 0.6 * pair[0]), "{errors:?}");
    assert!(errors[5] < 0.02, "{errors:?}");
}

/// Where the probability flow of [`Gaussian`] data takes a start: it keeps the quantile.
fn flow(data: &Gaussian, x_t: Tensor<2>, schedule: &NoiseSchedule) -> Tensor<2> {
    let quantile = |alpha_bar: f64| {
        let deviation = (alpha_bar * data.variance + 1.0 - alpha_bar).sqrt();
        (alpha_bar.sqrt() * data.mean, deviation)
    };
    let first = schedule.step(schedule.len() - 1);
    let (mean, deviation) = quantile(first.alpha_bar);
    (x_t - mean) / deviation * data.variance.sqrt() + data.mean
}

#[test]
fn the_solver_errs_much_less_for_as_many_steps() {
    let data = &DATA;
    let error = |sampler: &dyn SamplingMethod, steps: usize| {
        let x_t = start(64).0;
        let want = flow(data, x_t.clone(), &schedule(steps));
        difference("flow", run(data, sampler, steps, x_t), want).0
    };
    for (steps, share) in [(5, 0.5), (10, 0.2), (20, 0.05), (40, 0.05), (80, 0.05)] {
        let [solver, straight] =
            [&SOLVER as &dyn SamplingMethod, &STRAIGHT].map(|s| error(s, steps));
        assert!(solver < share * straight, "{steps} steps: {solver}, DDIM {straight}");
    }
}

#[test]
fn looking_back_three_steps_errs_less_than_one() {
    let data = &DATA;
    // a schedule that is smooth in its timesteps, over which the steps are even
    let training =
        NoiseSchedule::new(BetaSchedule::ScaledLinear { start: 0.00085, end: 0.012 }, 1000)
            .unwrap()
            .ending_noisy();
    let error = |method: &dyn SamplingMethod, steps: usize| {
        let timesteps = Spacing::Leading { offset: 1 }.timesteps(steps, &training).unwrap();
        let schedule = training.respaced(&timesteps).unwrap();
        let (x_t, mut noise) = start(64);
        let ends = [schedule.len() - 1, 0].map(|index| schedule.step(index));
        let deviation = |alpha_bar: f64| (alpha_bar * data.variance + 1.0 - alpha_bar).sqrt();
        let mean = |alpha_bar: f64| alpha_bar.sqrt() * data.mean;
        let (from, to) = (ends[0].alpha_bar, ends[1].alpha_bar_prev);
        let want = (x_t.clone() - mean(from)) / deviation(from) * deviation(to) + mean(to);
        let mut sampler = start_of(method);
        let got = sample(&data, &mut *sampler, &schedule, x_t, &mut noise, &mut ()).unwrap();
        difference("flow", got, want).0
    };
    let errors = |method: &dyn SamplingMethod| [10, 20, 50].map(|steps| error(method, steps));
    let [plms, velocities] =
        [false, true].map(|velocities| errors(&Plms { velocities } as &dyn SamplingMethod));
    let ddim = errors(&STRAIGHT);
    assert!((0..3).all(|k| plms[k] < 0.25 * ddim[k]), "{plms:?} {ddim:?}");
    assert!(plms[1] < 0.5 * plms[0] && plms[2] < 0.25 * plms[1], "{plms:?}");
    // a mean of velocities helps little, but it is what diffusers does
    assert!((0..3).all(|k| velocities[k] < ddim[k]), "{velocities:?} {ddim:?}");
    // noise estimates of an exact network are all the same
    let answer = noise([1, 64], 1, &Device::flex());
    let timesteps = Spacing::Leading { offset: 1 }.timesteps(20, &training).unwrap();
    let schedule = training.respaced(&timesteps).unwrap();
    let [plms, ddim] = [&Plms { velocities: false } as &dyn SamplingMethod, &STRAIGHT].map(|it| {
        let (x_t, mut noise) = start(64);
        let mut sampler = start_of(it);
        sample(&Exact(answer.clone()), &mut *sampler, &schedule, x_t, &mut noise, &mut ()).unwrap()
    });
    assert_close("exact", plms, ddim, 1e-5);
}

#[test]
fn looking_ahead_is_of_second_order() {
    let data = &DATA;
    let error = |method: &dyn SamplingMethod, steps: usize| {
        let training = training();
        let timesteps = Spacing::LogSnr.timesteps(steps, &training).unwrap();
        let schedule = training.respaced(&timesteps).unwrap();
        let (x_t, mut noise) = start(64);
        let want = flow(data, x_t.clone(), &schedule);
        let mut sampler = start_of(method);
        let got = sample(&data, &mut *sampler, &schedule, x_t, &mut noise, &mut ()).unwrap();
        difference("flow", got, want).0
    };
    // half the step, a quarter of the error, until the rounding of timesteps shows
    let [heun, ddim] = [&Heun as &dyn SamplingMethod, &STRAIGHT]
        .map(|method| [8, 16, 32].map(|steps| error(method, steps)));
    assert!(heun[1] < 0.4 * heun[0] && heun[2] < 0.4 * heun[1], "{heun:?}");
    assert!(ddim[2] > 0.45 * ddim[1], "the first order: half the step, half the error: {ddim:?}");
    let shares = [0.6, 0.4, 0.2];
    assert!((0..3).all(|k| heun[k] < shares[k] * ddim[k]), "{heun:?} {ddim:?}");
    // on even steps of λ the published solver needs no limit
    let [limited, published] = [&SOLVER, &PUBLISHED].map(|solver| error(solver, 16));
    assert!(published <= limited * 1.5, "{published} {limited}");
}

#[test]
fn sampling_may_start_at_any_step() {
    let data = &DATA;
    let whole = schedule(20);
    let x_t = start(64).0;
    let watched = Watched { data, seen: RefCell::new(Vec::new()) };
    let all = run_on(&watched, &whole, x_t);
    let middle = watched.seen.into_inner()[10].clone();
    let part = whole.cleanest(10).unwrap();
    assert_close("the second half", run_on(&data, &part, middle), all, 0.0);
}

/// Writes down what it is asked.
struct Watched<'a> {
    data: &'a Gaussian,
    seen: RefCell<Vec<Tensor<2>>>,
}

impl Denoiser<2> for Watched<'_> {
    fn denoise(&self, x_t: Tensor<2>, step: &Step) -> Prediction<2> {
        self.seen.borrow_mut().push(x_t.clone());
        self.data.denoise(x_t, step)
    }
}

fn run_on(denoiser: &dyn Denoiser<2>, schedule: &NoiseSchedule, x_t: Tensor<2>) -> Tensor<2> {
    let (mut noise, mut sampler) = (SeededNoise::new(&[8], 0), start_of(&STRAIGHT));
    sample(denoiser, &mut *sampler, schedule, x_t, &mut noise, &mut ()).unwrap()
}

#[test]
fn a_schedule_that_ends_noisy_leaves_the_noise_of_its_first_timestep() {
    // diffusers' set_alpha_to_one: false, with a leading offset of 1
    let answer = noise([1, 16], 6, &Device::flex());
    let training = training().ending_noisy();
    let timesteps = Spacing::Leading { offset: 1 }.timesteps(10, &training).unwrap();
    let short = training.respaced(&timesteps).unwrap();
    let sampled = run_on(&Exact(answer.clone()), &short, start(16).0);
    let first = training.alpha_bars()[0];
    let noise = (sampled - answer.clone() * first.sqrt()) / (1.0 - first).sqrt();
    // DDIM keeps the noise that it started from
    let noisiest = short.step(9);
    let kept = Prediction::new(answer).epsilon(start(16).0, &noisiest);
    assert_close("noise", noise, kept, 1e-3);
}

#[test]
fn inversion_is_heard_and_stopped() {
    let data = &DATA;
    let mut heard = Vec::new();
    let mut observer = |event: StepEvent<'_, 2>| {
        heard.push((event.index, event.total, event.timestep));
        match event.index {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let x_0: Tensor<2> = noise([1, 4], 3, &Device::flex());
    let stopped = invert(data, &schedule(7), x_0, &mut observer).unwrap_err();
    assert_eq!(stopped, Interrupted { done: 3, total: 6 });
    assert_eq!(heard, [(0, 6, 0), (1, 6, 166), (2, 6, 333)]);
}

#[test]
fn inversion_of_data_gives_standard_noise() {
    let data = &DATA;
    let (unit, _) = start(20_000);
    let x_t = invert(data, &schedule(500), unit * 0.5 + 0.5, &mut ()).unwrap();
    let mean = x_t.clone().mean().into_scalar::<f32>();
    let variance = (x_t - mean).powf_scalar(2.0).mean().into_scalar::<f32>();
    assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
}

#[test]
fn ddim_with_full_noise_is_ddpm_with_its_small_variance() {
    let device = Device::flex();
    let linear = BetaSchedule::Linear { start: 1e-4, end: 0.02 };
    let x_0: Tensor<2> = noise([1, 32], 4, &device);
    for betas in [BetaSchedule::SquaredCosine, linear] {
        let full = NoiseSchedule::new(betas, 1000).unwrap();
        let short = full.respaced(&Timesteps::evenly_spaced(25, 1000).unwrap()).unwrap();
        for schedule in [full, short] {
            for index in [0, 1, 2, 12, 23, 24, schedule.len() / 2, schedule.len() - 1] {
                let step = schedule.step(index);
                let x_t = schedule.add_noise(x_0.clone(), noise([1, 32], 5, &device), &[index]);
                let methods = [&Ddim { eta: 1.0 } as &dyn SamplingMethod, &Ddpm];
                let [ddim, ddpm] = methods.map(|method| {
                    let (denoiser, mut noise) = (Exact(x_0.clone()), SeededNoise::new(&[1], 0));
                    let mut reverse =
                        Reverse::new(&denoiser, &schedule, index, &mut noise, &[1, 32]);
                    start_of(method).step(x_t.clone(), &mut reverse).x_prev
                });
                assert_close(&format!("step {}", step.timestep), ddim, ddpm, 2e-5);
            }
        }
    }
}

#[test]
fn every_step_but_the_last_draws_noise() {
    let drawn_with = |method: &dyn SamplingMethod, variance: VarianceType| {
        let mut noise = Listed(Vec::new());
        let answer = Exact(Tensor::zeros([1, 4], &Device::flex()));
        let (x_t, mut sampler) =
            (start(4).0, method.start(&Variances { kind: variance, ..config(&DATA).variances() }));
        sample(&answer, &mut *sampler, &schedule(5), x_t, &mut noise, &mut ()).unwrap();
        noise.0
    };
    let drawn = |method: &dyn SamplingMethod| drawn_with(method, VarianceType::FixedSmall);
    let all = [4, 3, 2, 1].map(Draw::Step);
    assert_eq!(drawn(&Ddpm), all);
    assert_eq!(drawn_with(&Ddpm, VarianceType::FixedLarge), all);
    assert_eq!(drawn(&AnalyticDpm), all);
    assert_eq!(drawn(&Ddim { eta: 0.5 }), all);
    assert_eq!(drawn(&STRAIGHT), []);
    assert_eq!(drawn(&SOLVER), []);
    assert_eq!(drawn(&Heun), []);
}

#[test]
fn the_observer_hears_every_step_in_order() {
    let answer = noise([1, 4], 6, &Device::flex());
    let mut heard = Vec::new();
    let mut observer = |event: StepEvent<'_, 2>| {
        assert_close("preview", event.x_0.clone(), answer.clone(), 0.0);
        heard.push((event.index, event.total, event.timestep));
        ControlFlow::Continue(())
    };
    let (x_t, mut noise) = start(4);
    let denoiser = Exact(answer.clone());
    let mut sampler = start_of(&Ddpm);
    sample(&denoiser, &mut *sampler, &schedule(7), x_t, &mut noise, &mut observer).unwrap();
    let timesteps = [999, 832, 666, 500, 333, 166, 0];
    assert!(heard.into_iter().eq(timesteps.into_iter().enumerate().map(|(i, t)| (i, 7, t))));
}

#[test]
fn break_stops_after_the_step_in_which_it_was_given() {
    let calls = Cell::new(0);
    let network = |x_t: Tensor<2>, _: Tensor<1>| {
        calls.set(calls.get() + 1);
        x_t
    };
    let denoiser = Parameterized {
        network,
        parameterization: Parameterization::Sample,
        variance: VarianceType::FixedSmall,
    };
    for last in [0, 3, 6] {
        calls.set(0);
        let mut observer = |event: StepEvent<'_, 2>| {
            if event.index == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let (x_t, mut noise) = start(4);
        let mut sampler = start_of(&Ddpm);
        let stopped =
            sample(&denoiser, &mut *sampler, &schedule(7), x_t, &mut noise, &mut observer);
        assert_eq!(stopped.unwrap_err(), Interrupted { done: last + 1, total: 7 });
        assert_eq!(calls.get(), last + 1);
    }
}

/// How far inverting and sampling again is from a picture, at its largest.
fn back_and_forth(data: &dyn Denoiser<2>, schedule: &NoiseSchedule, x_0: &Tensor<2>) -> f64 {
    let start = invert_exactly(data, schedule, x_0.clone(), &mut ()).unwrap();
    let (mut sampler, x_t) = (start.sampler(), start.x_t);
    let noise = &mut Listed(Vec::new());
    let again = sample(data, &mut *sampler, schedule, x_t, noise, &mut ()).unwrap();
    assert_eq!(noise.0, []);
    difference("exact inversion", again, x_0.clone()).0
}

#[test]
fn exact_inversion_is_undone_at_any_number_of_steps() {
    let x_0: Tensor<2> = noise([3, 64], 3, &Device::flex()) * 0.5 + 0.5;
    let data = &DATA;
    for steps in [4, 10, 25, 50, 100] {
        // without the long last step of a cosine schedule
        let cleanest = schedule(steps).cleanest(steps - 1).unwrap();
        let error = back_and_forth(&data, &cleanest, &x_0);
        assert!(error < 1e-4, "{steps} steps: {error}");
    }
}

#[test]
fn exact_inversion_does_not_mind_guidance_and_limits() {
    struct Bent(Gaussian);
    impl Denoiser<2> for Bent {
        fn denoise(&self, x_t: Tensor<2>, step: &Step) -> Prediction<2> {
            let gradient = x_t.clone() * -0.3;
            let x_0 = self.0.denoise(x_t, step).x_0.clamp(-1.0, 1.0);
            Prediction { gradient: Some(gradient), limit: Some(1.0), ..Prediction::new(x_0) }
        }
    }
    let x_0: Tensor<2> = noise([2, 64], 4, &Device::flex()) * 0.7;
    let data = Bent(Gaussian { mean: 0.5, variance: 0.25 });
    let error = back_and_forth(&data, &schedule(25).cleanest(24).unwrap(), &x_0);
    assert!(error < 1e-3, "{error}");
}

#[test]
fn what_is_kept_stays_to_the_last_bit_and_the_rest_is_drawn() {
    // pairs whose second is the first: only who looks at what is kept can draw the rest
    struct Twins;
    impl Denoiser<2> for Twins {
        fn denoise(&self, x_t: Tensor<2>, step: &Step) -> Prediction<2> {
            let signal = step.alpha_bar.sqrt();
            // the mean of two equally noisy views, shrunk by what the data's variance of 1 says
            let rows = x_t.dims()[0];
            let mean = x_t.mean_dim(1).expand([rows, 2]);
            let noise = (1.0 - step.alpha_bar) / 2.0;
            Prediction::new(mean * (signal / (step.alpha_bar + noise)))
        }
    }
    let rows = 400;
    let device = Device::flex();
    let one: Tensor<2> = noise([rows, 1], 5, &device);
    let x_0 = Tensor::cat(vec![one.clone(), Tensor::zeros([rows, 1], &device)], 1);
    let mask = Tensor::<2>::from_floats([[1.0, 0.0]], &device).expand([rows, 2]);
    let kept = Kept { x_0, mask, noise: None };
    let error = |times: usize| {
        let seeds: Vec<u64> = (0..rows as u64).collect();
        let mut noise = SeededNoise::new(&seeds, 1);
        let x_t = (&mut noise as &mut dyn NoiseSource).tensor(Draw::Initial, [rows, 2], &device);
        let (schedule, resampling) = (schedule(25), Resampling { jump: 5, times });
        let mut sampler = start_of(&Ddpm);
        let mut calls = 0;
        let mut count = |_: StepEvent<'_, 2>| {
            calls += 1;
            ControlFlow::Continue(())
        };
        let plan = (&schedule, resampling);
        let made =
            inpaint(&Twins, &mut *sampler, plan, x_t, &kept, &mut noise, &mut count).unwrap();
        assert_eq!(calls, resampling.calls(25));
        let first = made.clone().narrow(1, 0, 1);
        assert_eq!(first.into_data(), one.clone().into_data());
        let second = made.narrow(1, 1, 1);
        (second - one.clone()).powf_scalar(2.0).mean().into_scalar::<f32>()
    };
    // the more often it goes back, the better the halves fit
    let errors = [1, 4, 12].map(error);
    assert!(errors[1] < 0.7 * errors[0] && errors[2] < errors[1], "{errors:?}");
}

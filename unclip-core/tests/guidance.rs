//! What guidance is at its ends, and what it leaves alone.

use burn::tensor::{Device, Tensor};
use unclip_core::{
    AnalyticDpm, BetaSchedule, Branched, ByStep, Clamped, ClassifierFree, Ddim, Ddpm, Denoiser,
    DiffusionConfig, DpmSolver, Draw, Heun, Network, NoiseSchedule, NoiseSource, Parameterization,
    Prediction, Reading as ReadingOf, Reverse, SamplingMethod, Score, Scored, SeededNoise, Step,
    Timesteps, Uncertainty, VarianceType, sample,
};

use crate::fixture::{assert_close, noise};

const SHAPE: [usize; 4] = [2, 3, 4, 5];

/// What a network bound to two conditions and two nulls answers: given rows, then null ones.
fn answers(channels: usize) -> [Tensor<4>; 2] {
    [1, 2].map(|seed| noise([2, channels, 4, 5], seed, &Device::flex()))
}

/// The guided answer, from a network that checks what it is fed.
fn guided(channels: usize, scale: f64) -> Tensor<4> {
    let x_t: Tensor<4> = noise(SHAPE, 3, &Device::flex());
    let expected = x_t.clone();
    let network = move |x: Tensor<4>, timesteps: Tensor<1>| {
        let twice = Tensor::cat(vec![expected.clone(); 2], 0);
        assert_close("both halves see x_t", x, twice, 0.0);
        assert_eq!(timesteps.into_data().iter::<f32>().collect::<Vec<_>>(), [7.0, 9.0, 7.0, 9.0]);
        Tensor::cat(answers(channels).into(), 0)
    };
    let timesteps = Tensor::from_floats([7.0, 9.0], &Device::flex());
    ClassifierFree::new(Branched::new(network, 2), vec![scale]).forward(x_t, timesteps)
}

#[test]
fn scale_one_is_the_condition_and_scale_zero_is_none() {
    let [given, null] = answers(3);
    assert_close("scale 1", guided(3, 1.0), given, 1e-6);
    assert_close("scale 0", guided(3, 0.0), null, 1e-6);
}

#[test]
fn other_scales_lie_on_the_line_through_both() {
    let [given, null] = answers(3);
    for scale in [0.5, 4.0, 8.0] {
        let line = given.clone() * scale + null.clone() * (1.0 - scale);
        assert_close(&format!("scale {scale}"), guided(3, scale), line, 1e-6);
    }
}

#[test]
fn variance_channels_are_the_conditions_at_any_scale() {
    let [given, null] = answers(6);
    for scale in [0.0, 1.0, 8.0] {
        let output = guided(6, scale);
        let variance = given.clone().narrow(1, 3, 3);
        assert_close("variance", output.clone().narrow(1, 3, 3), variance, 0.0);
        let line = given.clone() * scale + null.clone() * (1.0 - scale);
        assert_close("prediction", output.narrow(1, 0, 3), line.narrow(1, 0, 3), 1e-6);
    }
}

#[test]
fn three_branches_are_guided_from_each_to_the_one_before() {
    let device = Device::flex();
    let [c, m, u] = [1, 2, 5].map(|seed| noise::<4>(SHAPE, seed, &device));
    let network =
        |_: Tensor<4>, _: Tensor<1>| Tensor::cat(vec![c.clone(), m.clone(), u.clone()], 0);
    let x_t: Tensor<4> = noise(SHAPE, 3, &device);
    let timesteps = Tensor::from_floats([7.0, 9.0], &device);
    for (text, image) in [(3.0, 2.0), (0.0, 1.5), (1.0, 1.0), (2.0, 2.0)] {
        let guided = ClassifierFree::new(Branched::new(&network, 3), vec![text, image]);
        // InstructPix2Pix, eq. 3
        let want = u.clone() + (m.clone() - u.clone()) * image + (c.clone() - m.clone()) * text;
        let got = guided.forward(x_t.clone(), timesteps.clone());
        assert_close(&format!("{text} {image}"), got, want, 1e-6);
    }
}

/// A gradient in closed form.
trait Guidance<const D: usize> {
    fn gradient(&self, x_t: Tensor<D>, step: &Step) -> Tensor<D>;
}

/// A denoiser that is steered by it.
struct Guided<M, G> {
    inner: M,
    guidance: G,
}

impl<const D: usize, M: Denoiser<D>, G: Guidance<D>> Denoiser<D> for Guided<M, G> {
    fn denoise(&self, x_t: Tensor<D>, step: &Step) -> Prediction<D> {
        let gradient = self.guidance.gradient(x_t.clone(), step);
        self.inner.denoise(x_t, step).steered(gradient)
    }
}

/// A gradient that is the same everywhere.
struct Constant(Tensor<4>);

impl Guidance<4> for Constant {
    fn gradient(&self, _: Tensor<4>, _: &Step) -> Tensor<4> {
        self.0.clone()
    }
}

/// Answers half of x_t.
struct Half;

impl Denoiser<4> for Half {
    fn denoise(&self, x_t: Tensor<4>, _: &Step) -> Prediction<4> {
        Prediction::new(x_t * 0.5)
    }
}

#[test]
fn two_guidances_add_up() {
    let device = Device::flex();
    let [a, b] = [4, 5].map(|seed| noise::<4>(SHAPE, seed, &device));
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
    let x_t: Tensor<4> = noise(SHAPE, 6, &device);
    for index in [0, 500, 900] {
        let step = schedule.step(index);
        let sum = Constant(a.clone() + b.clone());
        let one = Guided { inner: Half, guidance: sum }.denoise(x_t.clone(), &step).gradient;
        let nested = Guided { inner: Half, guidance: Constant(a.clone()) };
        let nested = Guided { inner: nested, guidance: Constant(b.clone()) };
        let nested = nested.denoise(x_t.clone(), &step).gradient;
        let [one, nested] = [one, nested].map(Option::unwrap);
        assert_close(&format!("step {index}"), nested, one, 1e-6);
    }
}

#[test]
fn a_gradient_shifts_the_noise_estimate() {
    // algorithm 2 of Dhariwal & Nichol: epsilon − √(1 − ᾱ)·gradient
    let device = Device::flex();
    let gradient: Tensor<4> = noise(SHAPE, 7, &device);
    let x_t: Tensor<4> = noise(SHAPE, 8, &device);
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
    for index in [100, 500, 900] {
        let step = schedule.step(index);
        let plain = Half.denoise(x_t.clone(), &step).epsilon(x_t.clone(), &step);
        let guided = Guided { inner: Half, guidance: Constant(gradient.clone()) };
        let shifted = guided.denoise(x_t.clone(), &step).guided(&step);
        let shifted = shifted.epsilon(x_t.clone(), &step);
        let want = plain - gradient.clone() * (1.0 - step.alpha_bar).sqrt();
        assert_close(&format!("step {index}"), shifted, want, 1e-5);
    }
}

/// A stage whose network has this variance, and leaves open what [`Gaussian`] does.
fn config(variance: VarianceType) -> DiffusionConfig {
    let training = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
    let left = |timestep| {
        let step = training.step(timestep);
        gain(&step) * (1.0 - step.alpha_bar) / step.alpha_bar.sqrt()
    };
    let uncertainty = Uncertainty::new(Uncertainty::timesteps(1000, 1000).map(left).collect());
    DiffusionConfig {
        variance,
        uncertainty: uncertainty.ok(),
        ..DiffusionConfig::cosine(Parameterization::Sample)
    }
}

/// x_{t−1} at a place of the schedule, with a gradient or without.
fn stepped(
    method: &dyn SamplingMethod,
    variance: VarianceType,
    denoiser: &dyn Denoiser<2>,
    index: usize,
) -> Tensor<2> {
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
    let (mut noise, x_t) = (SeededNoise::new(&[1], 0), noise([1, 16], 9, &Device::flex()));
    let mut reverse = Reverse::new(denoiser, &schedule, index, &mut noise, &[1, 16]);
    method.start(&config(variance).variances()).step(x_t, &mut reverse).x_prev
}

/// Answers a third of x_t, and a variance that differs from value to value.
struct Third;

impl Denoiser<2> for Third {
    fn denoise(&self, x_t: Tensor<2>, _: &Step) -> Prediction<2> {
        let log_variance = Some(x_t.clone() * 0.1 - 4.0);
        Prediction { log_variance, ..Prediction::new(x_t * 0.3) }
    }
}

/// A gradient that is the same everywhere, of rows.
struct Row(Tensor<2>);

impl Guidance<2> for Row {
    fn gradient(&self, _: Tensor<2>, _: &Step) -> Tensor<2> {
        self.0.clone()
    }
}

#[test]
fn ancestral_sampling_moves_its_mean_by_the_variance_times_the_gradient() {
    // algorithm 1 of Dhariwal & Nichol, `condition_mean` of guided-diffusion
    let device = Device::flex();
    let gradient: Tensor<2> = noise([1, 16], 7, &device);
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
    let x_t: Tensor<2> = noise([1, 16], 9, &device);
    for index in [1, 42, 500, 957, 999] {
        let step = schedule.step(index);
        let fixed = |variance: f64| Tensor::<2>::full([1, 16], variance, &device);
        let learned = Third.denoise(x_t.clone(), &step).log_variance.unwrap().exp();
        for (kind, variance) in [
            (VarianceType::FixedSmall, fixed(step.posterior_variance())),
            (VarianceType::FixedLarge, fixed(step.beta)),
            (VarianceType::LearnedRange, learned),
        ] {
            let guided = Guided { inner: Third, guidance: Row(gradient.clone()) };
            let moved = stepped(&Ddpm, kind, &guided, index);
            let plain = stepped(&Ddpm, kind, &Third, index);
            let what = format!("{kind:?} at {index}");
            assert_close(&what, moved, plain + gradient.clone() * variance, 1e-6);
        }
    }
}

#[test]
#[should_panic(expected = "learned variance")]
fn a_learned_variance_that_is_not_there_is_not_replaced_by_another() {
    struct Bare;
    impl Denoiser<2> for Bare {
        fn denoise(&self, x_t: Tensor<2>, _: &Step) -> Prediction<2> {
            Prediction::new(x_t)
        }
    }
    stepped(&Ddpm, VarianceType::Learned, &Bare, 500);
}

/// The best denoiser of data of the normal distribution (0.2, 0.25).
struct Gaussian;

/// dE\[x_0 | x_t\] / dx_t.
fn gain(step: &Step) -> f64 {
    step.alpha_bar.sqrt() * 0.25 / (step.alpha_bar * 0.25 + 1.0 - step.alpha_bar)
}

impl Denoiser<2> for Gaussian {
    fn denoise(&self, x_t: Tensor<2>, step: &Step) -> Prediction<2> {
        Prediction::new((x_t - 0.2 * step.alpha_bar.sqrt()) * gain(step) + 0.2)
    }
}

/// The gradient of ln E\[exp(1.6·x_0) | x_t\]: data times exp(1.6·x) has the mean 0.2 + 1.6·0.25.
struct Tilt;

impl Guidance<2> for Tilt {
    fn gradient(&self, x_t: Tensor<2>, step: &Step) -> Tensor<2> {
        x_t.full_like(1.6 * gain(step))
    }
}

#[test]
fn every_sampler_follows_a_gradient_to_the_distribution_that_it_asks_for() {
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
    let few = |n| schedule.respaced(&Timesteps::evenly_spaced(n, 1000).unwrap()).unwrap();
    let methods: [(&dyn SamplingMethod, usize); 7] = [
        (&Ddpm, 1000),
        (&AnalyticDpm, 1000),
        (&Ddim { eta: 0.0 }, 250),
        (&Ddim { eta: 1.0 }, 250),
        (&DpmSolver { published: false }, 50),
        (&DpmSolver { published: true }, 250),
        (&Heun, 50),
    ];
    for (method, steps) in methods {
        let mut noise = SeededNoise::new(&[3], 0);
        let source: &mut dyn NoiseSource = &mut noise;
        let x_t = source.tensor(Draw::Initial, [1, 10_000], &Device::flex());
        let denoiser = Guided { inner: Gaussian, guidance: Tilt };
        let mut sampler = method.start(&config(VarianceType::FixedSmall).variances());
        let sampled =
            sample(&denoiser, &mut *sampler, &few(steps), x_t, &mut noise, &mut ()).unwrap();
        let mean = sampled.clone().mean().into_scalar::<f32>();
        let variance = (sampled - mean).powf_scalar(2.0).mean().into_scalar::<f32>();
        let what = method.spelling();
        // 10,000 values of variance 0.25 leave a chance of 0.005; steps the rest
        assert!((mean - 0.6).abs() < 0.02, "{what}: mean {mean}");
        assert!((variance - 0.25).abs() < 0.02, "{what}: variance {variance}");
    }
}

#[test]
fn a_pull_never_leads_out_of_the_range_on_whichever_side_of_the_clamp() {
    // a pull toward black, far too strong
    let black = || Row(Tensor::full([1, 16], -30.0, &Device::flex()));
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
    let short = schedule.respaced(&Timesteps::evenly_spaced(25, 1000).unwrap()).unwrap();
    let limit = Some(1.0);
    let outside =
        Guided { inner: Clamped { inner: Gaussian, limit, quantile: None }, guidance: black() };
    let inner = Guided { inner: Gaussian, guidance: black() };
    let inside = Clamped { inner, limit, quantile: None };
    for denoiser in [&outside as &dyn Denoiser<2>, &inside] {
        for method in [&Ddim { eta: 0.0 } as &dyn SamplingMethod, &DpmSolver::default(), &Heun] {
            let (mut noise, x_t) = (SeededNoise::new(&[1], 0), noise([1, 16], 9, &Device::flex()));
            let mut sampler = method.start(&config(VarianceType::FixedSmall).variances());
            let sampled =
                sample(denoiser, &mut *sampler, &short, x_t, &mut noise, &mut ()).unwrap();
            let [low, high] =
                [sampled.clone().min(), sampled.max()].map(|x| x.into_scalar::<f32>());
            assert!(low >= -1.001 && high < -0.9, "{}: {low} to {high}", method.spelling());
        }
    }
}

#[test]
fn three_branches_have_a_scale_each() {
    // eq. 3 of InstructPix2Pix
    let x_t: Tensor<4> = noise(SHAPE, 3, &Device::flex());
    let [given, picture, null] = [1, 2, 3].map(|seed| noise::<4>(SHAPE, seed, &Device::flex()));
    let all = Tensor::cat(vec![given.clone(), picture.clone(), null.clone()], 0);
    let network = |_: Tensor<4>, _: Tensor<1>| all.clone();
    let guided = ClassifierFree::new(Branched::new(network, 3), vec![7.5, 1.5]);
    let timesteps = Tensor::from_floats([7.0, 9.0], &Device::flex());
    let want = null.clone() + (picture.clone() - null) * 1.5 + (given - picture) * 7.5;
    assert_close("three branches", guided.forward(x_t, timesteps), want, 1e-6);
}

#[test]
fn each_step_has_the_denoiser_that_it_should() {
    let is_second = Box::new(|step: &Step| (200..=800).contains(&step.timestep));
    let both = ByStep { first: Third, second: Gaussian, is_second };
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap();
    let x_t: Tensor<2> = noise([1, 16], 9, &Device::flex());
    for index in [0, 199, 200, 800, 801, 999] {
        let step = schedule.step(index);
        let expected: &dyn Denoiser<2> =
            if (200..=800).contains(&index) { &Gaussian } else { &Third };
        let [got, want] =
            [&both as &dyn Denoiser<2>, expected].map(|d| d.denoise(x_t.clone(), &step).x_0);
        assert_close(&format!("step {index}"), got, want, 0.0);
    }
}

/// Half the squared distance from a point, negative: the log-density of a Gaussian around it.
struct Near(Tensor<4>);

impl Score<4> for Near {
    fn score(&self, sample: Tensor<4>, _: &Step) -> Tensor<1> {
        let squares = (sample - self.0.clone()).powf_scalar(2.0);
        let [batch, ..] = squares.dims();
        squares.reshape([batch as i32, -1]).sum_dim(1).reshape([batch]) * -0.5
    }
}

#[test]
fn gradients_of_scores_are_those_of_calculus() {
    let device = Device::flex();
    let x_t: Tensor<4> = noise(SHAPE, 3, &device);
    let [one, other] = [4, 5].map(|seed| noise::<4>(SHAPE, seed, &device));
    let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 100).unwrap();
    let step = schedule.step(60);
    let gradient = |reading: ReadingOf, inner: &dyn Denoiser<4>| {
        let scores: Vec<(Box<dyn Score<4>>, f64)> =
            vec![(Box::new(Near(one.clone())), 2.0), (Box::new(Near(other.clone())), -0.5)];
        let scored = Scored { inner, scores, reading };
        let prediction = scored.denoise(x_t.clone(), &step);
        assert_close("x_0", prediction.x_0, x_t.clone() * 0.5, 1e-6);
        prediction.gradient.unwrap()
    };
    // of 2·Near(one) − Near(other)/2 at x
    let at = |x: Tensor<4>| (one.clone() - x.clone()) * 2.0 - (other.clone() - x) * 0.5;
    let noisy = gradient(ReadingOf::Noisy, &Half);
    assert_close("noisy", noisy, at(x_t.clone()), 1e-5);
    // x_0 is half of x_t
    let half = at(x_t.clone() * 0.5);
    assert_close("denoised", gradient(ReadingOf::Denoised, &Half), half.clone() * 0.5, 1e-5);
    let estimate = half * step.alpha_bar.sqrt();
    assert_close("estimate", gradient(ReadingOf::Estimate, &Half), estimate, 1e-5);
    // what is there already is kept
    let steered = Guided { inner: Half, guidance: Constant(one.clone()) };
    let both = gradient(ReadingOf::Noisy, &steered);
    assert_close("both", both, at(x_t.clone()) + one.clone(), 1e-5);
}

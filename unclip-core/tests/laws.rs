//! Laws that hold for any numbers: schedules, what networks predict, seeds, ways between embeddings,
//! samplers on the exact Gaussian.

use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use unclip_core::{
    BetaSchedule, Ddim, Denoiser, DpmSolver, Draw, Heun, Known, NoiseSchedule, NoiseSource,
    Parameterization, Plms, Prediction, SamplerKind, SeededNoise, Step, Timesteps, normalize,
    sample, slerp,
};

use crate::fixture::noise;

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 64,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn betas() -> impl Strategy<Value = BetaSchedule> {
    let linear = (1e-6..0.01f64, 1.0..3.0f64);
    let linear = linear.prop_map(|(start, by)| BetaSchedule::Linear { start, end: start * by });
    prop_oneof![linear, Just(BetaSchedule::SquaredCosine)]
}

/// A schedule, perhaps of fewer steps than it has timesteps.
fn schedules() -> impl Strategy<Value = NoiseSchedule> {
    (betas(), 2..1000usize, 0.0..1.0f64).prop_filter_map("no such schedule", |(betas, n, share)| {
        let whole = NoiseSchedule::new(betas, n).ok()?;
        let steps = 1 + ((n - 1) as f64 * share) as usize;
        whole.respaced(&Timesteps::evenly_spaced(steps, n).ok()?).ok()
    })
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

/// The largest difference of two tensors.
fn apart<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    values((a - b).abs().max())[0]
}

fn numbers(len: usize) -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-3.0..3.0f32, len)
}

fn row(values: &[f32]) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len()]), &Device::flex())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_schedule_loses_signal_at_every_step(schedule in schedules()) {
        let steps: Vec<Step> = schedule.reverse_steps().collect();
        prop_assert_eq!(steps.len(), schedule.len());
        for step in &steps {
            prop_assert!(0.0 < step.alpha_bar && step.alpha_bar < step.alpha_bar_prev);
            prop_assert!(step.alpha_bar < step.alpha_bar_before);
            prop_assert!(step.alpha_bar_before <= step.alpha_bar_prev && step.alpha_bar_prev <= 1.0);
            prop_assert!(0.0 < step.beta && step.beta < 1.0);
            let kept = step.alpha_bar_prev * (1.0 - step.beta);
            prop_assert!((kept - step.alpha_bar).abs() <= 1e-12, "{kept} and {}", step.alpha_bar);
            prop_assert!((0.0..=step.beta).contains(&step.posterior_variance()));
        }
        for pair in steps.windows(2) {
            prop_assert!(pair[1].timestep < pair[0].timestep);
            prop_assert_eq!(pair[1].alpha_bar, pair[0].alpha_bar_prev);
        }
        prop_assert_eq!(steps.last().map(|step| step.alpha_bar_prev), Some(1.0));
    }

    #[test]
    fn fewer_steps_have_the_noise_of_their_timesteps(
        betas in betas(),
        n in 2..400usize,
        share in 0.0..1.0f64,
    ) {
        let Ok(whole) = NoiseSchedule::new(betas, n) else { return Ok(()) };
        let steps = 1 + ((n - 1) as f64 * share) as usize;
        let fewer = whole.respaced(&Timesteps::evenly_spaced(steps, n).unwrap()).unwrap();
        for step in fewer.reverse_steps() {
            prop_assert_eq!(step.alpha_bar, whole.step(step.timestep).alpha_bar);
        }
    }

    #[test]
    fn what_a_network_should_say_is_read_back(
        schedule in schedules(),
        at in 0.0..1.0f64,
        (x, e) in (numbers(8), numbers(8)),
    ) {
        let index = ((schedule.len() - 1) as f64 * at) as usize;
        let step = schedule.step(index);
        let (x_0, epsilon) = (row(&x), row(&e));
        let x_t = schedule.add_noise(x_0.clone(), epsilon.clone(), &[index]);
        for kind in [Parameterization::Sample, Parameterization::V, Parameterization::Epsilon] {
            let [signal, noise] = [step.alpha_bar, 1.0 - step.alpha_bar]
                .map(|share| Tensor::full([1, 1], share.sqrt(), &Device::flex()));
            let target = kind.target(x_0.clone(), epsilon.clone(), signal, noise);
            let found = kind.x_0(x_t.clone(), target, &step);
            // noise tells little of a sample that it hides
            let tolerance = match kind {
                Parameterization::Epsilon => 1e-5 / step.alpha_bar.sqrt() as f32,
                _ => 1e-5,
            };
            let error = apart(found, x_0.clone());
            prop_assert!(error <= tolerance.max(1e-5) * 4.0, "{kind:?}: {error} at {}", step.alpha_bar);
        }
    }

    #[test]
    fn a_row_has_the_noise_of_its_seed_whatever_the_batch(
        seeds in prop::collection::vec(any::<u64>(), 1..6),
        stream in 0..4u64,
        width in 1..70usize,
    ) {
        let draw = |seeds: &[u64]| {
            let mut noise = SeededNoise::new(seeds, stream);
            let source: &mut dyn NoiseSource = &mut noise;
            let shape = [seeds.len(), width];
            let first = source.tensor::<2>(Draw::Initial, shape, &Device::flex());
            [first, source.tensor::<2>(Draw::Step(3), shape, &Device::flex())]
        };
        let whole = draw(&seeds);
        for (place, seed) in seeds.iter().enumerate() {
            for (whole, alone) in whole.iter().zip(draw(&[*seed])) {
                prop_assert_eq!(values(whole.clone().narrow(0, place, 1)), values(alone));
            }
        }
    }

    #[test]
    fn a_way_has_its_ends_its_length_and_no_direction(
        (a, b) in (numbers(6), numbers(6)),
        t in 0.0..=1.0f64,
    ) {
        let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
        prop_assume!(norm(&a) > 0.1 && norm(&b) > 0.1);
        let (a, b) = (row(&a), row(&b));
        let at = |t| slerp(a.clone(), b.clone(), t).unwrap();
        prop_assert!(apart(at(0.0), a.clone()) < 1e-5 && apart(at(1.0), b.clone()) < 1e-5);
        let back = slerp(b.clone(), a.clone(), 1.0 - t).unwrap();
        prop_assert!(apart(at(t), back) < 2e-4);
        let length = norm(&values(slerp(normalize(a.clone()), normalize(b.clone()), t).unwrap()));
        let opposite = values((normalize(a) * normalize(b)).sum())[0] < -0.99;
        prop_assert!(opposite || (length - 1.0).abs() < 1e-3, "{length}");
    }

    #[test]
    fn what_is_known_is_what_is_predicted(
        (x, known) in (numbers(9), numbers(9)),
        mask in prop::collection::vec(any::<bool>(), 9),
    ) {
        struct Itself;
        impl Denoiser<2> for Itself {
            fn denoise(&self, x_t: Tensor<2>, _: &Step) -> Prediction<2> {
                Prediction::new(x_t)
            }
        }
        let ones: Vec<f32> = mask.iter().map(|&known| f32::from(u8::from(known))).collect();
        let denoiser = Known { inner: Itself, x_0: row(&known), mask: row(&ones) };
        let step = NoiseSchedule::new(BetaSchedule::SquaredCosine, 10).unwrap().step(4);
        let found = values(denoiser.denoise(row(&x), &step).x_0);
        for (place, &is_known) in mask.iter().enumerate() {
            let expected = if is_known { known[place] } else { x[place] };
            prop_assert!((found[place] - expected).abs() < 1e-5);
        }
    }
}

/// Predicts data of one normal distribution exactly.
struct Gaussian {
    mean: f64,
    variance: f64,
}

impl Gaussian {
    fn deviation(&self, step: &Step) -> f64 {
        (step.alpha_bar * self.variance + 1.0 - step.alpha_bar).sqrt()
    }
}

impl Denoiser<2> for Gaussian {
    fn denoise(&self, x_t: Tensor<2>, step: &Step) -> Prediction<2> {
        let signal = step.alpha_bar.sqrt();
        let gain = self.variance * signal / self.deviation(step).powi(2);
        Prediction::new((x_t - self.mean * signal) * gain + self.mean)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..config() })]

    /// The flow of the probabilities keeps a sample's distance from the mean in deviations.
    #[test]
    fn samplers_follow_the_flow_of_the_gaussian(
        mean in -1.0..1.0f64,
        deviation in 0.2..2.0f64,
        seed in any::<u64>(),
    ) {
        let data = Gaussian { mean, variance: deviation * deviation };
        let linear = BetaSchedule::Linear { start: 1e-4, end: 0.02 };
        let whole = NoiseSchedule::new(linear, 1000).unwrap();
        let methods: [(SamplerKind, f32); 4] = [
            (Ddim { eta: 0.0 }.into(), 0.05),
            (DpmSolver { published: false }.into(), 0.02),
            (Heun.into(), 0.02),
            (Plms { velocities: false }.into(), 0.05),
        ];
        for (kind, tolerance) in methods {
            let schedule =
                whole.respaced(&Timesteps::evenly_spaced(200, 1000).unwrap()).unwrap();
            let x_t: Tensor<2> = noise([1, 32], seed % 1000, &Device::flex());
            let noisiest = schedule.step(schedule.len() - 1);
            let away = (x_t.clone() - mean * noisiest.alpha_bar.sqrt()) / data.deviation(&noisiest);
            let expected = away * deviation + mean;
            let variances = unclip_core::DiffusionConfig::cosine(Parameterization::Sample);
            let mut sampler = kind.start(&variances.variances());
            let mut none = SeededNoise::new(&[0], 0);
            let found = sample(&data, &mut *sampler, &schedule, x_t, &mut none, &mut ()).unwrap();
            let error = apart(found, expected);
            prop_assert!(error < tolerance * 3.0, "{kind}: {error} for deviation {deviation}");
        }
    }
}

//! How much a row of a batch counts in training, by how far it is noised.

use serde::{Deserialize, Serialize};

use crate::{InvalidSetting, Parameterization};

/// How much the squared error of each row counts, by its signal-to-noise ratio SNR = ᾱ/(1 − ᾱ).
///
/// An error in x_0 costs its square times SNR if the network predicts epsilon, and times SNR + 1 if
/// it predicts v. With equal weights, nearly clean rows, which teach little, outweigh all others where
/// x_0 is what matters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Weighting {
    /// Every row as much.
    #[default]
    Even,
    /// Rows beyond this ratio count less, so that an error in x_0 costs no more than it does there:
    /// the upper half of [`MinSnr`](Self::MinSnr), which also vanishes where there is only noise; that
    /// is where a small model decides what goes where.
    MaxSnr(f64),
    /// The squared error of x_0 counts min(SNR, γ) (Hang et al. 2023, equation 10; γ = 5 there).
    MinSnr(f64),
    /// The squared error of epsilon counts 1/(k + SNR)^γ (Choi et al. 2022, equation 8; k = 1 there,
    /// and γ is 0.5 or 1).
    P2 {
        /// What keeps nearly pure noise from counting without bound.
        k: f64,
        /// How fast weights fall.
        gamma: f64,
    },
}

impl Weighting {
    /// Checks the constants.
    ///
    /// # Errors
    /// One that is not a positive number.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let check = |name: &str, value| InvalidSetting::check_range(name, value, 1e-6, 1e6);
        match *self {
            Self::Even => Ok(()),
            Self::MaxSnr(limit) => check("weighting.max_snr", limit),
            Self::MinSnr(limit) => check("weighting.min_snr", limit),
            Self::P2 { k, gamma } => {
                check("weighting.p2.k", k)?;
                InvalidSetting::check_range("weighting.p2.gamma", gamma, 0.0, 10.0)
            }
        }
    }

    /// The weight of a squared error at a ratio, for what the network predicts.
    pub fn weight(&self, kind: Parameterization, snr: f64) -> f64 {
        // what the squared error of the prediction is, in squared errors of x_0
        let cost = |snr: f64| match kind {
            Parameterization::Sample => 1.0,
            Parameterization::Epsilon => snr,
            Parameterization::V => snr + 1.0,
        };
        match *self {
            Self::Even => 1.0,
            Self::MaxSnr(limit) if snr > limit => cost(limit) / cost(snr),
            Self::MaxSnr(_) => 1.0,
            Self::MinSnr(limit) => snr.min(limit) / cost(snr).max(f64::MIN_POSITIVE),
            Self::P2 { k, gamma } => snr / cost(snr).max(f64::MIN_POSITIVE) / (k + snr).powf(gamma),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BetaSchedule, NoiseSchedule};

    const KINDS: [Parameterization; 3] =
        [Parameterization::Epsilon, Parameterization::Sample, Parameterization::V];

    fn ratios() -> Vec<f64> {
        let schedule = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).expect("a schedule");
        let ratio = |index| {
            let alpha_bar = schedule.step(index).alpha_bar;
            alpha_bar / (1.0 - alpha_bar)
        };
        (0..1000).map(ratio).collect()
    }

    /// What an error in x_0 costs, whatever is predicted.
    fn cost_of_x_0(weighting: Weighting, kind: Parameterization, snr: f64) -> f64 {
        let cost = match kind {
            Parameterization::Epsilon => snr,
            Parameterization::Sample => 1.0,
            Parameterization::V => snr + 1.0,
        };
        weighting.weight(kind, snr) * cost
    }

    /// For every kind, an error of x_0 costs the same at each ratio beyond the limit, and as much
    /// as ever below it.
    #[test]
    fn nearly_clean_rows_cost_no_more_than_those_at_the_limit() {
        for (kind, snr) in KINDS.iter().flat_map(|kind| ratios().into_iter().map(|it| (*kind, it)))
        {
            let even = cost_of_x_0(Weighting::Even, kind, snr);
            let most = cost_of_x_0(Weighting::Even, kind, 5.0);
            let found = cost_of_x_0(Weighting::MaxSnr(5.0), kind, snr);
            assert!((found / even.min(most) - 1.0).abs() < 1e-9, "{kind:?} {snr}: {found}");
        }
    }

    #[test]
    fn an_error_of_x_0_costs_what_the_papers_say_whatever_is_predicted() {
        for (kind, snr) in KINDS.iter().flat_map(|kind| ratios().into_iter().map(|it| (*kind, it)))
        {
            let min_snr = cost_of_x_0(Weighting::MinSnr(5.0), kind, snr);
            assert!((min_snr / snr.min(5.0) - 1.0).abs() < 1e-9, "{kind:?} {snr}: {min_snr}");
            let p2 = cost_of_x_0(Weighting::P2 { k: 1.0, gamma: 0.5 }, kind, snr);
            let expected = snr / (1.0 + snr).sqrt();
            assert!((p2 / expected - 1.0).abs() < 1e-9, "{kind:?} {snr}: {p2}");
        }
        // values of the cosine schedule that diffusers' training script gives
        let epsilon = Weighting::MinSnr(5.0).weight(Parameterization::Epsilon, ratios()[250]);
        assert!((epsilon - 0.911).abs() < 1e-3, "{epsilon}");
    }

    #[test]
    fn constants_that_mean_nothing_are_refused() {
        for (weighting, name) in [
            (Weighting::MinSnr(0.0), "weighting.min_snr is 0"),
            (Weighting::MaxSnr(f64::NAN), "weighting.max_snr is NaN"),
            (Weighting::P2 { k: -1.0, gamma: 1.0 }, "weighting.p2.k is -1"),
            (Weighting::P2 { k: 1.0, gamma: -0.5 }, "weighting.p2.gamma is -0.5"),
        ] {
            let error = weighting.validate().expect_err("it means nothing").to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}

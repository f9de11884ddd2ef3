//! Which timesteps a sampler visits.

use crate::InvalidSetting;

/// Strictly increasing timesteps of a training schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timesteps(Vec<usize>);

impl Timesteps {
    /// Takes a list as given.
    ///
    /// # Errors
    /// An empty list, or one that is not strictly increasing.
    pub fn new(timesteps: Vec<usize>) -> Result<Self, InvalidSetting> {
        if timesteps.is_empty() || timesteps.windows(2).any(|w| w[0] >= w[1]) {
            return Err(InvalidSetting::new(
                "timesteps",
                format!("{timesteps:?}"),
                "a strictly increasing list of at least one",
            ));
        }
        Ok(Self(timesteps))
    }

    /// `n` timesteps from 0 to `total − 1`, both included, rounded half to even: the spacing of
    /// Karlo and of diffusers' `UnCLIPScheduler`. A single step is the noisiest.
    ///
    /// # Errors
    /// `n` is 0 or larger than `total`.
    pub fn evenly_spaced(n: usize, total: usize) -> Result<Self, InvalidSetting> {
        if n == 0 || n > total {
            return Err(InvalidSetting::new("steps", n, format!("1 to {total}")));
        }
        if n == 1 {
            return Self::new(vec![total - 1]);
        }
        let stride = (total - 1) as f64 / (n - 1) as f64;
        Self::new((0..n).map(|k| (k as f64 * stride).round_ties_even() as usize).collect())
    }

    /// The timesteps, smallest first.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descending(n: usize) -> Vec<usize> {
        let steps = Timesteps::evenly_spaced(n, 1000).unwrap();
        steps.as_slice().iter().rev().copied().collect()
    }

    #[test]
    fn seven_steps_are_karlos() {
        assert_eq!(descending(7), [999, 832, 666, 500, 333, 166, 0]);
    }

    #[test]
    fn twenty_five_steps_are_karlos() {
        let expected = [
            999, 957, 916, 874, 832, 791, 749, 708, 666, 624, 583, 541, 500, 458, 416, 375, 333,
            291, 250, 208, 166, 125, 83, 42, 0,
        ];
        assert_eq!(descending(25), expected);
    }

    #[test]
    fn every_count_is_possible_up_to_the_total() {
        for n in 1..=1000 {
            assert_eq!(Timesteps::evenly_spaced(n, 1000).unwrap().as_slice().len(), n);
        }
        assert_eq!(descending(1), [999]);
    }

    #[test]
    fn none_and_too_many_are_refused() {
        let error = Timesteps::evenly_spaced(0, 1000).unwrap_err();
        assert_eq!(error.to_string(), "steps is 0, expected 1 to 1000");
        assert!(Timesteps::evenly_spaced(1001, 1000).is_err());
        assert!(Timesteps::new(vec![3, 3]).is_err());
        assert!(Timesteps::new(vec![]).is_err());
    }
}

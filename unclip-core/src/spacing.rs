//! How the timesteps that a sampler visits are chosen.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{InvalidSetting, NoiseSchedule, Timesteps};

/// A rule that picks timesteps of a training schedule. Options and configurations spell it by the
/// names below.
///
/// # Example
/// ```
/// use unclip_core::{BetaSchedule, NoiseSchedule, Spacing};
///
/// let training = NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000)?;
/// let spacing: Spacing = "trailing".parse()?;
/// assert_eq!(spacing.timesteps(4, &training)?.as_slice(), [249, 499, 749, 999]);
/// # Ok::<(), unclip_core::InvalidSetting>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Spacing {
    /// `even`: from the first timestep to the last, both included (Karlo; diffusers'
    /// `UnCLIPScheduler`, and its `linspace`).
    #[default]
    Even,
    /// `leading`, or `leading:1` with an offset: every k-th timestep from the offset on, which
    /// leaves out the noisiest (diffusers' `leading`; Stable Diffusion's offset is 1).
    Leading {
        /// The first timestep.
        offset: usize,
    },
    /// `trailing`: every k-th timestep down from the last (diffusers' `trailing`).
    Trailing,
    /// `between`: evenly between the first timestep and the end of the schedule, both left out, cut
    /// to whole numbers; `between:-1`, between that before the first and the end (decoder and prior of
    /// DALLE2-pytorch).
    Between {
        /// Whether the timestep before the first is left out, instead of the first.
        with_first: bool,
    },
    /// `log_snr`: evenly in the logarithm of the signal-to-noise ratio, as DPM-Solver++ assumes.
    LogSnr,
    /// `10,10,3,2,2`: the schedule in that many parts of equal length, cleanest first, with that
    /// many even steps in each (Improved DDPM; these are the 27 steps of the paper's upsamplers,
    /// and its decoder's steps were found by such a search too).
    Sections(Vec<usize>),
    /// `at:0,250,999`: these timesteps.
    Given(Vec<usize>),
}

impl Spacing {
    /// The spellings, for help texts and errors.
    pub const SPELLINGS: &str = "even, leading, leading:OFFSET, trailing, between, between:-1, \
         log_snr, steps of each part as in 10,10,3,2,2, or timesteps as in at:0,250,999";

    /// The number of steps, if the rule itself determines it.
    pub fn steps(&self) -> Option<usize> {
        match self {
            Self::Sections(counts) => Some(counts.iter().fold(0, |sum, n| sum.saturating_add(*n))),
            Self::Given(timesteps) => Some(timesteps.len()),
            _ => None,
        }
    }

    /// Whether this is the default.
    pub fn is_even(&self) -> bool {
        *self == Self::Even
    }

    /// Picks `steps` timesteps of a whole training schedule.
    ///
    /// # Errors
    /// 0 steps, or more than the schedule has; a number that contradicts the rule; timesteps that
    /// the schedule does not have, or that are not strictly increasing.
    pub fn timesteps(
        &self,
        steps: usize,
        training: &NoiseSchedule,
    ) -> Result<Timesteps, InvalidSetting> {
        let total = training.len();
        if let Some(n) = self.steps().filter(|n| *n != steps) {
            return Err(InvalidSetting::new("steps", steps, format!("{n}, with spacing {self}")));
        }
        if steps == 0 || steps > total {
            return Err(InvalidSetting::new("steps", steps, format!("1 to {total}")));
        }
        match self {
            Self::Even => Timesteps::evenly_spaced(steps, total),
            Self::Leading { offset } => leading(steps, total, *offset),
            Self::Trailing => Timesteps::new(trailing(steps, total)),
            Self::Between { with_first } => between(steps, total, *with_first),
            Self::LogSnr => Timesteps::new(even_in_log_snr(steps, training)),
            Self::Sections(counts) => sections(counts, total),
            Self::Given(timesteps) => {
                let last = timesteps.iter().max().copied().unwrap_or(0);
                if last >= total {
                    let expected = format!("timesteps less than {total}");
                    return Err(InvalidSetting::new("spacing", self, expected));
                }
                Timesteps::new(timesteps.clone())
            }
        }
    }
}

fn leading(steps: usize, total: usize, offset: usize) -> Result<Timesteps, InvalidSetting> {
    let stride = total / steps;
    let last = offset.saturating_add((steps - 1) * stride);
    if last >= total {
        let most = total - 1 - (steps - 1) * stride;
        let expected = format!("an offset of at most {most}, with {steps} steps");
        return Err(InvalidSetting::new("spacing", Spacing::Leading { offset }, expected));
    }
    Timesteps::new((0..steps).map(|k| offset + k * stride).collect())
}

fn trailing(steps: usize, total: usize) -> Vec<usize> {
    let stride = total as f64 / steps as f64;
    let down = (0..steps).map(|k| (total as f64 - k as f64 * stride).round_ties_even());
    let mut timesteps: Vec<usize> = down.map(|t| (t as usize).saturating_sub(1)).collect();
    timesteps.reverse();
    timesteps
}

/// The inner points of PyTorch's `linspace` in f32, which adds steps to the start up to the middle, and
/// takes them off the end beyond it.
fn between(steps: usize, total: usize, with_first: bool) -> Result<Timesteps, InvalidSetting> {
    let (start, end) = (if with_first { -1.0 } else { 0.0 }, total as f64);
    let points = steps + 2;
    let stride = f64::from((end - start) as f32 / (points - 1) as f32);
    let place = |k: usize| {
        let exact = if k < points / 2 {
            start + stride * k as f64
        } else {
            end - stride * (points - 1 - k) as f64
        };
        exact as f32 as usize
    };
    Timesteps::new((1..=steps).map(place).collect())
}

/// From the last timestep to the first in even steps of λ, each the nearest that is still free.
fn even_in_log_snr(steps: usize, training: &NoiseSchedule) -> Vec<usize> {
    let last = training.len() - 1;
    if steps == 1 {
        return vec![last];
    }
    let lambdas: Vec<f64> = training.alpha_bars().iter().map(|a| (a / (1.0 - a)).ln()).collect();
    let (clean, noisy) = (lambdas[0], lambdas[last]);
    let mut timesteps = Vec::with_capacity(steps);
    for k in 0..steps {
        let wanted = clean + (noisy - clean) * k as f64 / (steps - 1) as f64;
        // λ falls with the timestep
        let after = lambdas.partition_point(|lambda| *lambda > wanted).min(last);
        let before = after.saturating_sub(1);
        let is_nearer = wanted - lambdas[after] > lambdas[before] - wanted;
        let nearest = if is_nearer { before } else { after };
        let first_free = timesteps.last().map_or(0, |t| t + 1);
        timesteps.push(nearest.clamp(first_free, last + 1 + k - steps));
    }
    timesteps
}

/// guided-diffusion's `space_timesteps`.
fn sections(counts: &[usize], total: usize) -> Result<Timesteps, InvalidSetting> {
    let (size, longer) = (total / counts.len(), total % counts.len());
    let (mut start, mut timesteps) = (0, Vec::new());
    for (part, &count) in counts.iter().enumerate() {
        let size = size + usize::from(part < longer);
        if count == 0 || count > size {
            let expected = format!("1 to {size} steps in part {}", part + 1);
            let found = Spacing::Sections(counts.to_vec());
            return Err(InvalidSetting::new("spacing", found, expected));
        }
        let stride = if count == 1 { 1.0 } else { (size - 1) as f64 / (count - 1) as f64 };
        // the reference adds up, which may round otherwise than multiplying
        let mut place = 0.0_f64;
        for _ in 0..count {
            timesteps.push(start + place.round_ties_even() as usize);
            place += stride;
        }
        start += size;
    }
    Timesteps::new(timesteps)
}

impl fmt::Display for Spacing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        match self {
            Self::Even => f.write_str("even"),
            Self::Leading { offset: 0 } => f.write_str("leading"),
            Self::Leading { offset } => write!(f, "leading:{offset}"),
            Self::Trailing => f.write_str("trailing"),
            Self::Between { with_first: false } => f.write_str("between"),
            Self::Between { with_first: true } => f.write_str("between:-1"),
            Self::LogSnr => f.write_str("log_snr"),
            Self::Sections(counts) => f.write_str(&list(counts)),
            Self::Given(timesteps) => write!(f, "at:{}", list(timesteps)),
        }
    }
}

impl std::str::FromStr for Spacing {
    type Err = InvalidSetting;

    fn from_str(spelling: &str) -> Result<Self, InvalidSetting> {
        let refused = || InvalidSetting::new("spacing", format!("{spelling:?}"), Self::SPELLINGS);
        let list = |numbers: &str| -> Result<Vec<usize>, InvalidSetting> {
            numbers.split(',').map(|n| n.trim().parse().map_err(|_| refused())).collect()
        };
        match spelling.split_once(':') {
            Some(("at", timesteps)) => Ok(Self::Given(list(timesteps)?)),
            Some(("leading", offset)) => {
                Ok(Self::Leading { offset: offset.parse().map_err(|_| refused())? })
            }
            Some(("between", "-1")) => Ok(Self::Between { with_first: true }),
            Some(_) => Err(refused()),
            None => match spelling {
                "even" => Ok(Self::Even),
                "leading" => Ok(Self::Leading { offset: 0 }),
                "trailing" => Ok(Self::Trailing),
                "between" => Ok(Self::Between { with_first: false }),
                "log_snr" => Ok(Self::LogSnr),
                counts => Ok(Self::Sections(list(counts)?)),
            },
        }
    }
}

spelled!(Spacing);

/// Noise levels from one training timestep to another, both included: where guidance acts. Options
/// spell it `200..800`.
///
/// Guidance at the noisiest levels costs variety, and at the cleanest it does nothing
/// (Kynkäänniemi et al. 2024).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimestepRange {
    /// The cleanest.
    pub from: usize,
    /// The noisiest.
    pub to: usize,
}

impl TimestepRange {
    /// Whether a timestep is in the range.
    pub fn contains(&self, timestep: usize) -> bool {
        (self.from..=self.to).contains(&timestep)
    }
}

impl fmt::Display for TimestepRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.from, self.to)
    }
}

impl std::str::FromStr for TimestepRange {
    type Err = InvalidSetting;

    fn from_str(spelling: &str) -> Result<Self, InvalidSetting> {
        let range = spelling.split_once("..").and_then(|(from, to)| {
            Some(Self { from: from.trim().parse().ok()?, to: to.trim().parse().ok()? })
        });
        range.filter(|range| range.from <= range.to).ok_or_else(|| {
            let expected = "two timesteps of the training schedule, as in 200..800";
            InvalidSetting::new("range of timesteps", format!("{spelling:?}"), expected)
        })
    }
}

spelled!(TimestepRange);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BetaSchedule;

    fn training() -> NoiseSchedule {
        NoiseSchedule::new(BetaSchedule::SquaredCosine, 1000).unwrap()
    }

    fn timesteps(spacing: &str, steps: usize) -> Vec<usize> {
        let spacing: Spacing = spacing.parse().unwrap();
        spacing.timesteps(steps, &training()).unwrap().as_slice().to_vec()
    }

    fn refused(spacing: &str, steps: usize) -> String {
        let spacing: Spacing = spacing.parse().unwrap();
        spacing.timesteps(steps, &training()).unwrap_err().to_string()
    }

    #[test]
    fn rules_of_diffusers() {
        assert_eq!(timesteps("leading", 4), [0, 250, 500, 750]);
        assert_eq!(timesteps("leading:1", 4), [1, 251, 501, 751]);
        assert_eq!(timesteps("trailing", 4), [249, 499, 749, 999]);
        assert_eq!(timesteps("trailing", 3), [332, 666, 999]);
        assert_eq!(timesteps("even", 3), [0, 500, 999]);
    }

    #[test]
    fn rules_of_dalle2_pytorch() {
        // torch.linspace(0., 1000, steps = n + 2)[1:-1].int(), and of -1.
        assert_eq!(timesteps("between", 4), [200, 400, 600, 800]);
        assert_eq!(timesteps("between:-1", 4), [199, 399, 599, 799]);
        assert_eq!(timesteps("between:-1", 63)[..4], [14, 30, 45, 61]);
        assert_eq!(timesteps("between:-1", 385)[24..26], [63, 66]);
        assert_eq!(timesteps("between", 999), (1..1000).collect::<Vec<_>>());
        assert_eq!(timesteps("between:-1", 1000), (0..1000).collect::<Vec<_>>());
        // the sum over all counts, which any point that is cut otherwise changes
        let sum = |spacing| -> usize {
            (1..1000).map(|n| timesteps(spacing, n).iter().sum::<usize>()).sum()
        };
        assert_eq!(sum("between"), 249_503_853);
        assert_eq!(sum("between:-1"), 249_252_804);
    }

    #[test]
    fn the_papers_27_steps() {
        // guided_diffusion.respace.space_timesteps(1000, "10,10,3,2,2")
        let expected = [
            0, 22, 44, 66, 88, 111, 133, 155, 177, 199, 200, 222, 244, 266, 288, 311, 333, 355,
            377, 399, 400, 500, 599, 600, 799, 800, 999,
        ];
        assert_eq!(timesteps("10,10,3,2,2", 27), expected);
        assert_eq!(timesteps("1,1", 2), [0, 500]);
    }

    #[test]
    fn even_steps_of_lambda_are_even() {
        let training = training();
        for steps in [2, 10, 25] {
            let timesteps = timesteps("log_snr", steps);
            assert_eq!((timesteps[0], timesteps[steps - 1]), (0, 999));
            let lambda = |t: usize| {
                let a = training.alpha_bars()[t];
                (a / (1.0 - a)).ln()
            };
            let gap = (lambda(0) - lambda(999)) / (steps - 1) as f64;
            // the last timesteps of this schedule are more than a step apart
            for pair in timesteps.windows(2).filter(|pair| pair[1] < 900 && pair[0] > 30) {
                let found = lambda(pair[0]) - lambda(pair[1]);
                assert!((found / gap - 1.0).abs() < 0.15, "{pair:?}: {found}, not {gap}");
            }
        }
    }

    #[test]
    fn every_count_is_possible_up_to_the_total() {
        for spacing in ["even", "leading", "trailing", "between", "between:-1", "log_snr"] {
            for steps in (1..=1000).step_by(37).chain([999, 1000]) {
                assert_eq!(timesteps(spacing, steps).len(), steps, "{spacing}");
            }
            assert_eq!(refused(spacing, 0), "steps is 0, expected 1 to 1000");
            assert_eq!(refused(spacing, 1001), "steps is 1001, expected 1 to 1000");
        }
    }

    #[test]
    fn spellings_are_read_back_and_others_refused() {
        for spelling in [
            "even",
            "leading",
            "leading:1",
            "trailing",
            "between",
            "between:-1",
            "log_snr",
            "10,10,3,2,2",
            "at:0,250,999",
        ] {
            let spacing: Spacing = spelling.parse().unwrap();
            assert_eq!(spacing.to_string(), spelling);
            let json = serde_json::to_string(&spacing).unwrap();
            assert_eq!(serde_json::from_str::<Spacing>(&json).unwrap(), spacing);
        }
        for spelling in ["", "evenly", "leading:x", "at:", "1,,2", "-3", "even:2"] {
            let error = spelling.parse::<Spacing>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("spacing is {spelling:?}, expected even")),
                "{error}"
            );
        }
    }

    #[test]
    fn what_a_rule_contradicts_is_refused() {
        assert_eq!(refused("10,10", 25), "steps is 25, expected 20, with spacing 10,10");
        let expected = "spacing is 10,0, expected 1 to 500 steps in part 2";
        assert_eq!(refused("10,0", 10), expected);
        let expected = "spacing is 501,1, expected 1 to 500 steps in part 1";
        assert_eq!(refused("501,1", 502), expected);
        let expected = "spacing is at:0,1000, expected timesteps less than 1000";
        assert_eq!(refused("at:0,1000", 2), expected);
        assert!(refused("at:5,5", 2).starts_with("timesteps is [5, 5], expected a strictly"));
        let expected = "spacing is leading:100, expected an offset of at most 99, with 10 steps";
        assert_eq!(refused("leading:100", 10), expected);
    }

    #[test]
    fn ranges_are_read_back_and_others_refused() {
        let range: TimestepRange = "200..800".parse().unwrap();
        assert_eq!(range.to_string(), "200..800");
        assert!(range.contains(200) && range.contains(800));
        assert!(!range.contains(199) && !range.contains(801));
        for spelling in ["", "200", "800..200", "a..b", "-1..5", "1..2..3"] {
            let error = spelling.parse::<TimestepRange>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("range of timesteps is {spelling:?}")), "{error}");
        }
    }
}

//! Sampling with a part that stays as it is.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::method::Sampler;
use super::walk::{KeptRows, Move, Walk, as_rows};
use crate::{Denoiser, Interrupted, InvalidSetting, NoiseSchedule, NoiseSource, Observer};

/// What of a sample stays as it is.
#[derive(Debug, Clone)]
pub struct Kept<const D: usize> {
    /// The clean sample, `[batch, ..]`.
    pub x_0: Tensor<D>,
    /// 1 where it stays, 0 where something else is drawn: of the same shape.
    pub mask: Tensor<D>,
    /// The noise that it has at every level, of the same shape; drawn anew at each if absent.
    pub noise: Option<Tensor<D>>,
}

/// How often a walk goes back to noise, so that what is drawn and what is kept find together
/// (RePaint, Lugmayr et al. 2022): after every `jump` steps noise is added again for as many, in
/// all `times` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resampling {
    /// Steps of a jump.
    pub jump: usize,
    /// How often each stretch is walked; 1 never goes back.
    pub times: usize,
}

impl Default for Resampling {
    /// Jumps of 5 steps, each stretch 4 times: 85 calls for 25 steps.
    fn default() -> Self {
        Self { jump: 5, times: 4 }
    }
}

impl Resampling {
    /// One way down, which never goes back.
    pub const NONE: Self = Self { jump: 1, times: 1 };

    /// Checks that a walk comes to an end.
    ///
    /// # Errors
    /// A jump of no step; more than 1,000 times, or none.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        if self.jump == 0 {
            return Err(InvalidSetting::new("jump of the resampling", 0, "at least 1 step"));
        }
        if !(1..=1000).contains(&self.times) {
            return Err(InvalidSetting::new("times of the resampling", self.times, "1 to 1000"));
        }
        Ok(())
    }

    /// Calls of the denoiser over a schedule of `n` steps.
    pub fn calls(&self, n: usize) -> usize {
        self.moves(n).iter().filter(|it| matches!(it, Move::Down(_))).count()
    }

    /// The walk over `n` levels, as RePaint has it: it turns back at every multiple of the jump
    /// that has a whole jump above it.
    fn moves(&self, n: usize) -> Vec<Move> {
        // what `validate` refuses is walked as its nearest that has an end
        let (jump, times) = (self.jump.max(1), self.times.max(1));
        let mut left = vec![0; n];
        (0..n.saturating_sub(jump)).step_by(jump).for_each(|level| left[level] = times - 1);
        let (mut level, mut moves) = (n, Vec::new());
        while level > 0 {
            level -= 1;
            if left[level] > 0 {
                left[level] -= 1;
                moves.extend((level + 1..=level + jump).map(Move::Up));
                level += jump;
            }
            moves.push(Move::Down(level));
        }
        moves
    }
}

/// As [`sample`](crate::sample), with a part that stays as it is: after each step it is put in
/// again, as noisy as the sample is there, and clean after the last.
///
/// The sampler must not remember steps, which noise undoes here: [`Ddpm`](crate::Ddpm) and
/// [`Ddim`](crate::Ddim) do not. The observer hears of every call of the denoiser
/// ([`Resampling::calls`]).
///
/// # Shapes
/// - `x_t`, `kept`, result: `[batch, ..]`
///
/// # Errors
/// [`Interrupted`] when the observer asked to stop.
pub fn inpaint<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    sampler: &mut dyn Sampler,
    (schedule, resampling): (&NoiseSchedule, Resampling),
    x_t: Tensor<D>,
    kept: &Kept<D>,
    noise: &mut dyn NoiseSource,
    observer: &mut dyn Observer<D>,
) -> Result<Tensor<D>, Interrupted> {
    let kept = KeptRows {
        x_0: as_rows(kept.x_0.clone()),
        mask: as_rows(kept.mask.clone()),
        noise: kept.noise.clone().map(as_rows),
    };
    let walk = Walk { schedule, moves: resampling.moves(schedule.len()), kept: Some(kept) };
    walk.go(denoiser, sampler, x_t, noise, observer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_cost_what_repaint_says() {
        let calls = |n, jump, times| Resampling { jump, times }.calls(n);
        // network evaluations of the paper's settings and of smaller ones
        for (n, jump, times, expected) in [
            (250, 10, 10, 2410),
            (250, 10, 5, 1210),
            (100, 10, 10, 910),
            (50, 5, 5, 230),
            (25, 5, 10, 205),
            (25, 5, 4, 85),
            (25, 5, 1, 25),
            (3, 5, 4, 3),
        ] {
            assert_eq!(calls(n, jump, times), expected, "{n} {jump} {times}");
        }
    }

    #[test]
    fn a_walk_goes_back_as_far_as_it_came() {
        let moves = Resampling { jump: 2, times: 2 }.moves(4);
        use Move::{Down, Up};
        let expected = [Down(3), Down(2), Down(1), Up(1), Up(2), Down(2), Down(1), Down(0)];
        assert_eq!(moves, expected);
    }
}

//! A deterministic sampler that looks back three steps.

use burn::tensor::Tensor;

use super::method::{Known, Reverse, Sampler, SamplerKind, SamplingMethod, Stepped};
use crate::{InvalidSetting, Parameterization, Prediction, Step, Variances};

pub(super) const KNOWN: Known = Known {
    spellings: "plms or plms:v",
    names: &["plms", "pndm"],
    parse: |parameter| parse(parameter),
};

/// PLMS (Liu et al. 2022, "Pseudo Numerical Methods for Diffusion Models", without its Runge-Kutta
/// steps, as Stable Diffusion has it): DDIM's step by a mean of the last four predictions
/// (Adams-Bashforth). The first step looks ahead, which is one network call more.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plms {
    /// Whether the mean is one of velocities instead of noise estimates: what diffusers' PNDM does
    /// for networks that predict v, though its error then falls as slowly as DDIM's.
    pub velocities: bool,
}

fn parse(parameter: Option<&str>) -> Result<SamplerKind, InvalidSetting> {
    match parameter {
        None => Ok(Plms { velocities: false }.into()),
        Some("v") => Ok(Plms { velocities: true }.into()),
        Some(found) => {
            Err(InvalidSetting::new("parameter of the sampler plms", found, "v, or none"))
        }
    }
}

impl SamplingMethod for Plms {
    fn spelling(&self) -> String {
        if self.velocities { "plms:v".into() } else { "plms".into() }
    }

    fn draws_noise(&self) -> bool {
        false
    }

    fn start(&self, _: &Variances<'_>) -> Box<dyn Sampler> {
        let of = if self.velocities { Parameterization::V } else { Parameterization::Epsilon };
        Box::new(Multistep { of, past: Vec::new() })
    }
}

struct Multistep {
    /// What is averaged.
    of: Parameterization,
    /// The last predictions, at most three, the latest last.
    past: Vec<Tensor<2>>,
}

impl Multistep {
    /// A prediction as what is averaged.
    fn averaged(&self, prediction: &Prediction<2>, x_t: &Tensor<2>, step: &Step) -> Tensor<2> {
        let epsilon = prediction.epsilon(x_t.clone(), step);
        match self.of {
            Parameterization::V => {
                epsilon * step.alpha_bar.sqrt()
                    - prediction.x_0.clone() * (1.0 - step.alpha_bar).sqrt()
            }
            _ => epsilon,
        }
    }

    /// DDIM's step by what was averaged.
    fn moved(&self, x_t: &Tensor<2>, output: Tensor<2>, step: &Step) -> Tensor<2> {
        let prediction = Prediction::new(self.of.x_0(x_t.clone(), output, step));
        let epsilon = prediction.epsilon(x_t.clone(), step);
        prediction.at(epsilon, step.alpha_bar_prev)
    }

    /// The mean of the first step: of this prediction and that at its end.
    fn looking_ahead(
        &self,
        output: &Tensor<2>,
        x_t: &Tensor<2>,
        reverse: &Reverse<'_>,
    ) -> Tensor<2> {
        let Some(next) = reverse.next else { return output.clone() };
        let ahead = self.moved(x_t, output.clone(), &reverse.step);
        let prediction = reverse.denoise(ahead.clone(), &next).guided(&next);
        (output.clone() + self.averaged(&prediction, &ahead, &next)) / 2.0
    }
}

/// Weights of the Adams-Bashforth methods of second to fourth order, the latest prediction first.
const WEIGHTS: [&[f64]; 3] = [
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

impl Sampler for Multistep {
    fn step(&mut self, x_t: Tensor<2>, reverse: &mut Reverse<'_>) -> Stepped {
        let step = reverse.step;
        let prediction = reverse.denoise(x_t.clone(), &step).guided(&step);
        let output = self.averaged(&prediction, &x_t, &step);
        let mean = match self.past.len() {
            0 => self.looking_ahead(&output, &x_t, reverse),
            known => {
                let weights = WEIGHTS[known - 1];
                let past = self.past.iter().rev().zip(&weights[1..]);
                past.fold(output.clone() * weights[0], |sum, (past, &weight)| {
                    sum + past.clone() * weight
                })
            }
        };
        self.past.push(output);
        if self.past.len() > WEIGHTS.len() {
            self.past.remove(0);
        }
        Stepped { x_prev: self.moved(&x_t, mean, &step), x_0: prediction.x_0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A method of order p is exact for polynomials below p: the weights sum to 1, and their moments
    /// are those of the step.
    #[test]
    fn weights_are_those_of_adams_and_bashforth() {
        for weights in WEIGHTS {
            for power in 0..weights.len() as i32 {
                let at = |k: usize| (-(k as f64)).powi(power);
                let found: f64 = weights.iter().enumerate().map(|(k, w)| w * at(k)).sum();
                assert!((found - 1.0 / f64::from(power + 1)).abs() < 1e-12, "{weights:?} {power}");
            }
        }
    }
}

//! The one reverse loop, and which methods there are. Each is a file.

mod invert;
mod method;

use burn::tensor::Tensor;

use crate::{
    Denoiser, Interrupted, InvalidSetting, NoiseSchedule, NoiseSource, Observer, Prediction, Step,
    StepEvent,
};
use method::Known;

pub(crate) use ddpm::posterior_mean;
pub use invert::invert;
pub use method::{Reverse, Sampler, SamplerKind, SamplingMethod, Stepped};

/// A file for each method, with its type and a `KNOWN`: the one line that a new method needs.
macro_rules! methods {
    ($($file:ident::$Method:ident),*) => {
        $(mod $file; pub use $file::$Method;)*
        const METHODS: &[Known] = &[$($file::KNOWN),*];
    };
}

methods!(ddpm::Ddpm, ddim::Ddim, dpm_solver::DpmSolver, heun::Heun);

spelled!(SamplerKind);

impl std::str::FromStr for SamplerKind {
    type Err = InvalidSetting;

    fn from_str(spelling: &str) -> Result<Self, InvalidSetting> {
        let (name, parameter) = match spelling.split_once(':') {
            Some((name, parameter)) => (name, Some(parameter)),
            None => (spelling, None),
        };
        let name = name.to_ascii_lowercase().replace([' ', '-'], "_");
        match METHODS.iter().find(|known| known.names.contains(&name.as_str())) {
            Some(known) => (known.parse)(parameter),
            None => {
                let known: Vec<_> = METHODS.iter().map(|known| known.spellings).collect();
                Err(InvalidSetting::new("sampler", spelling, known.join(", ")))
            }
        }
    }
}

/// Walks a schedule from its noisiest step to its cleanest and returns the sample.
///
/// `x_t` is the start: pure noise, or an encoded sample. [`NoiseSchedule::cleanest`] starts the walk
/// further down. After every step the observer hears of it and may stop the loop.
///
/// # Shapes
/// - `x_t`, result: `[batch, ..]`
///
/// # Errors
/// [`Interrupted`] when the observer asked to stop.
pub fn sample<const D: usize>(
    denoiser: &dyn Denoiser<D>,
    sampler: &mut dyn Sampler,
    schedule: &NoiseSchedule,
    x_t: Tensor<D>,
    noise: &mut dyn NoiseSource,
    observer: &mut dyn Observer<D>,
) -> Result<Tensor<D>, Interrupted> {
    let (total, shape) = (schedule.len(), x_t.dims());
    let rows = Rows { denoiser, shape };
    let mut x_t = as_rows(x_t);
    for (done, step) in schedule.reverse_steps().enumerate() {
        let mut reverse = Reverse::new(&rows, schedule, step.index, noise, &shape);
        let Stepped { x_prev, x_0 } = sampler.step(x_t, &mut reverse);
        x_t = x_prev;
        let x_0 = &x_0.reshape(shape);
        let event = StepEvent { index: done, total, timestep: step.timestep, x_0 };
        if observer.on_step(event).is_break() {
            return Err(Interrupted { done: done + 1, total });
        }
    }
    Ok(x_t.reshape(shape))
}

/// A denoiser of samples of any shape, as samplers see it.
struct Rows<'a, const D: usize> {
    denoiser: &'a dyn Denoiser<D>,
    shape: [usize; D],
}

impl<const D: usize> Denoiser<2> for Rows<'_, D> {
    fn denoise(&self, x_t: Tensor<2>, step: &Step) -> Prediction<2> {
        let Prediction { x_0, log_variance, gradient, limit } =
            self.denoiser.denoise(x_t.reshape(self.shape), step);
        Prediction {
            x_0: as_rows(x_0),
            log_variance: log_variance.map(as_rows),
            gradient: gradient.map(as_rows),
            limit,
        }
    }
}

fn as_rows<const D: usize>(x: Tensor<D>) -> Tensor<2> {
    let batch = x.dims()[0];
    let values = x.shape().num_elements() / batch;
    x.reshape([batch, values])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read_back() {
        for name in
            ["ddpm", "ddim", "ddim:0.5", "ddim:1", "dpm_solver", "dpm_solver:published", "heun"]
        {
            let kind: SamplerKind = name.parse().unwrap();
            assert_eq!(kind.to_string(), name);
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("{name:?}"));
            assert_eq!(serde_json::from_str::<SamplerKind>(&json).unwrap(), kind);
        }
        assert_eq!("ddim:0".parse::<SamplerKind>().unwrap().to_string(), "ddim");
        for (name, here) in
            [("DDIM", "ddim"), ("DPM++ 2M", "dpm_solver"), ("dpmpp-2m", "dpm_solver")]
        {
            assert_eq!(name.parse::<SamplerKind>().unwrap().to_string(), here);
        }
    }

    #[test]
    fn others_are_refused_by_name() {
        let refused = |name: &str| name.parse::<SamplerKind>().unwrap_err().to_string();
        let expected = "sampler is euler, expected ddpm, ddim or ddim:ETA, dpm_solver or \
                        dpm_solver:published, heun";
        assert_eq!(refused("euler"), expected);
        let expected = "parameter of the sampler ddpm is 2, expected none: it takes no parameter";
        assert_eq!(refused("ddpm:2"), expected);
        let expected = "eta of the sampler ddim is 1.5, expected a number from 0 to 1";
        assert_eq!(refused("ddim:1.5"), expected);
        for eta in ["", "x", "NaN", "-1"] {
            assert!(refused(&format!("ddim:{eta}")).starts_with("eta of the sampler ddim is"));
        }
    }
}

//! Which sampling methods there are, each in its own file.

mod inpaint;
mod invert;
mod method;
mod walk;

use crate::InvalidSetting;
use method::Known;

pub use belm::{ExactStart, invert_exactly};
pub(crate) use ddpm::posterior_mean;
pub use inpaint::{Kept, Resampling, inpaint};
pub use invert::invert;
pub use method::{Reverse, Sampler, SamplerKind, SamplingMethod, Stepped};
pub use walk::sample;

/// A file for each method, with its type and a `KNOWN`: the one line that a new method needs.
macro_rules! methods {
    ($($file:ident::$Method:ident),*) => {
        $(mod $file; pub use $file::$Method;)*
        const METHODS: &[Known] = &[$($file::KNOWN),*];
    };
}

methods!(
    ddpm::Ddpm,
    analytic_dpm::AnalyticDpm,
    ddim::Ddim,
    early_ddim::EarlyDdim,
    dpm_solver::DpmSolver,
    heun::Heun,
    plms::Plms,
    belm::Belm
);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read_back() {
        for name in [
            "ddpm",
            "analytic_dpm",
            "ddim",
            "ddim:0.5",
            "ddim:1",
            "early_ddim",
            "early_ddim:1",
            "dpm_solver",
            "dpm_solver:published",
            "heun",
            "plms",
            "plms:v",
            "belm",
        ] {
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
        let expected = "sampler is euler, expected ddpm, analytic_dpm, ddim or ddim:ETA, early_ddim or \
                        early_ddim:ETA, dpm_solver or dpm_solver:published, heun, plms or plms:v, belm";
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
